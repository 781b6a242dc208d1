"""Damaged, missing and changed files of a run: named, refused with exit code 2, or survived by an older checkpoint."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError, Interrupted, RunError
from dfl_ray.records import RunFolder, load_run
from dfl_ray.simulation.backend import LocalBackend
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.simulation.resuming import newest_state
from dfl_ray.simulation.verify import verify
from dfl_ray.tracking.tally import Tally
from tests.conftest import small_config
from tests.records import assert_same_records


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run of four rounds with checkpoints of the second and the fourth, made to look as if it had been killed."""
    path = tmp_path_factory.mktemp("stopped")
    words = ["name=run", "runtime.backend=local", "checkpoint.every=2", "checkpoint.keep=2"]
    folder = launch(small_config(path, *words), json=True).folder
    opened = RunFolder.open(folder)
    opened.begin()
    opened.close()
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


NEWEST = "checkpoints/round-000004"
CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "bit": lambda run: flip(run / NEWEST / "devices-00000.safetensors"),
    "header": lambda run: flip(run / NEWEST / "devices-00000.safetensors", 0.001),
    "cut": lambda run: cut(run / NEWEST / "channel.safetensors"),
    "empty": lambda run: (run / NEWEST / "devices-00000.safetensors").write_bytes(b""),
    "file": lambda run: (run / NEWEST / "channel.safetensors").unlink(),
    "manifest": lambda run: (run / NEWEST / "manifest.json").unlink(),
    "nesting": lambda run: (run / NEWEST / "manifest.json").write_text("[" * 100_000),
    "round": lambda run: edit(run / NEWEST / "manifest.json", round=99),
    "all of it": lambda run: shutil.rmtree(run / NEWEST),
}


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_a_damaged_newest_checkpoint_is_passed_over_and_it_is_said(run: Path, damage: str):
    from dfl_ray.simulation.resuming import own_config, saved_state

    CHECKPOINTS[damage](run)
    folder = RunFolder.open(run)
    checkpoint, notes = saved_state(folder, own_config(run))
    folder.close()
    assert checkpoint is not None and checkpoint.round_index == 2
    assert ("round 2" in notes[0] and "000004" in notes[0]) or "round 4 is missing" in notes[0]


def test_resumed_past_a_damaged_checkpoint_equals_the_whole_run(stopped: Path, run: Path, capsys):
    CHECKPOINTS["bit"](run)
    assert main(["verify", str(run)]) == 2
    assert "round-000004 is damaged" in capsys.readouterr().out
    assert_same_records(load_run(stopped), load_run(resume(run, json=True).folder), exact=True)
    assert main(["verify", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["whole"]


def test_a_run_without_the_checkpoint_of_its_end_is_not_whole(run: Path, capsys):
    ended = RunFolder.open(run)
    ended.finish("done")
    ended.close()
    assert main(["verify", str(run)]) == 0
    CHECKPOINTS["all of it"](run)
    assert main(["verify", str(run)]) == 2
    assert "round-000004 is missing" in capsys.readouterr().out
    shutil.rmtree(run / "checkpoints")
    assert main(["verify", str(run)]) == 2


GRAPH = "topology/graph.graphml"


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (lambda run: (run / GRAPH).unlink(), ["no such file"]),
        (lambda run: cut(run / GRAPH), ["no graph"]),
        (lambda run: (run / GRAPH).write_bytes(b"\xff"), ["no graph"]),
        (lambda run: change(run / GRAPH, 'source="0"', 'source="9"'), ["another graph"]),
        (lambda run: change(run / GRAPH, "\n", "\n\n"), []),
        (lambda run: (run / "checksums.json").write_text("{"), ["cannot be read"]),
        (lambda run: (run / "checksums.json").unlink(), ["is missing"]),
        (lambda run: (run / "checksums.json").write_text("{}"), ["lists no file"]),
    ],
)
def test_verify_names_one_problem_of_one_damaged_file(run: Path, damage: Callable, problems: list[str]):
    ended = RunFolder.open(run)
    ended.finish("done")
    ended.close()
    damage(run)
    found = verify(run).problems
    assert len(found) == len(problems) and all(part in one for part, one in zip(problems, found, strict=True))


