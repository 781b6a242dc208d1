"""What is going on right now: the open stage of a run, how far it is, and lines about it while it takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]

SPEAK_EVERY_S = 30.0
"""Seconds after which, and at which distance, a stage that goes on is told about."""


@dataclass
class Stage:
    """One stage while it is open.

    Attributes:
        name: What is being done, for example `evaluate`.
        began_s: When it began, in seconds of the clock.
        done: Parts that are done, for example actors that have answered.
        total: Parts in all; 0 where they are not counted.
        before_s: How long the stage of this name took the last time; None at the first time.
    """

    name: str
    began_s: float
    done: int = 0
    total: int = 0
    before_s: float | None = None

    def line(self, now_s: float) -> str:
        """How far the stage is, in one short line.

        Args:
            now_s: The present, in seconds of the clock.

        Returns:
            For example `evaluate: 1 min 02 s so far, 3 of 10 parts done, the last time it took 80.0 s`.
        """
        parts = [f"{self.name}: {duration(now_s - self.began_s)} so far"]
        if self.total > 1:
            parts.append(f"{self.done} of {self.total} parts done")
        if self.before_s is not None:
            parts.append(f"the last time it took {duration(self.before_s)}")
        return ", ".join(parts)


class Stages:
    """The stages of one run, one inside the other; tells about the innermost while it takes long.

    Args:
        tell: Called from another thread with a stage that has been open for `every_s`, and again after each further
            `every_s`; None tells nobody.
        clock: Gives real time in seconds.
        every_s: Seconds between two calls.
    """

    def __init__(
        self,
        tell: Callable[[Stage], None] | None,
        clock: Clock = time.monotonic,
        every_s: float = SPEAK_EVERY_S,
    ) -> None:
        self.clock = clock
        self._tell = tell
        self._every_s = every_s
        self._open: list[Stage] = []
        self._took_s: dict[str, float] = {}

    @property
    def current(self) -> Stage | None:
        """The innermost open stage, None between stages."""
        return self._open[-1] if self._open else None

    def advance(self, done: int, total: int) -> None:
        """Note how far the innermost stage is; without one nothing happens.

        Args:
            done: Parts that are done.
            total: Parts in all.
        """
        if self._open:
            self._open[-1].done, self._open[-1].total = done, total

    @contextmanager
    def open(self, name: str) -> Iterator[Stage]:
        """Hold a stage open while the block runs.

        Args:
            name: What is being done.
        """
        stage = Stage(name, self.clock(), before_s=self._took_s.get(name))
        self._open.append(stage)
        ended = threading.Event()
        if self._tell is not None:
            threading.Thread(target=self._watch, args=(stage, ended), daemon=True, name="progress").start()
        try:
            yield stage
        finally:
            ended.set()
            self._open.remove(stage)
            self._took_s[name] = self.clock() - stage.began_s

    def _watch(self, stage: Stage, ended: threading.Event) -> None:
        assert self._tell is not None
        while not ended.wait(self._every_s):
            if self.current is stage:
                self._tell(stage)


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
