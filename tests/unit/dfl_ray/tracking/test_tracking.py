"""W&B offline for real, its environment, trackers, summaries, the closing table."""

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
from dfl_ray.records.results import holders, last_evaluation, method_rule, summary, task_lines
from dfl_ray.records.words import share, size
from dfl_ray.tracking.metrics import METRIC_OF_COLUMN, scalar_metrics, summary_metrics
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


def test_final_figures_have_one_name_each(run: Run):
    found = summary_metrics({**summary(run), "mine/x": 7})
    assert all("/" in name for name in found) and found["mine/x"] == 7
    assert found["accuracy/mean"] == summary(run)["accuracy_mean"]
    assert found["comm/total_bytes"] == run.rounds["payload_bytes"].sum()


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
    root = str(Path(__file__).resolve().parents[4])
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
    for column, name in METRIC_OF_COLUMN.items():
        logged = [value for part in (first, second) for value in history_of(part).get(name, [])]
        recorded = load_run(path).rounds[column].dropna().tolist()
        if (
            name == "round"
        ):  # the device table and the map are logged at a part's last round, which names it again
            logged = list(dict.fromkeys(logged))
        assert logged[: len(recorded)] == pytest.approx(recorded, rel=1e-12), name
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
    tracker._run = Broken()
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
    assert [guarded.tracker.told for guarded in both.trackers] == [
        [("-", "run"), *rest],
        [("+", "run"), *rest],
    ]


def test_a_run_without_trackers_tells_nobody():
    nobody = make_tracker(TrackConfig(trackers=()))
    assert isinstance(nobody, Trackers) and nobody.trackers == ()
    nobody.finish()


@pytest.mark.parametrize("width", [20, 34, 60, 66, 80, 200])
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
    assert all(task in joined for task in TASKS) and "before" in joined and "tuning" in joined


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