def test_what_only_reads_a_run_takes_the_older_checkpoint_too_and_says_so(run: Path, capsys):
    CHECKPOINTS["bit"](run)
    config, checkpoint = newest_state(run)
    assert checkpoint.round_index == 2 and config.rounds == 4
    assert "000004" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="no saved state"):
        newest_state(run)
    for words in (["evaluate", str(run)], ["export", str(run), str(run / "out")]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "that of round 2 was saved. " in said and "from a copy" in said and "resume" not in said
    begun = RunFolder.open(run)
    begun.truncate(1)  # as if it had stopped in its second round
    begun.close()
    with pytest.raises(InputError, match=f"until it has saved one: dfl-ray resume {run}"):
        newest_state(run)


def part(table: str) -> str:
    return f"{table}.parquet/part-000000000-000000004.parquet"


RECORDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "part missing": (lambda run: (run / part("rounds")).unlink(), "rounds.parquet"),
    "part cut": (lambda run: cut(run / part("devices")), "devices.parquet"),
    "bit flipped": (lambda run: flip(run / part("devices"), 0.1), "devices.parquet"),
    "topology": (
        lambda run: next((run / "topology/edges.parquet").iterdir()).write_bytes(b"junk"),
        "edges.parquet",
    ),
    "stray part": (lambda run: (run / "rounds.parquet/part-x.parquet").write_bytes(b""), "part-x.parquet"),
    "part from elsewhere": (
        lambda run: shutil.copy(
            run / part("rounds"), run / "rounds.parquet/part-000000009-000000009.parquet"
        ),
        "rounds.parquet",
    ),
    "config empty": (lambda run: (run / "config.yaml").write_text(""), "config.yaml"),
    "checksums": (lambda run: (run / "checksums.json").write_text("[1]"), "checksums.json"),
    "run.json": (lambda run: (run / "run.json").write_text("{"), "run.json"),
    "learning rate": (
        lambda run: change(run / "config.yaml", "local_steps: 2", "local_steps: 3"),
        "`method.local_steps` was 2 and is 3",
    ),
    "seed": (lambda run: change(run / "config.yaml", "\nseed: 0", "\nseed: 1"), "`seed` was 0 and is 1"),
}


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("damage", RECORDS)
def test_a_damaged_or_changed_file_is_named_and_resume_ends_with_2(run: Path, damage: str, capsys):
    damaging, named = RECORDS[damage]
    damaging(run)
    before = (run / "run.json").read_bytes()
    with pytest.raises(InputError) as error:
        resume(run, json=True)
    assert named in str(error.value)
    assert (run / "run.json").read_bytes() == before
    try:
        assert main(["verify", str(run)]) == 2
    finally:
        captured = capsys.readouterr()
    assert named in captured.out + captured.err
    if damage != "run.json":
        change(run / "run.json", '"state": "running"', '"state": "done"')
    of_records = named.endswith((".parquet", "checksums.json"))  # nothing of them is evaluated or exported
    readers = {} if of_records else {"evaluate": [], "export": [str(run / "out")]}
    for command, more in {"bundle": [], **readers}.items():
        assert main([command, str(run), *more]) == 2
        assert named in capsys.readouterr().err
    assert not run.with_name(f"{run.name}.zip").exists()


def test_other_rows_or_weights_are_refused_by_what_reads_a_run_and_other_code_is_not(run: Path, capsys):
    info = json.loads((run / "run.json").read_text())
    info["fingerprint"]["code"]["sources"] = "0" * 64
    (run / "run.json").write_text(json.dumps(info))
    assert main(["evaluate", str(run)]) == 0
    info["fingerprint"]["uncut"]["topic"] = "0" * 64
    (run / "run.json").write_text(json.dumps(info))
    capsys.readouterr()
    for words in (["evaluate", str(run)], ["export", str(run), str(run / "out")]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "the rows of task `topic` are others" in said and "resume" not in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", []), ("warnings", "x"), ("scores", {"topic": 3}), ("faults", {"kind": "crash"}), ("state", 1),
        ("privacy", {"mechanism": "updates", "hidden": "row", "delta": 1e-5, "epsilon": {"0": "much"}}),
        ("fingerprint", {"config": {}}), ("lengthened", [1.5]), ("git", {"commit": 3}), ("schema_version", "9"),
    ],
)  # fmt: skip
def test_a_run_json_of_other_kinds_is_refused_in_a_sentence_by_all_that_read_it(
    run: Path, key, value, capsys
):
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | {key: value}))
    for command in ("report", "evaluate", "bundle", "verify", "resume"):
        assert main([command, str(run)]) == 2
        said = capsys.readouterr().err
        assert "run.json cannot be read" in said and f"`{key}" in said and "Unexpected" not in said


