"""Run folders of schema version 1, written by the code of that time: read, reported, and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dfl_ray import views
from dfl_ray.errors import InputError
from dfl_ray.records import ATTEMPTS, TRANSFERS, Run, RunFolder, load_run
from dfl_ray.records.results import receptions, summary
from dfl_ray.records.schema import SCHEMA_VERSION, came_with

LATER = ("message", "hop", "origin", "receiver", "outcome")


@pytest.fixture
def old(tmp_path: Path) -> Run:
    """A made-up run of two rounds, four devices and two tasks, as `tests/fake_run.py` wrote it in version 1."""
    shutil.copytree(Path(__file__).parent / "run_of_version_1", tmp_path / "old")
    return load_run(tmp_path / "old")


def test_an_old_folder_is_read_with_empty_tables_and_null_columns(old: Run):
    assert old.info["schema_version"] == 1
    assert len(old.rounds) == 2 and len(old.devices) == 8 and len(old.evaluation) == 40
    assert list(old.transfers.columns) == TRANSFERS.names
    assert len(old.transfers) == 24 and old.transfers[list(LATER)].isna().all(axis=None)
    stored = pd.read_parquet(old.path / "transfers.parquet")
    assert not set(LATER) & set(stored.columns)
    pd.testing.assert_frame_equal(old.transfers[stored.columns], stored, check_dtype=False)
    assert list(old.attempts.columns) == ATTEMPTS.names and len(old.attempts) == 0
    part = old.table("transfers", columns=["outcome", "transfer"], rounds=(2, 2))
    assert list(part.columns) == ["outcome", "transfer"] and len(part) == 12


def test_an_old_folder_is_summed_up_and_reported(old: Run, tmp_path: Path):
    assert summary(old)["payload_bytes"] == old.rounds["payload_bytes"].sum() > 0
    page = views.write_report([old.path], tmp_path / "report.html").read_text(encoding="utf-8")
    body = page.split("</script></head>", 1)[1]
    assert body.count('class="figure"') == 17 and "could not be drawn" not in body
    assert "Single attempts were not kept when this run was recorded" in body


def test_of_an_old_run_the_last_attempts_stand_for_all(old: Run):
    rows = receptions(old, ["sinr_db", "decoded"], (1, 1))
    first = old.transfers[old.transfers["round"] == 1]
    assert rows["sinr_db"].tolist() == first["sinr_db"].tolist()
    assert rows["decoded"].tolist() == first["delivered"].tolist()


def test_an_old_folder_is_gone_on_with_and_keeps_its_rows(old: Run):
    before = old.transfers
    folder = RunFolder.open(old.path)
    folder.begin()
    assert folder.info["schema_version"] == SCHEMA_VERSION
    folder.truncate(1)
    rows = before[before["round"] == 2].drop(columns="round").assign(hop=1, outcome="late")
    attempts = {name: [0] for name in ATTEMPTS.names if name not in ("round", "decoded", "delivered")}
    core = {
        "simulated_s": [2.0],
        "payload_bytes": [7],
        "airtime_s": [0.1],
        "energy_j": [0.1],
        "wall_s": [1.0],
    }
    added = {
        "rounds": core,
        "transfers": rows,
        "attempts": attempts | {"decoded": [True], "delivered": [True]},
    }
    folder.append(added, 2)
    mixed = load_run(old.path)
    folder.finish("done")
    for run in (mixed, load_run(old.path)):  # parts of both versions, then merged into one
        table = run.transfers
        assert table["outcome"].isna().tolist() == [True] * 12 + [False] * 12
        np.testing.assert_array_equal(table["sinr_db"], before["sinr_db"])
        assert run.attempts["round"].tolist() == [2]
    parts = list((old.path / "transfers.parquet").iterdir())
    assert len(parts) == 1
    metadata = pq.read_schema(parts[0]).metadata
    assert metadata and metadata[b"dfl_ray.schema_version"] == str(SCHEMA_VERSION).encode()


def test_a_part_of_this_version_must_have_the_columns_of_this_version(tmp_path: Path):
    folder = RunFolder.create(tmp_path, "new", {})
    part = next((folder.path / "transfers.parquet").iterdir())
    table = pq.read_table(part).drop_columns(["hop"])
    pq.write_table(table, part)
    (folder.path / "checksums.json").unlink()
    with pytest.raises(InputError, match="also hop"):
        _ = load_run(folder.path).transfers


def test_a_folder_of_a_later_version_is_refused(old: Run):
    info = json.loads((old.path / "run.json").read_text())
    (old.path / "run.json").write_text(json.dumps(info | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(InputError, match="newer dfl-ray"):
        load_run(old.path)


def test_columns_say_with_which_version_they_came():
    assert {came_with(field) for field in ATTEMPTS} == {2}
    assert [field.name for field in TRANSFERS if came_with(field) == 2] == list(LATER)
