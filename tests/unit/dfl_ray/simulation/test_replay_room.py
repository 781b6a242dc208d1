"""A checkpoint is saved when the messages kept for replays outgrow the devices' state."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfl_ray.records import load_run
from dfl_ray.simulation import driver, replay_room
from dfl_ray.simulation.backend import LocalBackend
from dfl_ray.simulation.chosen_packing import actor_needs
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.launch import launch
from dfl_ray.simulation.replay_room import ReplayRoom
from tests.conftest import small_config
from tests.records import assert_same_records


@pytest.mark.parametrize("devices", [4, 8])
def test_the_bound_is_the_state_and_not_less_than_the_floor(
    tmp_path: Path, monkeypatch, devices: int
) -> None:
    run = build_experiment(small_config(tmp_path, f"devices.count={devices}"))
    said: list[str] = []
    assert not ReplayRoom(run, said.append).outgrown(256 * 2**20)
    assert ReplayRoom(run, said.append).outgrown(256 * 2**20 + 1)
    monkeypatch.setattr(replay_room, "LEAST_MB", 0.0)
    room = ReplayRoom(run, said.append)
    state = round(actor_needs(run).state_mb * devices * 2**20)
    said.clear()
    assert not room.outgrown(state - 1)
    assert not said
    assert room.outgrown(state + 1) and room.outgrown(2 * state)
    assert len(said) == 1 and "runtime.max_restarts=0" in said[0]


def test_a_run_without_checkpoints_saves_when_they_have_and_is_the_same_run(
    tmp_path: Path, monkeypatch
) -> None:
    words = ("runtime.backend=local", "rounds=5", "checkpoint.every=0")
    plain = load_run(launch(small_config(tmp_path, "name=plain", *words), json=True).folder)
    kept, saved = [0], []

    def replay_bytes(_self: LocalBackend) -> int:
        kept[0] += 100
        return kept[0]

    def recover_from(_self: LocalBackend, _state: object) -> None:
        kept[0] = 0

    real = driver.save_checkpoint
    monkeypatch.setattr(LocalBackend, "replay_bytes", replay_bytes)
    monkeypatch.setattr(LocalBackend, "recover_from", recover_from)
    monkeypatch.setattr(ReplayRoom, "outgrown", lambda _self, kept_bytes: kept_bytes > 150)
    monkeypatch.setattr(driver, "save_checkpoint", lambda *a, **k: saved.append(a[1]) or real(*a, **k))
    bounded = load_run(launch(small_config(tmp_path, "name=bounded", *words), json=True).folder)
    assert saved == [2, 4, 5]
    assert_same_records(plain, bounded, exact=True)
