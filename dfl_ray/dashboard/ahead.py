"""What a page will ask for, made while the browser still reads its scripts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress


class Ahead:
    """Calls makers in a thread of its own, one at a time and in order; what they make is kept where they keep it.

    Whoever asks for the same meanwhile waits for it there (`Figures.json`, `Library.text`), and is told of errors.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._last: Future[None] | None = None

    def make(self, *makers: Callable[[], object]) -> None:
        """Begin to call makers, behind those of earlier pages.

        Args:
            makers: What to call; an error of one is left to whoever asks for it.
        """
        self._last = self._pool.submit(_call, makers)

    def settle(self, most_s: float = 10.0) -> None:
        """Wait until all begun is made, so that what comes lower on the page does not hold up what comes first.

        Args:
            most_s: Longest wait.
        """
        if self._last is not None:
            wait([self._last], most_s)


def _call(makers: tuple[Callable[[], object], ...]) -> None:
    for maker in makers:
        with suppress(Exception):
            maker()
