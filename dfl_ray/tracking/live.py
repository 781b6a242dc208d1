"""The progress of a run on a terminal: spinners, the bar of the rounds, and a bar of its own for a long stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dfl_ray.tracking.stages import Clock, Stage, Stages, duration
from dfl_ray.tracking.tally import Tally, number_or_none
from dfl_ray.tracking.terminal import broken

if TYPE_CHECKING:
    from rich.console import Console

LEAST_WIDTH_OF_BAR = 70
"""Columns of a terminal below which the bar gives way to the figures."""

SHOW_AFTER_S = 2.0
"""Seconds after which a stage gets a bar of its own, and between two looks at it."""


class LiveProgress:
    """A spinner for each set-up step, then a bar with the figures of the run, on a terminal."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self.clock = clock
        self._tally = Tally(clock)
        self._bar: Any = None
        self._task: Any = None
        self._stages = Stages(self._show_stage, clock, SHOW_AFTER_S)
        self._stage_task: Any = None
        self._spinners: dict[str, Any] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Spin while the block runs, then leave a line with a tick and the time."""
        begun_s = self.clock()
        spinner = self.console.status(f"{name} …") if self._bar is None else None
        try:
            if spinner is not None:
                spinner.start()
            with self._stages.open(name) as stage:
                self._spinners[stage.name] = spinner
                yield
        except BaseException:
            self.console.print(f"[red]✗[/] {name} [dim]stopped after {duration(self.clock() - begun_s)}[/]")
            raise
        else:
            self.console.print(f"[green]✓[/] {name} [dim]{duration(self.clock() - begun_s)}[/]")
        finally:
            if spinner is not None:
                spinner.stop()
            self._spinners.pop(name, None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A bar of its own for a stage that takes longer than two seconds, taken away at its end."""
        spinner = self.console.status(f"{name} …") if self._bar is None else None
        try:
            if spinner is not None:
                spinner.start()
            with self._stages.open(name):
                self._spinners[name] = spinner
                yield
        finally:
            if spinner is not None:
                spinner.stop()
            self._spinners.pop(name, None)
            self._hide_stage()

    def advance(self, done: int, total: int) -> None:
        """See `Progress.advance`."""
        self._stages.advance(done, total)

    def _show_stage(self, stage: Stage) -> None:
        """Show how far a long stage is: beside its spinner, or as a second bar below that of the rounds."""
        spinner, text = self._spinners.get(stage.name), stage.line(self.clock())
        if spinner is not None:
            spinner.update(f"{text} …")
        elif self._bar is not None:
            bar = {"total": stage.total or None, "completed": stage.done, "figures": text}
            if self._stage_task is None:
                self._stage_task = self._bar.add_task("stage", **bar)
            else:
                self._bar.update(self._stage_task, **bar)

    def _hide_stage(self) -> None:
        if self._stage_task is not None and self._bar is not None:
            self._bar.remove_task(self._stage_task)
        self._stage_task = None

    def say(self, text: str) -> None:
        """Print one line above the bar, broken between words; a path that is longer than the terminal stays whole."""
        for line in broken(text, self.console.width):
            self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def rounds(self, total: int, start: int = 0, sent_bytes: int = 0) -> None:
        """Show the bar; see `Progress.rounds`."""
        from rich.progress import BarColumn, ProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._tally.begin(total, start, sent_bytes)
        columns: list[ProgressColumn] = [TextColumn("[bold]{task.completed:.0f}/{task.total}[/]")]
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
        if number_or_none(row.get("accuracy_mean")) is not None:
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
            self.console.print(closing, crop=False)  # as in PlainProgress
