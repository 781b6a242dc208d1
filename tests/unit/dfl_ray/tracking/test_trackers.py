"""TensorBoard, Trackio and none: what they wrote is read back; nothing of theirs stops a run."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.config.schema import TrackConfig
from dfl_ray.errors import InputError
from dfl_ray.records import RunFolder
from dfl_ray.tracking import guard
from dfl_ray.tracking.table import TRACKERS
from dfl_ray.tracking.tracker import NullTracker, make_tracker

ROW = {"round": 1, "accuracy_mean": 0.5, "payload_bytes": 1200, "train_loss": float("nan")}
EXTRAS = {"accuracy_by_task": {"sum": 0.25}, "sinr_db": np.array([1.0, 2.0, np.inf]), "actors": 3}
NEEDS_TENSORBOARD = pytest.mark.skipif(
    find_spec("tensorboardX") is None, reason="tensorboardX is not installed"
)


def events(folder: Path) -> list:
    """All events of TensorBoard's files: records of length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        data, place = file.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            found.append(Event.FromString(data[place + 12 : place + 12 + length]))
            place += 16 + length
    return found


def scalars(found: list) -> dict[tuple[str, int], float]:
    values = [(event.step, value) for event in found for value in event.summary.value]
    return {(value.tag, step): value.simple_value for step, value in values if value.HasField("simple_value")}


@NEEDS_TENSORBOARD
def test_tensorboard_holds_the_rounds_numbers_under_the_names_of_wandb(tmp_path: Path):
    lines: list[str] = []
    folder = RunFolder.create(tmp_path, "x", {})
    tracker = make_tracker(TrackConfig(trackers=("tensorboard",)), say=lines.append)
    tracker.start(folder, {"seed": 3})
    tracker.log_round(ROW, EXTRAS)
    tracker.finish({"accuracy_mean": 0.5, "payload_bytes": 1200})
    found = events(folder.path / "tensorboard")
    values = scalars(found)
    assert values["accuracy/mean", 1] == 0.5 and values["comm/bytes", 1] == 1200
    assert values["accuracy/task/sum", 1] == 0.25 and values["final/comm/total_bytes", 1] == 1200
    assert not any(tag in ("train/loss", "round") for tag, _ in values)
    (histogram,) = [v.histo for e in found for v in e.summary.value if v.tag == "comm/sinr_db/histogram"]
    assert (histogram.min, histogram.max, histogram.num) == (1.0, 2.0, 2)
    assert lines == [f"TensorBoard: tensorboard --logdir {folder.path / 'tensorboard'}"]


@NEEDS_TENSORBOARD
def test_a_resumed_run_voids_the_events_it_makes_anew(tmp_path: Path):
    folder = RunFolder.create(tmp_path, "x", {})
    for _ in range(2):
        tracker = make_tracker(TrackConfig(trackers=("tensorboard",)), say=lambda text: None)
        tracker.start(folder, {})
        tracker.log_round(ROW)
        tracker.finish()
    starts = [event.step for event in events(folder.path / "tensorboard") if event.session_log.status == 1]
    assert starts == [1]


def test_a_missing_library_is_named_before_the_run(monkeypatch):
    monkeypatch.setattr(guard, "find_spec", lambda name: None)
    for name, advice in (("tensorboard", "dfl-ray\\[tensorboard\\]"), ("trackio", "pip install trackio")):
        with pytest.raises(InputError, match=advice):
            make_tracker(TrackConfig(trackers=(name,)))


class FakeTrackio:
    """The part of trackio 0.43 that is used; a log call fails when told to."""

    def __init__(self) -> None:
        self.calls: list = []
        self.broken = False

    def init(self, **settings):
        self.calls.append(("init", settings))
        print("* Trackio project initialized")
        return self

    def log(self, metrics, step=None):
        if self.broken:
            raise OSError("disk full\nmore")
        self.calls.append(("log", metrics, step))

    def finish(self):
        self.calls.append(("finish",))


