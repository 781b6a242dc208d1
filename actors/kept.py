"""How much memory it takes to keep the arguments of calls, for the replay of actors that die."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


class KeptBytes:
    """Counts the bytes of objects that are kept, each of them once however many calls it goes with.

    Whoever counts keeps the objects: an object is known by its identity.

    Attributes:
        total: Bytes so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._known: set[int] = set()

    def add(self, values: Iterable[Any]) -> None:
        """Count some objects, and what dataclasses, mappings and sequences among them hold.

        Args:
            values: The objects; of an array that is a view the array behind it counts.
        """
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            if isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
                value = value.base
            if id(value) in self._known:
                continue
            self._known.add(id(value))
            self.total += sys.getsizeof(value)
            if isinstance(value, np.ndarray):
                self.total += 0 if value.flags.owndata else value.nbytes  # `getsizeof` has them otherwise
            elif is_dataclass(value):
                waiting.extend(getattr(value, field.name) for field in fields(value))
            elif isinstance(value, Mapping):
                waiting.extend(value)
                waiting.extend(value.values())
            elif isinstance(value, list | tuple | set | frozenset):
                waiting.extend(value)

    def forget(self) -> None:
        """Begin anew: nothing of what was counted is kept any more."""
        self.total = 0
        self._known.clear()
