"""Ctrl-C, SIGTERM and SIGHUP: a run is stopped at a round boundary and saved, or at once where there is no time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dfl_ray.errors import Interrupted, resume_line, tell

SHARE_FOR_THE_ROUND = 0.5
"""Share of the grace time that the round under way gets; the rest is for ending actors and Ray."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came where nothing is to be saved; handled like Ctrl-C."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise `Stopped`, so that all that was started is ended; in the main thread only.

    A SIGHUP that is ignored already (`nohup`) stays ignored.

    Yields:
        Nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            let_go_of_terminal()
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def let_go_of_terminal() -> None:
    """Point standard output and error nowhere if they are a terminal: one that has hung up refuses every word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        # A terminal that has hung up is no longer told from other files by isatty.
        with contextlib.suppress(OSError):
            os.write(stream, b"")
            if not os.isatty(stream):
                continue
        os.dup2(nowhere, stream)
    os.close(nowhere)


@contextmanager
def stop_on_signals(folder: Path, grace_s: float) -> Iterator[Callable[[], bool]]:
    """Stop a run's rounds on signals: the first asks for an end at the round boundary, a second Ctrl-C ends at once.

    After SIGTERM and SIGHUP the round under way has `SHARE_FOR_THE_ROUND` of the grace time; then the run stops inside
    it, and goes on later from its last checkpoint. Elsewhere than in the main thread no signal is taken.

    Args:
        folder: The run folder, for the line that says how to go on.
        grace_s: Seconds between the signal and the end of the process.

    Yields:
        What the driver asks at every round boundary.
    """
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted.is_set
        return

    def ask(number: int, _frame: object) -> None:
        if wanted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        wanted.set()
        if number == signal.SIGINT:
            tell("\nStopping after this round; press Ctrl-C again to stop at once.")
            return
        if number == signal.SIGHUP:
            let_go_of_terminal()
        tell(f"Stopping after this round, since {signal.Signals(number).name} came.")
        signal.setitimer(signal.ITIMER_REAL, SHARE_FOR_THE_ROUND * grace_s)

    def give_up(_number: int, _frame: object) -> None:
        raise Interrupted(
            f"Stopped inside a round, since it would have taken more than half of `runtime.grace_s` ({grace_s:g} s). "
            f"Go on from the last checkpoint with: {resume_line(folder)}"
        )

    handlers: dict[int, Any] = {
        signal.SIGINT: ask,
        signal.SIGTERM: ask,
        signal.SIGHUP: ask,
        signal.SIGALRM: give_up,
    }
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield wanted.is_set
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
