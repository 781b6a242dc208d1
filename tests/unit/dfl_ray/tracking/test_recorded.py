"""What is kept of a run's progress: the log in UTC, the heartbeat, lines in long stages, and the state of runs."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from dfl_ray.cli import main
from dfl_ray.records.states import DEAD_AFTER_S, find_runs, run_state
from dfl_ray.tracking.live import LiveProgress
from dfl_ray.tracking.progress import PlainProgress, QuietProgress
from dfl_ray.tracking.recorded import RecordedProgress
from dfl_ray.tracking.stages import Stage
from dfl_ray.tracking.tracker import NullTracker
from tests.fake_run import Fake, write_fake_run

ROW = {"round": 1, "payload_bytes": 1000, "simulated_s": 2.0, "train_loss": 0.5, "delivered_fraction": 1.0}


def wait_for(out: io.StringIO, text: str) -> str:
    """What was printed, once it holds a text; the test's own limit ends the waiting."""
    while text not in out.getvalue():
        time.sleep(0.01)
    return out.getvalue()


def test_a_long_stage_says_how_far_it_is_when_piped():
    out = io.StringIO()
    progress = PlainProgress(Console(file=out, width=200), speak_every_s=0.02)
    with progress.stage("evaluate the base model"):
        progress.advance(3, 10)
        told = wait_for(out, "parts done")
    assert re.search(r"^evaluate the base model: 0\.\d\d s so far, 3 of 10 parts done$", told, re.M)
    out.truncate(0)
    progress.rounds(5)
    progress.update(ROW)
    with progress.stage("evaluate the base model"):
        told = wait_for(out, "the last time it took")
    assert "round 2/5, evaluate the base model: " in told
    out.truncate(0)
    progress.rounds(1)
    progress.update(ROW)
    with progress.stage("report"):  # after the last round there is no next one
        told = wait_for(out, "so far")
    assert re.search(r"^report: ", told, re.M)


def test_the_end_of_a_run_is_a_stage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dfl_ray.records import RunFolder
    from dfl_ray.simulation import launch
    from dfl_ray.views import report

    path = write_fake_run(tmp_path, fake=Fake(rounds=1, every=1, state="running"))
    progress = RecordedProgress(QuietProgress())
    seen: list[tuple[str, str | None]] = []

    def note(what: str) -> None:
        stage = progress._stages.current
        seen.append((what, stage.name if stage else None))

    class Told(NullTracker):
        def finish(self, summary=None, *, failed=False) -> None:
            note("tracker")

    monkeypatch.setattr(report, "write_report", lambda runs, out: note("report"))
    monkeypatch.setattr(RunFolder, "finish", lambda folder, state: note(state))
    launch._end(None, RunFolder.open(path), "done", Told(), progress)
    launch._close(RunFolder.open(path), Told(), progress, True)
    assert seen == [("done", "end of the run"), ("report", "report"), ("tracker", "trackers")]


def test_a_long_stage_has_a_bar_of_its_own_on_a_terminal():
    out = io.StringIO()
    progress = LiveProgress(Console(file=out, width=100, force_terminal=True))
    progress.rounds(5)
    with progress.stage("evaluate"):
        progress._show_stage(Stage("evaluate", 0.0, done=3, total=10))
        assert len(progress._bar.tasks) == 2 and progress._bar.tasks[1].total == 10
    assert len(progress._bar.tasks) == 1
    progress.finish()
    assert "3 of 10 parts done" in out.getvalue()


def test_the_log_has_everything_in_utc_whatever_the_user_sees(tmp_path: Path):
    with pytest.raises(RuntimeError), RecordedProgress(QuietProgress()) as progress:
        with progress.step("tasks"):
            pass
        progress.open(tmp_path)
        progress.say("two devices")
        progress.rounds(3)
        progress.update(ROW)
        logging.getLogger("some.library").warning("careful")
        raise RuntimeError("broken")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  ", line) for line in lines)
    stamp = datetime.fromisoformat(lines[0].split()[0])
    assert abs(datetime.now(UTC) - stamp) < timedelta(minutes=10)
    text = "\n".join(line[22:] for line in lines)
    for wanted in ("tasks: 0.0", "two devices", "round 1/3, loss 0.500", "WARNING some.library: careful",
                   "RuntimeError: broken"):  # fmt: skip
        assert wanted in text
    beat = json.loads((tmp_path / "heartbeat.json").read_text(encoding="utf-8"))
    assert (beat["round"], beat["rounds"]) == (1, 3)


def beat(path: Path, age_s: float, **fields) -> None:
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="seconds")
    told = {"at": at, "stage": None, "stage_s": None, "parts": 0, "parts_done": 0, "left_s": 7.0, **fields}
    (path / "heartbeat.json").write_text(json.dumps(told), encoding="utf-8")


@pytest.mark.parametrize(
    ("recorded", "age_s", "stage", "expected"),
    [
        ("running", 2, "train", "running"),
        ("running", 2, "actors", "waiting"),
        ("running", DEAD_AFTER_S + 30, "train", "stopped"),
        ("running", -3, "train", "running"),
        ("running", -9999, "train", "stopped"),  # by a clock that was ahead
        ("done", 9999, None, "finished"),
        ("failed", 9999, "train", "failed"),
        ("interrupted", 9999, None, "stopped"),
    ],
)
def test_states_follow_from_the_folder(tmp_path: Path, recorded: str, age_s: float, stage, expected: str):
    path = write_fake_run(tmp_path, fake=Fake(rounds=2, every=1, state=recorded))
    beat(path, age_s, stage=stage, stage_s=1.0)
    long_ago = time.time() - DEAD_AFTER_S - 30
    os.utime(path / "heartbeat.json", (long_ago, long_ago))
    state = run_state(path)
    assert state.state == expected
    assert (state.round, state.rounds, state.devices, state.method) == (2, 2, 10, "sparse_orthogonal")
    assert (state.left_s == 7.0) == (expected in ("running", "waiting"))


