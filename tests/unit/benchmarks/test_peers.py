"""The peers' benchmark: its table and ratios, and that a peer's device learns what ours is asked to learn."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer_work
from benchmarks.peers import PEERS, lines, ratios
from dfl_ray.models.paths import embedded_path

SIDES = {
    "dfl-ray": {"device_steps_per_s": 50.0, "first_round_s": 18.0, "peak_mb": 1300.0},
    "flower": {"device_steps_per_s": 25.0, "first_round_s": 36.0, "peak_mb": 2600.0},
    "p2pfl": {"first_round_s": 72.0, "peak_mb": 650.0},
}


def test_ratios_are_ours_against_each_peer():
    found = ratios(SIDES)
    assert list(found) == ["flower"]  # one round gives no rate
    assert list(found["flower"].values()) == [2.0, 0.5, 0.5]
    shown = lines(SIDES)
    assert [line.split()[0] for line in shown[1:4]] == ["dfl-ray", "flower", "p2pfl"]
    assert "flower: times the device-steps per second: 2.00" in shown


def test_every_peer_has_its_script():
    for name in PEERS:
        assert Path(peer_work.__file__).with_name(f"peer_{name}.py").exists()


def test_a_peers_device_learns_its_rows_from_what_it_was_given(tmp_path):
    pytest.importorskip("peft")
    rows = tmp_path / "train.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"say {w}", "answer": w}) for w in ("red", "blue")))
    work = argparse.Namespace(
        model=str(embedded_path()), rows_file=str(rows), length=16, rank=2, steps=2, batch=2, devices=1
    )
    first = peer_work.first_adapters(work)
    once = peer_work.train(work, 0, first)
    again = peer_work.train(work, 0, first)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)  # nothing stays in the worker that changes the next device
    assert any(np.abs(a - b).max() > 0 for a, b in zip(once, first, strict=True))
    assert peer_work.figures(work, 10.0, [15.0, 17.0]) == {
        "first_round_s": 5.0, "round_s": [2.0], "device_steps_per_s": 1.0,
    }  # fmt: skip
