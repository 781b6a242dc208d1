"""The progress of a run on the user's screen: set-up steps with their times, then rounds.

On a terminal a live line with a bar; elsewhere one short line for each set-up step and each round, and one every 30 s
in a stage that takes longer; with `quiet` nothing at all (`-q`, `--json`). `recorded.py` keeps it in the run folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from dfl_ray.tracking.stages import SPEAK_EVERY_S, Clock, Stage, Stages, duration
from dfl_ray.tracking.tally import Tally

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console


class Progress(Protocol):
    """What the driver tells about a run while it goes."""

    def step(self, name: str) -> AbstractContextManager[None]:
        """Show a set-up step while the block runs, then the time it took."""
        ...

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Hold a part of a round open (training, planning, evaluation); told about only when it takes long."""
        ...

    def advance(self, done: int, total: int) -> None:
        """Note how far the open step or stage is: parts done, parts in all."""
        ...

    def say(self, text: str) -> None:
        """Print one line without disturbing the display."""
        ...

    def rounds(self, total: int, start: int = 0, sent_bytes: int = 0) -> None:
        """Begin the rounds.

        Args:
            total: Rounds of the whole run.
            start: Rounds already done (after `resume`).
            sent_bytes: Bytes that those rounds have put on air.
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
    from dfl_ray.tracking.console import LastingConsole
    from dfl_ray.tracking.live import LiveProgress

    console = console or LastingConsole(highlight=False)
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

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Do nothing around the block."""
        yield

    def advance(self, done: int, total: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def rounds(self, total: int, start: int = 0, sent_bytes: int = 0) -> None:
        """Do nothing."""

    def update(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, closing: Any = None) -> None:
        """Do nothing."""


class PlainProgress:
    """One short line for each set-up step and each round, and in long stages one every 30 s; for logs and pipes."""

    def __init__(
        self, console: Console, clock: Clock = time.monotonic, speak_every_s: float = SPEAK_EVERY_S
    ) -> None:
        self._console = console
        self._clock = clock
        self._tally = Tally(clock)
        self._stages = Stages(self._speak, clock, speak_every_s)

    def _speak(self, stage: Stage) -> None:
        where = (
            f"round {self._tally.done + 1}/{self._tally.total}, "
            if self._tally.done < self._tally.total
            else ""
        )
        self.say(where + stage.line(self._clock()))

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """See `Progress.stage`; a line every 30 s."""
        return self._stages.open(name)

    def advance(self, done: int, total: int) -> None:
        """See `Progress.advance`."""
        self._stages.advance(done, total)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print the step with its time once it is done, or that it failed."""
        begun_s = self._clock()
        try:
            with self._stages.open(name):
                yield
        except BaseException:
            self.say(f"{name}: stopped after {duration(self._clock() - begun_s)}")
            raise
        self.say(f"{name}: {duration(self._clock() - begun_s)}")

    def say(self, text: str) -> None:
        """Print one line, unwrapped."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def rounds(self, total: int, start: int = 0, sent_bytes: int = 0) -> None:
        """Begin the rounds; see `Progress.rounds`."""
        self._tally.begin(total, start, sent_bytes)

    def update(self, row: Mapping[str, Any]) -> None:
        """Print the round."""
        self._tally.add(row)
        self.say(self._tally.line())

    def finish(self, closing: Any = None) -> None:
        """Print the closing table."""
        if closing is not None:
            self._console.print(closing, crop=False)  # a path stays whole in a narrow terminal
