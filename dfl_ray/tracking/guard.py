"""What trackers share: a library that may be missing, and failures that stop no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dfl_ray.errors import InputError, first_line


def optional_library(module: str, tracker: str, install: str) -> Any:
    """Import the library of a tracker that dfl-ray does not bring with it.

    Args:
        module: Name of the module.
        tracker: Name of the tracker.
        install: What installs it.

    Returns:
        The module.

    Raises:
        InputError: It is not installed.
    """
    if find_spec(module) is None:
        raise InputError(
            f"The tracker `{tracker}` needs the package {module}",
            got="it is not installed",
            change=f"`{install}`, or leave `{tracker}` out of `track.trackers`.",
        )
    return import_module(module)


class Guard:
    """Lets no failure of a tracker out: the first is told in one line, the run and its records matter more.

    Args:
        name: The tracker, as the line names it.
        say: Prints one line to the user.
    """

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._warned = False

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Swallow what the block raises.

        Args:
            what: What it did not do, for example `did not take a round's numbers`.
        """
        try:
            yield
        except Exception as error:  # anything a foreign library can do
            told = first_line(error, 200).rstrip(".")
            self.warn(f"{what} ({told}); the run goes on, its records are on disk.")

    def warn(self, what: str) -> None:
        """Tell the first thing that went wrong, and no other.

        Args:
            what: The sentence behind the tracker's name.
        """
        if not self._warned:
            self._warned = True
            self._say(f"{self._name} {what}")
