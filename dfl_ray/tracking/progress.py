"""The progress of a run on the user's screen: set-up steps with their times, then rounds.

On a terminal a live line with a bar; elsewhere one short line for each set-up step and evaluated round; with
`quiet` nothing at all (for `--json`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dfl_ray.records.results import share, size

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

Clock = Callable[[], float]

LEAST_WIDTH_OF_BAR = 70
"""Columns of a terminal below which the bar gives way to the figures."""


class Progress(Protocol):
    """What the driver tells about a run while it goes."""

    def step(self, name: str) -> AbstractContextManager[None]:
        """Show a set-up step while the block runs, then the time it took."""
        ...

    def say(self, text: str) -> None:
        """Print one line without disturbing the display."""
        ...

    def rounds(self, total: int, start: int = 0) -> None:
        """Begin the rounds.

        Args:
            total: Rounds of the whole run.
            start: Rounds already done (after `resume`).
        """
        ...

    def update(self, row: Mapping[str, Any]) -> None:
        """Show a finished round; `row` is its row of `rounds`."""
        ...

    def finish(self, closing: Any = None) -> None:
        """End the display and print the closing table (any rich renderable or text), if given."""
        ...


def make_progress(*, quiet: bool = False, console: Console | None = None) -> Progress:
    """Make the progress that fits where the output goes.

    Args:
        quiet: Show nothing.
        console: Where to print; none = standard output.

    Returns:
        A live line on a terminal, else plain lines.
    """
    if quiet:
        return QuietProgress()
    from rich.console import Console

    console = console or Console(highlight=False)
    return (
        LiveProgress(console)
        if console.is_terminal and not console.is_dumb_terminal
        else PlainProgress(console)
    )


class QuietProgress:
    """Shows nothing."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Do nothing around the block."""
        yield

    def say(self, text: str) -> None:
        """Do nothing."""

    def rounds(self, total: int, start: int = 0) -> None:
        """Do nothing."""

    def update(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, closing: Any = None) -> None:
        """Do nothing."""


