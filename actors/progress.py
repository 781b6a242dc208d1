"""How far calls that take minutes are, told by the actors that carry them out.

An actor answers once, at the end. What it has done so far it leaves in Ray's key-value store every few seconds, under
its name and run, and who waits for it looks there: nobody interrupts anybody, and nothing is lost if it cannot be read.

Ray is imported where it is used: the fork server imports this module before a worker's environment, and with it the
mode of authentication, is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

NAMESPACE = "dfl-ray"
EVERY_S = 2.0
"""Time between two things told by one actor."""


class Told(NamedTuple):
    """How far one actor is: parts done, parts in all."""

    done: int
    total: int


@contextmanager
def _if_reachable() -> Iterator[None]:
    """Pass over what a store out of reach raises; whether Ray lives is asked elsewhere."""
    from ray.exceptions import RayError

    with suppress(RayError, RuntimeError, OSError):
        yield


def _store() -> Any:
    """Ray's key-value store."""
    from ray.experimental import internal_kv

    return internal_kv


class Teller:
    """Leaves word of how far a call is; a function for `DeviceGroup.follow`.

    Args:
        key: Under which name.
        clock: Seconds; for tests.
    """

    def __init__(self, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self._clock, self._last = clock, float("-inf")

    def __call__(self, done: int, total: int) -> None:
        """Tell, unless something has just been told; arguments as for `Progress.advance`."""
        now = self._clock()
        if now - self._last >= EVERY_S:
            self._last = now
            with _if_reachable():
                _store()._internal_kv_put(self.key, f"{done} {total}", namespace=NAMESPACE)


def read_told(key: str) -> Told | None:
    """Read what an actor has told last.

    Args:
        key: Its name.

    Returns:
        The word; None where there is none or the store is out of reach.
    """
    with _if_reachable():
        said = _store()._internal_kv_get(key, namespace=NAMESPACE)
        if said:
            return Told(*map(int, said.split()))
    return None


def forget(prefix: str) -> None:
    """Remove what all actors of a run have told.

    Args:
        prefix: What their names begin with.
    """
    with _if_reachable():
        _store()._internal_kv_del(prefix, del_by_prefix=True, namespace=NAMESPACE)


def together(told: Sequence[Told | None], answered: int) -> tuple[int, int]:
    """Sum up how far the calls of several actors are.

    Args:
        told: What each of those has told that have not answered yet.
        answered: Number of those that have.

    Returns:
        Parts done and parts in all, as if actors that have told nothing had as many parts as the mean of those that
        have; with nothing told, actors that have answered, and all.
    """
    known = [t for t in told if t is not None]
    if not known:
        return answered, answered + len(told)
    mean = sum(t.total for t in known) / len(known)
    silent = len(told) - len(known)
    done = answered * mean + sum(t.done for t in known)
    return round(done), round((answered + silent) * mean + sum(t.total for t in known))
