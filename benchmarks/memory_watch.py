"""A thread that looks at something, mostly memory, every so often while a benchmark goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Watch:
    """Calls a function from a thread until it is stopped.

    Args:
        look: What is called; False ends the watch.
        every_s: Time between looks.
    """

    def __init__(self, look: Callable[[], bool], every_s: float) -> None:
        self._look, self._every_s, self._done = look, every_s, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._every_s) and self._look():
            pass