def test_other_rows_weights_or_code_are_refused_by_name(run: Path):
    from dfl_ray.simulation.fingerprint import refuse_changed_inputs

    recorded = json.loads((run / "run.json").read_text())
    found = recorded["fingerprint"]
    refuse_changed_inputs(run, recorded, found)
    for changed, said in (
        ({"uncut": {**found["uncut"], "topic": "0"}}, "rows of task `topic`"),
        ({"weights": "0"}, "weights of the base model"),
        ({"code": {**found["code"], "sources": "0"}}, "its source files differ"),
        ({"code": {"version": "9.9", "sources": "0"}}, "code of dfl-ray has changed"),
    ):
        with pytest.raises(InputError, match=said):
            refuse_changed_inputs(run, {**recorded, "fingerprint": {**found, **changed}}, found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_stops_at_the_round_boundary(tmp_path: Path, number: int):
    outside = signal.signal(number, signal.SIG_DFL)  # `nohup` has SIGHUP ignored, which a run leaves as it is
    try:
        with pytest.raises(Interrupted, match=r"after round 1 of 4 and saved.*dfl-ray resume"):
            launch(local(tmp_path), json=True, on_round_end=lambda _run: bool(os.kill(os.getpid(), number)))
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)
    assert load_run(tmp_path / "run").info["state"] == "interrupted"
    assert verify(tmp_path / "run").problems == () and verify(tmp_path / "run").checkpoints == 1


def test_a_signal_stops_inside_a_round_that_takes_longer_than_the_grace_time(tmp_path: Path, monkeypatch):
    def hang(_self: object, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(LocalBackend, "train", hang)
    with pytest.raises(Interrupted, match=r"inside a round.*grace_s.*dfl-ray resume"):
        launch(local(tmp_path, "runtime.grace_s=0.2"), json=True)
    assert load_run(tmp_path / "run").info["state"] == "interrupted"


def test_a_run_folder_removed_on_the_way_is_not_made_anew(tmp_path: Path):
    with pytest.raises(RunError, match=r"is gone: it was removed or renamed"):
        launch(local(tmp_path), json=True, on_round_end=lambda run: bool(shutil.rmtree(run)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_is_told_with_the_file_and_the_way_on(tmp_path: Path, monkeypatch, after: int):
    full = after == 0

    def fsync(_file: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fill(_run: Path) -> bool:
        nonlocal full
        full = True
        return False

    monkeypatch.setattr(os, "fsync", fsync)
    if full:
        with pytest.raises(InputError, match=r"cannot be made.*No space left"):
            launch(local(tmp_path), json=True)
        assert not (tmp_path / "run").exists()
    else:
        said = r"checkpoints/round-000001 cannot be written: No space left on device.*dfl-ray resume"
        with pytest.raises(RunError, match=said):
            launch(local(tmp_path), json=True, on_round_end=fill)
        assert not list((tmp_path / "run").rglob("*.tmp"))
        monkeypatch.undo()
        assert resume(tmp_path / "run", json=True).summary["rounds"] == 4


def local(tmp_path: Path, *more: str) -> Config:
    return small_config(tmp_path, "name=run", "runtime.backend=local", *more)


def test_a_run_folder_is_its_users_alone(stopped: Path):
    assert stopped.stat().st_mode & 0o077 == 0


def test_progress_after_a_resume_counts_bytes_since_the_run_began(run: Path, monkeypatch):
    begun: list[tuple[int, ...]] = []
    begin = Tally.begin
    monkeypatch.setattr(Tally, "begin", lambda self, *numbers: begun.append(numbers) or begin(self, *numbers))
    shutil.rmtree(run / NEWEST)
    resume(run, json=True)
    rounds = load_run(run).rounds
    assert begun[0] == (4, 2, int(rounds["payload_bytes"].iloc[:2].sum()))


def test_a_graph_without_a_link_is_told(tmp_path: Path):
    from dfl_ray.simulation.experiment import build_experiment

    notes = build_experiment(local(tmp_path, "devices.area_m=[1e6,1e6]", "topology.min_snr_db=60")).notes
    assert any("No device has a link" in note for note in notes)
