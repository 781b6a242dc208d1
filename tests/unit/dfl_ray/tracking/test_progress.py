"""Progress on and off a terminal: lines, time left, widths."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from dfl_ray.records import Run, load_run
from dfl_ray.records.words import size
from dfl_ray.tracking.live import LiveProgress
from dfl_ray.tracking.progress import PlainProgress, QuietProgress, make_progress
from dfl_ray.tracking.stages import duration
from dfl_ray.tracking.summary import closing_table
from dfl_ray.tracking.tally import Tally
from tests.fake_run import Fake, write_fake_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(write_fake_run(tmp_path_factory.mktemp("runs"), fake=Fake(rounds=6, every=2)))


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_plain_progress_prints_a_line_for_each_step_and_round():
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
        "round 1/4, loss 0.250, 1 kB sent, 10.0 s simulated in 3.00 s, 9.00 s left",
        "round 2/4, loss 0.250, accuracy 50.0 %, 2 kB sent, 20.0 s simulated in 6.00 s, 6.00 s left",
        "round 3/4, loss 0.250, accuracy 50.0 %, 3 kB sent, 30.0 s simulated in 9.00 s, 3.00 s left",
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