def test_status_lists_runs_and_an_unreadable_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_fake_run(tmp_path, "old", Fake(rounds=2, every=1, state="running"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{", encoding="utf-8")
    assert main(["status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "old" in text and "2/2" in text and "unreadable" in text
    assert main(["status", str(path), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["runs"]
    assert one["state"] == "running" and one["heartbeat_s"] < 600  # no heartbeat: judged by its newest record
    assert find_runs(path) == [path] and find_runs(tmp_path / "none") == []
    assert main(["status", str(tmp_path / "none")]) == 2


DAMAGED = [
    ("config.yaml", b"method: dlora\n", "`method` is no mapping"),
    ("config.yaml", b"method: null\n", "`method` is no mapping"),
    ("config.yaml", b"method: {type: [a]}\n", "`method.type` is no text"),
    ("config.yaml", b"devices: 3\n", "`devices` is no mapping"),
    ("config.yaml", b"devices: {count: many}\n", "`devices.count` is no whole number"),
    ("config.yaml", b"rounds: .inf\n", "`rounds` is no whole number"),
    ("config.yaml", b"seed: [0]\n", "`seed` is no whole number"),
    ("config.yaml", b"", "an empty file"),
    ("config.yaml", b"[1]", "no mapping"),
    ("config.yaml", b"a: [", "is not YAML"),
    ("config.yaml", b"\xff\xfe", "cannot be read"),
    ("run.json", b"[]", "holds no JSON object"),
    ("run.json", b"[" * 100_000, "cannot be read"),
    ("run.json", b'{"schema_version": null}', "cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "said"), DAMAGED)
def test_a_damaged_run_is_one_unreadable_row_and_takes_no_other_off_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, said: str
):
    from dfl_ray.dashboard.library import Library
    from dfl_ray.dashboard.pages import runs_page

    write_fake_run(tmp_path, "good", Fake(devices=2, rounds=1, every=1))
    path = write_fake_run(tmp_path, "bad", Fake(devices=2, rounds=1, every=1))
    (path / name).write_bytes(content)
    assert main(["status", str(tmp_path)]) == 0
    assert main(["status", str(tmp_path), "--json"]) == 0
    runs = {run["name"]: run for run in json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]}
    assert (runs["good"]["state"], runs["bad"]["state"]) == ("finished", "unreadable")
    assert said in runs["bad"]["note"]
    assert "unreadable" in runs_page(Library(tmp_path))
    assert main(["report", str(path)]) == 2


def test_an_error_that_nobody_foresaw_is_noted_of_its_run_alone(tmp_path: Path, monkeypatch):
    path = write_fake_run(tmp_path, fake=Fake(devices=2, rounds=1, every=1))
    monkeypatch.setattr("dfl_ray.records.states.read_config", lambda _: {}["x"])
    state = run_state(path)
    assert (state.state, state.note) == ("unreadable", "KeyError: 'x'")


@pytest.mark.parametrize(
    "fields",
    [{"at": 5}, {"at": "2026-01-01T00:00:00"}, {"left_s": "7"}, {"left_s": float("nan")}, {"stage": ["x"]},
     {"parts": "two"}],
)  # fmt: skip
def test_what_is_no_heartbeat_counts_as_none(tmp_path: Path, fields: dict[str, object]):
    path = write_fake_run(tmp_path, fake=Fake(devices=2, rounds=2, every=1, state="running"))
    beat(path, 2, **fields)
    state = run_state(path)
    assert (state.state, state.note) == ("running", "")  # judged by its newest record
    for text in (b"[]", b"null", b"\xff", b'{"at":'):
        (path / "heartbeat.json").write_bytes(text)
        assert run_state(path).state == "running"


def test_a_folder_that_may_not_be_looked_into_takes_no_other_off_the_list(tmp_path: Path, monkeypatch):
    path = write_fake_run(tmp_path, "good", Fake(devices=2, rounds=1, every=1))
    (tmp_path / "shut").mkdir()
    is_file = Path.is_file

    def refusing(place: Path) -> bool:
        if place.parent.name == "shut":
            raise PermissionError(13, "Permission denied", str(place))
        return is_file(place)

    monkeypatch.setattr(Path, "is_file", refusing)
    assert find_runs(tmp_path) == [path]


def test_status_finds_the_runs_of_a_sweep_as_the_dashboard_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from dfl_ray.dashboard.library import Library

    write_fake_run(tmp_path, "alone", Fake(devices=2, rounds=1, every=1))
    inside = write_fake_run(tmp_path / "sweep", "seed-0", Fake(devices=2, rounds=1, every=1))
    (inside / "checkpoints").mkdir(exist_ok=True)
    shutil.copy(inside / "run.json", inside / "checkpoints")  # below a run nothing is looked for
    assert main(["status", str(tmp_path), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {run["name"] for run in runs} == {"alone", "sweep/seed-0"} == set(Library(tmp_path).ids())
    assert main(["status", str(inside), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["name"] == "seed-0"
