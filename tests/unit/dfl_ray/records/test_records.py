"""Run folders: schemas, atomic parts, truncation, and what `load_run` says of bad folders."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfl_ray.errors import InputError
from dfl_ray.records import (
    TABLES,
    TOPOLOGY_EDGES,
    TOPOLOGY_NODES,
    WALL_COLUMNS,
    Run,
    RunFolder,
    comparable,
    held_tasks,
    load_run,
    loading,
    parts,
)
from dfl_ray.records.part_files import list_parts
from dfl_ray.records.parts import COMPACT_EVERY
from dfl_ray.records.schema import SCHEMA_VERSION, conform

CORE = {
    "simulated_s": 1.5,
    "payload_bytes": 100,
    "airtime_s": 0.2,
    "energy_j": 0.1,
    "delivered_fraction": 0.9,
    "wall_s": 1.0,
}


def rounds_row(round: int, **more) -> pd.DataFrame:
    return pd.DataFrame([{"round": round, **CORE, **more}])


def evaluation_rows(round: int, devices: int = 3) -> pd.DataFrame:
    rows = [
        {"round": round, "device": d, "task": t, "rule": "sum", "accuracy": 0.5, "rows": 8, "chance": 0.25}
        for d in range(devices)
        for t in ("a", "b")
    ]
    return pd.DataFrame(rows)


def test_append_then_load_gives_the_same_numbers(folder: RunFolder):
    for number in (1, 2, 3):
        folder.append(
            {
                "rounds": rounds_row(number, accuracy_mean=0.5 if number == 2 else np.nan),
                "evaluation": evaluation_rows(number),
            },
            number,
        )
    run = load_run(folder.path)
    assert run.rounds["round"].tolist() == [1, 2, 3]
    assert run.rounds["payload_bytes"].tolist() == [100] * 3
    assert run.rounds["accuracy_mean"].isna().tolist() == [True, False, True]
    assert len(run.evaluation) == 18
    assert run.config["method"]["type"] == "dlora"
    assert run.info["state"] == "running"


def test_empty_tables_have_the_columns_and_types_of_full_ones(folder: RunFolder):
    run = load_run(folder.path)
    for name, schema in TABLES.items():
        table = getattr(run, name)
        assert list(table.columns) == schema.names and len(table) == 0
    assert run.topology_nodes.columns[0] == "round" and len(run.topology_edges) == 0
    assert run.rounds["payload_bytes"].dtype == np.int64


def test_plain_pandas_reads_every_table_at_any_time(folder: RunFolder):
    assert len(pd.read_parquet(folder.path / "transfers.parquet")) == 0
    for number in range(1, 6):
        folder.append({"rounds": rounds_row(number)}, number)
    assert pd.read_parquet(folder.path / "rounds.parquet")["round"].tolist() == [1, 2, 3, 4, 5]
    folder.finish("done")
    assert pd.read_parquet(folder.path / "rounds.parquet")["round"].tolist() == [1, 2, 3, 4, 5]
    assert len(list((folder.path / "rounds.parquet").iterdir())) == 1


def test_parts_are_compacted_as_they_gather(folder: RunFolder):
    for number in range(1, 2 * COMPACT_EVERY + 5):
        folder.append({"rounds": rounds_row(number)}, number)
    live, superseded = list_parts(folder.path / "rounds.parquet")
    assert not superseded and len(live) < COMPACT_EVERY
    assert load_run(folder.path).rounds["round"].tolist() == list(range(1, 2 * COMPACT_EVERY + 5))


def test_a_crash_while_compacting_shows_no_row_twice(folder: RunFolder, tmp_path: Path):
    for number in (1, 2, 3):
        folder.append({"rounds": rounds_row(number)}, number)
    table = folder.path / "rounds.parquet"
    before = {part.path.name: part.path.read_bytes() for part in list_parts(table)[0]}
    folder.finish("done")
    for name, content in before.items():  # what a crash before the removal leaves behind
        (table / name).write_bytes(content)
    assert load_run(folder.path).rounds["round"].tolist() == [1, 2, 3]
    again = RunFolder.open(folder.path)
    again.truncate(2)
    assert load_run(folder.path).rounds["round"].tolist() == [1, 2]
    assert len(list(table.glob("part-*"))) == 1


def test_truncate_drops_exactly_later_rounds_and_can_be_repeated(folder: RunFolder):
    for number in range(1, 8):
        folder.append({"rounds": rounds_row(number), "evaluation": evaluation_rows(number)}, number)
    folder.close()
    folder = RunFolder.open(folder.path)
    for _ in range(2):
        folder.truncate(4)
        run = load_run(folder.path)
        assert run.rounds["round"].max() == 4 and run.evaluation["round"].max() == 4
        assert len(run.evaluation) == 24
    folder.append({"rounds": rounds_row(5)}, 5)
    assert load_run(folder.path).rounds["round"].tolist() == [1, 2, 3, 4, 5]


def test_the_newest_round_is_written_anew(folder: RunFolder):
    for number in range(1, COMPACT_EVERY + 1):  # the last append merges all parts
        folder.append({"rounds": rounds_row(number), "evaluation": evaluation_rows(number)}, number)
    other = {"rounds": rounds_row(COMPACT_EVERY, wall_s=9.0), "evaluation": evaluation_rows(COMPACT_EVERY, 5)}
    for _ in range(2):
        folder.rewrite(other, COMPACT_EVERY)
        run = load_run(folder.path)
        assert run.rounds["round"].tolist() == list(range(1, COMPACT_EVERY + 1))
        assert run.rounds["wall_s"].tolist()[-2:] == [1.0, 9.0]
        assert run.evaluation.groupby("round").size().tolist()[-2:] == [6, 10]
    folder.check()


def test_rows_of_a_round_that_was_not_finished_are_not_seen(folder: RunFolder):
    folder.append({"evaluation": evaluation_rows(0)}, 0)
    folder.append({"rounds": rounds_row(1), "evaluation": evaluation_rows(1)}, 1)
    folder.append({"evaluation": evaluation_rows(2)}, 2)  # as after a crash before the `rounds` row
    assert sorted(load_run(folder.path).evaluation["round"].unique()) == [0, 1]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (rounds_row(1, airtme_s=1.0), "did you mean `airtime_s`"),
        (rounds_row(1).drop(columns="energy_j"), "energy_j"),
        (rounds_row(1, payload_bytes="many"), "payload_bytes"),
        (rounds_row(7), "other rounds"),
        (rounds_row(1, payload_bytes=1.5), "payload_bytes"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(folder: RunFolder, table, says: str):
    with pytest.raises(ValueError, match=says):
        folder.append({"evaluation": evaluation_rows(1), "rounds": table}, 1)
    assert len(pd.read_parquet(folder.path / "evaluation.parquet")) == 0


def test_arrow_tables_and_plain_columns_are_taken_too(folder: RunFolder):
    folder.append({"rounds": {name: [value] for name, value in CORE.items()}}, 1)
    folder.append({"rounds": pa.Table.from_pandas(rounds_row(2), preserve_index=False)}, 2)
    assert load_run(folder.path).rounds["airtime_s"].tolist() == [0.2, 0.2]


def test_conform_turns_nan_into_null_only_where_null_is_allowed():
    table = conform(rounds_row(1, accuracy_mean=np.nan, train_loss=0.25), TABLES["rounds"])
    assert table.column("accuracy_mean").null_count == 1 and table.column("train_loss").null_count == 0
    assert table.schema.metadata[b"dfl_ray.schema_version"] == str(SCHEMA_VERSION).encode()


def test_an_integer_that_does_not_fit_its_column_is_refused(folder: RunFolder):
    row = {name: [0] for name in TABLES["attempts"].names if name not in ("round", "decoded", "delivered")}
    row |= {"decoded": [True], "delivered": [True]}
    with pytest.raises(ValueError, match="`attempt`: not int16"):
        folder.append({"attempts": row | {"attempt": [1 << 15]}}, 1)
    folder.append({"attempts": row | {"attempt": [(1 << 15) - 1]}, "rounds": rounds_row(1)}, 1)
    assert load_run(folder.path).attempts["attempt"].tolist() == [(1 << 15) - 1]


def test_sigkill_while_appending_leaves_a_readable_folder(tmp_path: Path):
    code = """
