"""W&B offline for real, progress on and off a terminal, the closing table."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dfl_ray.config.schema import TrackConfig, WandbConfig
from dfl_ray.records import Run, RunFolder, load_run
from dfl_ray.records.results import holders, last_evaluation, method_rule, share, size, summary, task_lines
from dfl_ray.tracking.metrics import METRIC_OF_COLUMN, scalar_metrics
from dfl_ray.tracking.progress import (
    LiveProgress,
    PlainProgress,
    QuietProgress,
    Tally,
    duration,
    make_progress,
)
from dfl_ray.tracking.summary import closing_table
from dfl_ray.tracking.table import TRACKERS
from dfl_ray.tracking.tracker import NullTracker, Trackers, make_tracker
from dfl_ray.tracking.wandb_tracker import Mode, wandb_mode
from tests.fake_run import TASKS, Fake, write_fake_run

NAMES = {
    "round", "accuracy/mean", "accuracy/worst_task", "forgetting/mean", "interference_gap", "comm/bytes",
    "comm/airtime_s", "comm/energy_j", "comm/delivered_fraction", "comm/sinr_db/p05", "comm/sinr_db/p50",
    "comm/sinr_db/p95", "consensus/distance", "collision/b", "collision/delta_w", "train/loss",
    "time/round_wall_s", "time/simulated_s", "time/overhead_fraction", "ray/object_store_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(write_fake_run(tmp_path_factory.mktemp("runs"), fake=Fake(rounds=6, every=2)))


def test_metric_names_are_those_of_the_design():
    assert set(METRIC_OF_COLUMN.values()) == NAMES


def test_scalars_leave_out_what_is_not_known():
    row = {"round": np.int64(3), "accuracy_mean": float("nan"), "interference_gap": None, "airtime_s": 0.5}
    metrics = scalar_metrics(
        row, {"accuracy_by_task": {"a": 0.5}, "actors": 2, "sinr_db": [1.0], "mine/x": 7}
    )
    expected = {"round": 3, "comm/airtime_s": 0.5, "accuracy/task/a": 0.5, "ray/actors": 2, "mine/x": 7}
    assert metrics == expected
    assert type(metrics["round"]) is int


WANDB_RUN = """
import sys
from pathlib import Path
from dfl_ray.config.schema import TrackConfig, WandbConfig
from dfl_ray.records import RunFolder, load_run
from dfl_ray.tracking.tracker import make_tracker

path, mode, first, last, resume, adapters = sys.argv[1:]
folder = RunFolder.open(path)
settings = TrackConfig(wandb=WandbConfig(mode=mode, group="g", tags=("t",)))
tracker = make_tracker(settings, say=lambda line: print("SAID", line))
tracker.start(folder, {"seed": 0, "method": {"type": "x"}}, resume or None)
rows = load_run(path).rounds
for row in rows.to_dict("records")[int(first) : int(last)]:
    extras = {"accuracy_by_task": {"sum": 0.5}, "sinr_db": [1.0, 2.0], "device_accuracy": [0.1], "actors": 10}
    tracker.log_round(row, extras)
if adapters:
    tracker.save_adapters(Path(adapters))
tracker.finish({"accuracy/final": 0.8})
print("ID", folder.info["wandb"]["id"], folder.info["wandb"]["mode"])
folder.close()
"""


def track(path: Path, env: dict[str, str], *arguments: str) -> list[str]:
    command = [sys.executable, "-c", WANDB_RUN, str(path), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=env, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def clean_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which W&B finds no key, whatever the machine has."""
    import os

    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    home = tmp_path / "home"
    home.mkdir()
    root = str(Path(__file__).resolve().parents[2])
    return {**kept, "HOME": str(home), "NETRC": str(home / "none"), "PYTHONPATH": root}


