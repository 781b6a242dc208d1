"""Coverage of Ray's workers: they are killed, and what a killed process has measured is lost unless it is saved before.

Under `coverage run`, every worker measures itself (`patch = ["subprocess", "fork"]` in pyproject.toml) and saves its
data at SIGUSR1 (`save_signal`). `keep_data_of_killed_workers` sends that signal before `ray.kill` and `ray.shutdown`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

LONGEST_WAIT_S = 5.0


@contextmanager
def keep_data_of_killed_workers() -> Iterator[None]:
    """While this lasts, workers save what they have measured before they are ended; nothing without coverage."""
    if "COVERAGE_PROCESS_CONFIG" not in os.environ:
        yield
        return
    import ray

    kill, shutdown = ray.kill, ray.shutdown
    ray.kill, ray.shutdown = saving_first(kill), saving_first(shutdown)
    try:
        yield
    finally:
        ray.kill, ray.shutdown = kill, shutdown


def saving_first(end: Callable[..., Any]) -> Callable[..., Any]:
    """`end`, with the workers' data saved before it."""

    def save_and_end(*arguments: Any, **named: Any) -> Any:
        save_data_of_workers()
        return end(*arguments, **named)

    return save_and_end


def save_data_of_workers() -> None:
    """Ask every worker below this process to save, and wait until each has or `LONGEST_WAIT_S` are over."""
    from coverage import Coverage

    current = Coverage.current()
    if current is None or not current.config.data_file:
        return
    data = Path(current.config.data_file)
    asked = time.time()
    waiting = [
        process.pid for process in psutil.Process().children(recursive=True) if _asked_to_save(process)
    ]
    while waiting and time.time() < asked + LONGEST_WAIT_S:
        time.sleep(0.05)
        waiting = [pid for pid in waiting if psutil.pid_exists(pid) and not _saved(data, pid, asked)]


def _asked_to_save(process: psutil.Process) -> bool:
    """Signal a worker; other processes, which a signal that they do not expect would end, are left alone."""
    with suppress(psutil.Error, OSError, ValueError):
        command = " ".join(process.cmdline())
        if not (command.startswith("ray::") or "default_worker" in command or "actors.forks" in command):
            return False
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        if caught >> (signal.SIGUSR1 - 1) & 1:
            process.send_signal(signal.SIGUSR1)
            return True
    return False


def _saved(data: Path, pid: int, since: float) -> bool:
    found = data.parent.glob(f"{data.name}.*.pid{pid}.*")
    return any(path.stat().st_mtime >= since - 1 for path in found if not path.name.endswith("-journal"))