import sys
from dfl_ray.records import RunFolder
f = RunFolder.create(sys.argv[1], "killed", {})
core = dict(simulated_s=[1.0], payload_bytes=[1], airtime_s=[0.0], energy_j=[0.0], wall_s=[1.0])
rows = dict(device=list(range(500)), task=["t"] * 500, rule=["sum"] * 500, accuracy=[0.5] * 500)
for n in range(1, 100000):
    f.append({"rounds": core, "evaluation": rows}, n)
    print(n, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 70:
        pass
    time.sleep(0.013)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    run = load_run(tmp_path / "killed")
    assert run.last_round >= 70
    assert run.rounds["round"].tolist() == list(range(1, run.last_round + 1))
    assert run.evaluation.groupby("round").size().tolist() == [500] * run.last_round
    again = RunFolder.open(run.path)
    again.truncate(69)
    again.finish("interrupted")
    assert len(pd.read_parquet(run.path / "evaluation.parquet")) == 500 * 69


@pytest.mark.parametrize("state", ["failed", "done"])
def test_a_disk_without_room_for_compacted_tables_does_not_hide_how_it_ended(folder, monkeypatch, state):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for number in (1, 2):
        folder.append({"rounds": rounds_row(number)}, round=number)
    monkeypatch.setattr(parts, "_merge", full)
    with pytest.raises(OSError, match="No space left"):
        folder.finish(state, **({"failed_by": "rounds.parquet: No space left"} if state == "failed" else {}))
    found = load_run(folder.path)
    assert found.last_round == 2 and found.info["state"] == "failed" and found.info["ended_at"]
    assert "No space left" in found.info["failed_by"]
    RunFolder.open(folder.path).close()  # the lock was given back


def test_info_says_what_ran_where_and_how_it_ended(folder: RunFolder):
    folder.update_info(wandb={"id": "abc"})
    folder.finish("done", seconds=3)
    info = load_run(folder.path).info
    assert info["state"] == "done" and info["ended_at"] >= info["started_at"]
    assert info["wandb"] == {"id": "abc"} and info["seconds"] == 3
    assert info["versions"]["numpy"] == np.__version__ and info["host"]["cpus"] >= 1
    reopened = RunFolder.open(folder.path)
    assert reopened.info["state"] == "done"
    reopened.begin()
    assert reopened.info["state"] == "running"


def test_load_says_what_is_wrong_with_a_folder(tmp_path: Path, folder: RunFolder):
    with pytest.raises(InputError, match="runs there: one"):
        load_run(tmp_path / "oen")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(InputError, match=r"no run\.json"):
        load_run(tmp_path / "foreign")
    info_path = folder.path / "run.json"
    info = json.loads(info_path.read_text())
    info_path.write_text(json.dumps({**info, "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(InputError, match="newer dfl-ray"):
        load_run(folder.path)
    info_path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_run(folder.path)


def test_load_refuses_parts_of_a_newer_schema_or_of_another_table(folder: RunFolder):
    part = folder.path / "rounds.parquet" / "part-000000001-000000001.parquet"
    schema = TABLES["rounds"]
    newer = schema.with_metadata({**schema.metadata, b"dfl_ray.schema_version": str(SCHEMA_VERSION + 1)})
    pq.write_table(newer.empty_table(), part)
    with pytest.raises(InputError, match="newer dfl-ray"):
        load_run(folder.path)
    pq.write_table(pa.table({"round": [1], "price": [2.0]}), part)
    with pytest.raises(InputError, match="not a table of this kind"):
        load_run(folder.path)


def test_held_tasks_are_named_by_falling_share():
    assert held_tasks(np.array([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]]), ["a", "b", "c"]) == ["c,b", "a"]


def test_comparable_leaves_out_what_describes_the_machine(folder: RunFolder):
    folder.append({"rounds": rounds_row(1, train_wall_s=3.0)}, 1)
    table = comparable(load_run(folder.path).rounds)
    assert not set(WALL_COLUMNS) & set(table.columns) and "airtime_s" in table.columns
    assert all(
        name in WALL_COLUMNS for schema in TABLES.values() for name in schema.names if "wall_s" in name
    )


def test_the_documentation_lists_every_column_as_the_schemas_have_it():
    text = (Path(__file__).parents[4] / "docs" / "records.md").read_text(encoding="utf-8")
    for schema in (*TABLES.values(), TOPOLOGY_NODES, TOPOLOGY_EDGES):
        for field in schema:
            doc = field.metadata[b"doc"].decode().replace("|", "¦")
            assert f"| `{field.name}` | {field.type} | {'yes' if field.nullable else 'no'} | {doc} |" in text


def test_part_of_a_table_can_be_read(folder: RunFolder):
    for number in (1, 2, 3):
        folder.append({"rounds": rounds_row(number), "evaluation": evaluation_rows(number)}, number)
    run: Run = load_run(folder.path)
    part = run.table("evaluation", columns=["task", "accuracy"], rounds=(2, 2))
    assert list(part.columns) == ["task", "accuracy"] and len(part) == 6


def test_all_rounds_can_be_read_in_blocks(folder: RunFolder, monkeypatch):
    monkeypatch.setattr(loading, "BLOCK_ROWS", 20)  # six rows a round, so three rounds at a time
    assert list(load_run(folder.path).blocks(["evaluation"])) == [(0, 0)]
    for number in range(1, 8):
        folder.append({"rounds": rounds_row(number), "evaluation": evaluation_rows(number)}, number)
    run: Run = load_run(folder.path)
    assert list(run.blocks(["evaluation", "rounds"])) == [(0, 2), (3, 5), (6, 7)]
    assert list(run.blocks(["rounds"])) == [(0, 7)] and list(run.blocks([])) == [(0, 7)]
    read = pd.concat([run.table("evaluation", rounds=block) for block in run.blocks(["evaluation"])])
    assert read.reset_index(drop=True).equals(run.evaluation)
    part = list_parts(folder.path / "evaluation.parquet")[0][-1].path
    parts.check_rows(part.parent, TABLES["evaluation"])
    data = bytearray(part.read_bytes())
    data[40] ^= 0xFF
    part.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        parts.check_rows(part.parent, TABLES["evaluation"])