def records_of(folder: Path) -> list[dict]:
    """Read a .wandb file back with W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_offline_run_and_its_resumption_hold_the_names_and_steps(tmp_path: Path, clean_env: dict[str, str]):
    path = write_fake_run(tmp_path, fake=Fake(rounds=4, every=2))
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "a.safetensors").write_bytes(b"0" * 64)
    said = track(path, clean_env, "auto", "0", "2", "", "")
    identity, mode = said[-1].split()[1:]
    assert mode == "offline"
    said = track(path, clean_env, "auto", "2", "4", identity, str(adapters))
    assert said[-1].split()[1] == identity
    lines = [line for line in said if line.startswith("SAID")]
    assert len(lines) == 2 and "wandb sync" in lines[0] and "wandb beta leet" in lines[1]
    folders = sorted((path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(folder.name.endswith(identity) for folder in folders)
    assert all(folder.name in lines[0] for folder in folders)
    first, second = (records_of(folder) for folder in folders)
    assert history_of(first)["round"][:2] == [1, 2] and history_of(second)["round"][:2] == [3, 4]
    names = set(history_of(first)) | set(history_of(second))
    unrecorded = {"interference_gap", "ray/object_store_bytes"}
    assert names >= NAMES - unrecorded
    assert names >= {"accuracy/task/sum", "ray/actors", "comm/sinr_db/histogram", "accuracy/devices"}
    assert names >= {"devices", "topology"}
    text = json.dumps(second)
    assert f"adapters-{identity}" in text and "accuracy/final" in text
    metrics = [record["metric"] for record in first if record["type"] == "metric"]
    assert {"name": "round", "options": {"defined": True}} in metrics
    assert any(m.get("name") == "time/simulated_s" and m["step_metric"] == "round" for m in metrics)


def history_of(records: list[dict]) -> dict[str, list]:
    """Values of each metric in the order logged; parts of a histogram or a table under its name."""
    found: dict[str, list] = {}
    for record in records:
        if record["type"] == "history":
            item = record["history"]["item"]
            if "comm/bytes" in item:
                assert item["_step"] == item["round"]
            for name, value in item.items():
                found.setdefault(name.split("._type")[0], []).append(value)
    return found


@pytest.mark.slow
def test_online_without_an_answering_server_goes_on_offline(tmp_path: Path, clean_env: dict[str, str]):
    path = write_fake_run(tmp_path, fake=Fake(rounds=2))
    env = {**clean_env, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    said = track(path, env, "online", "0", "2", "", "")
    assert said[-1].split()[2] == "offline"
    assert sum("W&B is not reachable" in line for line in said) == 1


def test_a_failing_log_call_warns_once_and_the_run_goes_on(tmp_path: Path):
    class Broken:
        offline = False

        def log(self, *_args, **_kwargs):
            raise OSError("disk full")

    lines: list[str] = []
    tracker = make_tracker(TrackConfig(wandb=WandbConfig(mode="offline")), say=lines.append)
    tracker._run = Broken()  # pyright: ignore[reportAttributeAccessIssue]
    for number in (1, 2, 3):
        tracker.log_round({"round": number})
    assert len(lines) == 1 and "disk full" in lines[0]


def test_disabled_tracks_nothing(tmp_path: Path):
    tracker = make_tracker(TrackConfig(wandb=WandbConfig(mode="disabled")))
    folder = RunFolder.create(tmp_path, "x", {})
    tracker.start(folder, {}, None)
    tracker.log_round({"round": 1}, {})
    tracker.finish()
    assert isinstance(tracker, NullTracker) and not (folder.path / "wandb").exists()
    assert "wandb" not in folder.info


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_plain_progress_prints_a_line_for_each_step_and_evaluated_round():
    out, clock = io.StringIO(), Clock()
    progress = PlainProgress(Console(file=out, width=200), clock)
    with progress.step("load model"):
        clock.now_s += 2.5
    progress.rounds(4)
    for number in range(1, 5):
        clock.now_s += 3
        accuracy = 0.5 if number == 2 else None
        row = {
            "round": number,
            "payload_bytes": 1000,
            "simulated_s": 10.0 * number,
            "accuracy_mean": accuracy,
        }
        progress.update({**row, "train_loss": 0.25, "delivered_fraction": float("nan")})
    progress.finish("the end")
    assert out.getvalue().splitlines() == [
        "load model: 2.50 s",
        "round 2/4, loss 0.250, accuracy 50.0 %, 2 kB sent, 20.0 s simulated in 6.00 s, 6.00 s left",
        "round 4/4, loss 0.250, accuracy 50.0 %, 4 kB sent, 40.0 s simulated in 12.0 s, 0.00 s left",
        "the end",
    ]


def test_a_step_that_fails_is_shown_and_its_error_goes_on():
    out = io.StringIO()
    progress = PlainProgress(Console(file=out), Clock())
    with pytest.raises(KeyError), progress.step("build"):
        raise KeyError("x")
    assert out.getvalue().startswith("build: stopped")


def test_time_left_counts_only_rounds_done_here():
    clock = Clock()
    tally = Tally(clock)
    tally.begin(10, 6)
    assert tally.left_s is None
    clock.now_s = 5
    tally.add({"round": 7, "payload_bytes": 1})
    assert tally.left_s == pytest.approx(15)


def test_live_progress_fits_80_columns_and_leaves_the_evaluated_rounds():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    progress = LiveProgress(console)
    with progress.step("start actors"):
        pass
    progress.rounds(2)
    for number in (1, 2):
        row = {"round": number, "payload_bytes": 123456, "simulated_s": 1.0, "accuracy_mean": 0.5}
        progress.update({**row, "train_loss": 0.5, "delivered_fraction": 0.97})
    progress.finish("done")
    text = out.getvalue()
    figures = [
        line
        for line in re.split(r"\x1b\[[0-9;?]*[A-Za-z]|\n", text)
        if "left" in line and "round" not in line
    ]
    assert figures and not any("…" in line for line in figures)
    assert "start actors" in text and "round 2/2" in text and text.rstrip().endswith("done")
    assert "delivered 97.0 %" in text and max(map(len, figures)) <= 80


def test_progress_is_chosen_by_where_the_output_goes():
    assert isinstance(make_progress(quiet=True), QuietProgress)
    assert isinstance(make_progress(console=Console(file=io.StringIO())), PlainProgress)
    terminal = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    assert isinstance(make_progress(console=terminal), LiveProgress)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.344, "0.34 s"), (12.12, "12.1 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_read_well(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (4_972_800, "4.97 MB"), (1e13, "10 TB")]
)
def test_sizes_read_well(count: float, text: str):
    assert size(count) == text


def test_summary_equals_what_plain_numpy_finds(run: Run):
    figures = summary(run)
    rows = run.evaluation[(run.evaluation["round"] == 6) & (run.evaluation["rule"] == "likelihood")]
    by_task = {task: np.mean(rows["accuracy"][rows["task"] == task]) for task in TASKS}
    assert figures["accuracy_by_task"] == pytest.approx(by_task)
    assert figures["accuracy_mean"] == pytest.approx(np.mean(list(by_task.values())))
    assert figures["accuracy_worst_task"] == pytest.approx(min(by_task.values()))
    own = [a for d, t, a in zip(rows["device"], rows["task"], rows["accuracy"], strict=True)
           if t == "sum" and (d, t) in holders(run)]  # fmt: skip
    assert len(own) >= 3 and figures["holders_accuracy_by_task"]["sum"] == pytest.approx(np.mean(own))
    sent = run.transfers["payload_bytes"] * run.transfers["attempts"]
    assert figures["payload_bytes"] == sent.sum()
    assert figures["delivered_fraction"] == pytest.approx(run.transfers["delivered"].mean())
    assert set(figures["rules"]) == {"likelihood", "oracle", "sum"}
    json.dumps(figures)


def test_before_tuning_and_chance_stand_beside_the_accuracy(run: Run):
    for line in task_lines(run):
        assert line.chance == 0.125 and line.before is not None and line.before < 0.2 < line.accuracy


def test_rule_of_a_method_without_one_is_that_of_the_regular_evaluations(tmp_path: Path):
    run = load_run(write_fake_run(tmp_path, fake=Fake(method="dlora", rounds=4, every=2)))
    assert method_rule(run) == "sum"


def test_closing_table_shows_accuracy_cost_and_report(run: Run):
    out = io.StringIO()
    Console(file=out, width=100).print(closing_table(run, Path("runs/x/report.html")))
    text = out.getvalue()
    for task in TASKS:
        assert task in text
    figures = summary(run)
    for shown in (
        share(figures["accuracy_mean"]),
        size(figures["payload_bytes"]),
        "runs/x/report.html",
        "oracle",
    ):
        assert shown in text


def test_a_run_without_any_round_has_a_summary_and_a_table(tmp_path: Path):
    run = load_run(RunFolder.create(tmp_path, "x", {"method": {"type": "dlora"}}).path)
    assert summary(run)["accuracy_mean"] is None and len(last_evaluation(run)) == 0
    Console(file=io.StringIO()).print(closing_table(run))


class Noting:
    """A tracker that notes what it is told."""

    def __init__(self, track, *, name, say, verbose, mark="-"):
        self.told = [(mark, name)]

    def start(self, run_folder, config, resume_id=None):
        self.told.append(("start", config["seed"], resume_id))

    def log_round(self, row, extras=None):
        self.told.append(("round", row["round"]))

    def save_adapters(self, path):
        self.told.append(("adapters", path))

    def finish(self, summary=None, *, failed=False):
        self.told.append(("finish", summary, failed))


def test_every_tracker_named_is_told_everything(monkeypatch, tmp_path):
    monkeypatch.setitem(TRACKERS._loaded, "one", Noting)
    monkeypatch.setitem(TRACKERS._loaded, "two", Noting)
    track = TrackConfig.model_construct(trackers=("one", "two"), options={"two": {"mark": "+"}})
    both = make_tracker(track, name="run", say=print)
    assert isinstance(both, Trackers)
    both.start(None, {"seed": 3}, "id")  # type: ignore[arg-type]
    both.log_round({"round": 1})
    both.save_adapters(tmp_path)
    both.finish({"a": 1}, failed=True)
    rest = [("start", 3, "id"), ("round", 1), ("adapters", tmp_path), ("finish", {"a": 1}, True)]
    assert [tracker.told for tracker in both.trackers] == [[("-", "run"), *rest], [("+", "run"), *rest]]


def test_a_run_without_trackers_tells_nobody():
    nobody = make_tracker(TrackConfig(trackers=()))
    assert isinstance(nobody, Trackers) and nobody.trackers == ()
    nobody.finish()


@pytest.mark.parametrize("width", [20, 34, 80, 200])
def test_no_figure_is_lost_on_a_narrow_terminal(run: Run, width: int):
    """What stands in the tables at 200 columns stands on a terminal of any width, without an ellipsis."""
    texts = []
    for columns in (200, width):
        out = io.StringIO()
        Console(file=out, width=columns, color_system=None).print(closing_table(run))
        texts.append(out.getvalue())
    wide, narrow = texts
    assert "\u2026" not in narrow
    joined = "".join(narrow.split())
    for figure in re.findall(r"[0-9][0-9.,]* (?:%|s|J|[kMG]?B)", wide):
        assert figure.replace(" ", "") in joined
    assert all(task in joined for task in TASKS) and "beforetuning" in joined


@pytest.mark.parametrize("kind", [PlainProgress, LiveProgress])
def test_the_reports_path_is_whole_on_20_columns(kind: type[PlainProgress], run: Run):
    out = io.StringIO()
    path = Path("runs/a-run-with-a-long-name/report.html")
    kind(Console(file=out, width=20, color_system=None)).finish(closing_table(run, path))
    assert f"Report: {path}" in out.getvalue()


def test_live_progress_hides_no_figure_on_20_columns(run: Run):
    out = io.StringIO()
    progress = LiveProgress(Console(file=out, width=20, force_terminal=True, color_system=None))
    progress.rounds(6)
    for row in run.rounds.to_dict("records"):
        progress.update({str(k): v for k, v in row.items()})
    progress.finish()
    assert "\u2026" not in out.getvalue() and "loss" in out.getvalue()


@pytest.mark.parametrize(
    ("mode", "env", "expected"),
    [
        ("auto", {}, "auto"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_MODE": "Disabled"}, "disabled"),
        ("auto", {"WANDB_DISABLED": "true"}, "disabled"),
        ("offline", {"WANDB_DISABLED": "1"}, "disabled"),
        ("auto", {"WANDB_DISABLED": "false"}, "auto"),
        ("auto", {"WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("offline", {"WANDB_MODE": "online"}, "offline"),
        ("auto", {"WANDB_MODE": "nonsense"}, "auto"),
    ],
)
def test_the_environment_of_wandb_is_obeyed(mode: Mode, env: dict[str, str], expected: Mode):
    assert wandb_mode(mode, env)[0] == expected


def test_wandb_off_by_the_environment_is_said_and_tracks_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    said: list[str] = []
    assert isinstance(make_tracker(TrackConfig(wandb=WandbConfig(mode="auto")), say=said.append), NullTracker)
    assert said == ["W&B is off (WANDB_MODE=disabled)."]