@dataclass
class Tally:
    """Running totals behind the display; wall time is measured here, so that resumed rounds do not count.

    Attributes:
        clock: Gives real time in seconds.
        total: Rounds of the whole run.
        done: Rounds done, with those before a resume.
        payload_bytes: Bytes put on air since the display began; a broadcast counts once.
        simulated_s: Virtual clock, seconds.
        accuracy: Last measured mean accuracy, a share in [0, 1].
        loss: Training loss of the last round, nats a token.
        delivered: Delivered share of the last round, in [0, 1].
    """

    clock: Clock = time.monotonic
    total: int = 0
    done: int = 0
    payload_bytes: int = 0
    simulated_s: float = 0.0
    accuracy: float | None = None
    loss: float | None = None
    delivered: float | None = None
    _begun_s: float = 0.0
    _begun_at: int = 0

    def begin(self, total: int, start: int) -> None:
        """Start counting.

        Args:
            total: Rounds of the whole run.
            start: Rounds already done.
        """
        self.total, self.done = total, start
        self._begun_s, self._begun_at = self.clock(), start

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a finished round.

        Args:
            row: Its row of `rounds`; figures that are missing or null stay as they were or are left out.
        """
        self.done = int(row["round"])
        self.payload_bytes += int(row.get("payload_bytes") or 0)
        self.simulated_s = _number(row.get("simulated_s")) or self.simulated_s
        self.loss = _number(row.get("train_loss"))
        self.delivered = _number(row.get("delivered_fraction"))
        accuracy = _number(row.get("accuracy_mean"))
        self.accuracy = self.accuracy if accuracy is None else accuracy

    @property
    def wall_s(self) -> float:
        """Real time since the rounds began."""
        return self.clock() - self._begun_s

    @property
    def left_s(self) -> float | None:
        """Real time left at the mean pace so far; None before the first round is done."""
        done = self.done - self._begun_at
        return self.wall_s / done * (self.total - self.done) if done > 0 else None

    def line(self) -> str:
        """All of it as one short line."""
        learning, cost = self.figures()
        return ", ".join([f"round {self.done}/{self.total}", *learning, *cost])

    def figures(self) -> tuple[list[str], list[str]]:
        """What is known of learning, and of cost and time."""
        learning: list[str] = []
        if self.loss is not None:
            learning.append(f"loss {self.loss:.3f}")
        if self.accuracy is not None:
            learning.append(f"accuracy {share(self.accuracy)}")
        if self.delivered is not None:
            learning.append(f"delivered {share(self.delivered)}")
        cost = [f"{size(self.payload_bytes)} sent"]
        cost.append(f"{duration(self.simulated_s)} simulated in {duration(self.wall_s)}")
        if self.left_s is not None:
            cost.append(f"{duration(self.left_s)} left")
        return learning, cost


class PlainProgress:
    """One short line for each set-up step and each evaluated round; for logs and pipes."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._tally = Tally(clock)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print the step with its time once it is done, or that it failed."""
        begun_s = self._clock()
        try:
            yield
        except BaseException:
            self.say(f"{name}: stopped after {duration(self._clock() - begun_s)}")
            raise
        self.say(f"{name}: {duration(self._clock() - begun_s)}")

    def say(self, text: str) -> None:
        """Print one line, unwrapped."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def rounds(self, total: int, start: int = 0) -> None:
        """Begin the rounds; see `Progress.rounds`."""
        self._tally.begin(total, start)

    def update(self, row: Mapping[str, Any]) -> None:
        """Print the round if it was evaluated or is the last."""
        self._tally.add(row)
        if _number(row.get("accuracy_mean")) is not None or self._tally.done == self._tally.total:
            self.say(self._tally.line())

    def finish(self, closing: Any = None) -> None:
        """Print the closing table."""
        if closing is not None:
            self._console.print(closing, crop=False)  # a path stays whole in a narrow terminal


class LiveProgress:
    """A spinner for each set-up step, then a bar with the figures of the run, on a terminal."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self.clock = clock
        self._tally = Tally(clock)
        self._bar: Any = None
        self._task: Any = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Spin while the block runs, then leave a line with a tick and the time."""
        begun_s = self.clock()
        spinner = self.console.status(f"{name} …") if self._bar is None else None
        try:
            if spinner is not None:
                spinner.start()
            yield
        except BaseException:
            self.console.print(f"[red]✗[/] {name} [dim]stopped after {duration(self.clock() - begun_s)}[/]")
            raise
        else:
            self.console.print(f"[green]✓[/] {name} [dim]{duration(self.clock() - begun_s)}[/]")
        finally:
            if spinner is not None:
                spinner.stop()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def rounds(self, total: int, start: int = 0) -> None:
        """Show the bar; see `Progress.rounds`."""
        from rich.progress import BarColumn, ProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._tally.begin(total, start)
        columns: list[ProgressColumn] = [TextColumn("[bold]{task.completed:.0f}/{task.total:.0f}[/]")]
        if self.console.width >= LEAST_WIDTH_OF_BAR:
            columns.append(BarColumn(bar_width=18))
        fold = Column(no_wrap=False, overflow="fold")
        columns.append(TextColumn("{task.fields[figures]}", table_column=fold))
        self._bar = RichProgress(*columns, console=self.console, transient=True)
        self._task = self._bar.add_task("rounds", total=total, completed=start, figures="")
        self._bar.start()

    def update(self, row: Mapping[str, Any]) -> None:
        """Move the bar; keep a line above it for each evaluated round."""
        self._tally.add(row)
        if _number(row.get("accuracy_mean")) is not None:
            self.say(self._tally.line())
        if self._bar is not None:
            learning, cost = self._tally.figures()
            # Two lines, so that all of it fits on a terminal 80 columns wide.
            figures = ", ".join(learning) + "\n" + ", ".join(cost)
            self._bar.update(self._task, completed=self._tally.done, figures=figures)

    def finish(self, closing: Any = None) -> None:
        """Take the bar away and print the closing table. Repeating it does not draw the bar again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if closing is not None:
            self.console.print(closing, crop=False)  # as above


def duration(seconds: float) -> str:
    """Write a time span in the unit that suits it: `0.34 s`, `12.1 s`, `3 min 05 s`, `2 h 10 min`.

    Args:
        seconds: The span in s, >= 0.

    Returns:
        The text; minutes and hours are cut, not rounded.
    """
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
