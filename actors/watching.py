"""Whether the services of Ray that this process cannot do without are alive: its raylet and the control service.

Ray itself ends a process whose raylet is gone at once and without a word, and one whose control service is gone after a
minute. So both are looked at from a thread, beginning while Ray starts: a start whose service is killed waits for ever.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

SERVICES = ("gcs_server", "raylet")
UNREACHABLE_S = 20.0
"""Seconds for which the control service of a joined cluster may be out of reach; one that is started again is found."""


class ServiceWatch:
    """Remembers the services once they are seen, and tells when one is lost.

    Args:
        clock: Gives real time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, psutil.Process] = {}
        self._control: tuple[str, int] | None = None
        self._unreachable_since: float | None = None

    def join(self, raylet_socket: str, control: str) -> None:
        """Watch the services of a joined cluster: the raylet of this machine, and the control service by its port.

        Args:
            raylet_socket: Path of the socket by which this process talks to its raylet.
            control: The control service's host:port.
        """
        host, _, port = control.rpartition(":")
        self._control = (host.strip("[]"), int(port))
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or ()
            # Whole: of several raylets on a machine the first one's path begins those of the others.
            if process.info["name"] == "raylet" and any(w.rpartition("=")[2] == raylet_socket for w in words):
                self._seen[process.pid] = process

    def lost(self) -> bool:
        """Whether a service that was seen is gone; looks for those of a Ray started here that have come up since."""
        if self._control is None and len(self._seen) < len(SERVICES):
            self._look_for_children()
        return any(map(_has_ended, self._seen.values())) or self._out_of_reach()

    def _look_for_children(self) -> None:
        with suppress(psutil.Error):
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    if child.name() in SERVICES:
                        self._seen.setdefault(child.pid, child)

    def _out_of_reach(self) -> bool:
        if self._control is None:
            return False
        try:
            socket.create_connection(self._control, timeout=2.0).close()
        except OSError:
            now = self._clock()
            if self._unreachable_since is None:
                self._unreachable_since = now
            return now - self._unreachable_since > UNREACHABLE_S
        self._unreachable_since = None
        return False


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