def test_trackio_is_told_each_round_and_a_failed_call_is_said_once(monkeypatch, tmp_path: Path, capsys):
    from dfl_ray.tracking import trackio_tracker

    fake, lines = FakeTrackio(), []
    monkeypatch.setattr(trackio_tracker, "optional_library", lambda *names: fake)
    tracker = make_tracker(TrackConfig(trackers=("trackio",)), say=lines.append)
    tracker.start(RunFolder.create(tmp_path, "x", {}), {"seed": 3})
    tracker.log_round(ROW, EXTRAS)
    fake.broken = True
    for number in (2, 3):
        tracker.log_round({"round": number})
    fake.broken = False
    tracker.finish({"accuracy_mean": 0.5})
    (_, settings), (_, metrics, step), (_, final, _), last = fake.calls
    assert settings["name"] == "x" and settings["project"] == "dfl-ray" and settings["resume"] == "allow"
    assert (step, metrics["accuracy/mean"], metrics["accuracy/task/sum"]) == (1, 0.5, 0.25)
    assert final == {"final/accuracy/mean": 0.5} and last == ("finish",)
    assert lines[0].startswith("Trackio did not take a round's numbers (disk full)") and len(lines) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_itself_keeps_the_numbers_on_this_machine(tmp_path: Path):
    program = """
import sys
from pathlib import Path
from dfl_ray.config.schema import TrackConfig
from dfl_ray.records import RunFolder
from dfl_ray.tracking.tracker import make_tracker
tracker = make_tracker(TrackConfig(trackers=("trackio",)))
tracker.start(RunFolder.create(sys.argv[1], "x", {}), {"seed": 3})
tracker.log_round({"round": 1, "accuracy_mean": 0.5})
tracker.finish()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "runs")]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "kept")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    import sqlite3

    (file,) = (tmp_path / "kept").glob("*.db")
    rows = sqlite3.connect(file).execute("select step, metrics from metrics").fetchall()
    assert [(step, json.loads(text)["accuracy/mean"]) for step, text in rows] == [(1, 0.5)]


def test_track_takes_a_name_a_list_or_a_section():
    assert load_config(None, ["track=none"]).track.trackers == ("none",)
    assert load_config(None, ["track=[wandb, tensorboard]"]).track.trackers == ("wandb", "tensorboard")
    assert load_config(None, ["track.trackers=[trackio]", "track.wandb.project=p"]).track.wandb.project == "p"
    with pytest.raises(InputError, match="tensorboard"):
        load_config(None, ["track=tensorbord"])
    assert isinstance(make_tracker(TrackConfig(trackers=("none",))), NullTracker)


def test_the_wandb_workspace_shows_metrics_that_are_logged():
    import runpy

    from dfl_ray.tracking.metrics import METRIC_OF_COLUMN

    script = Path(__file__).resolve().parents[4] / "docs/wandb/make_workspace.py"
    panels = [panel for section in runpy.run_path(str(script))["SECTIONS"].values() for panel in section]
    named = {metric for _, x, metrics in panels for metric in (x, *metrics)}
    assert named == set(METRIC_OF_COLUMN.values())


class Failing:
    """Raises in the function that it is told."""

    def __init__(self, track, *, name, say, verbose, at="none"):
        self.at, self.told = at, []
        self._do("init")

    def _do(self, what):
        if what == self.at:
            raise RuntimeError(f"boom {what}\nsecond line")
        self.told.append(what)

    def start(self, run_folder, config, resume_id=None):
        self._do("start")

    def log_round(self, row, extras=None):
        self._do("log_round")

    def save_adapters(self, path):
        self._do("save_adapters")

    def finish(self, summary=None, *, failed=False):
        self._do("finish")


def failing(monkeypatch, at, said):
    monkeypatch.setitem(TRACKERS._loaded, "own", Failing)
    options = {"own": {"at": at}}
    return make_tracker(TrackConfig.model_construct(trackers=("own",), options=options), say=said.append)


@pytest.mark.parametrize(
    ("at", "heard"),
    [
        ("start", []),
        ("log_round", ["start", "save_adapters", "finish"]),
        ("save_adapters", ["start", "log_round", "log_round", "finish"]),
        ("finish", ["start", "log_round", "log_round", "save_adapters"]),
    ],
)
def test_no_failure_of_an_installed_tracker_comes_out_and_the_first_is_told(monkeypatch, tmp_path, at, heard):
    said: list[str] = []
    tracker = failing(monkeypatch, at, said)
    tracker.start(None, {})  # type: ignore[arg-type]
    for round_index in (1, 2):
        tracker.log_round({"round": round_index})
    tracker.save_adapters(tmp_path)
    tracker.finish({})
    (line,) = said
    assert line.startswith("Tracker `own` ") and f"(boom {at})" in line and "the run goes on" in line
    assert tracker.tracker.told == ["init", *heard]  # type: ignore[attr-defined]


def test_an_installed_tracker_that_cannot_be_made_is_wrong_input(monkeypatch):
    with pytest.raises(InputError, match=r"`own` cannot be made\. Got: RuntimeError: boom init"):
        failing(monkeypatch, "init", [])
