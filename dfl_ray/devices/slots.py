"""The large arrays that a method keeps of its devices, in slots of a memory-mapped file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from dfl_ray.devices.mapped_file import MappedFile, Span
from dfl_ray.methods.base import Device

LEAST_BYTES = 4096
"""Arrays under a page stay in memory."""
REGION_BYTES = 2**26
"""By how much the file grows."""
SHARED = "updates"
"""The field of `MethodState` whose arrays devices have in common (`devices.sharing`); they stay in memory."""

Put = Callable[[np.ndarray], None]
Slot = tuple[Span, np.ndarray]
"""A place in the file: where it lies, and its bytes."""


class Slots:
    """Gives every large array of a device a place in the file, the same one for a name as long as it fits.

    Args:
        file: The file.
    """

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._region = np.zeros(0, np.uint8)
        self._region_first = self._used = 0
        self._of: dict[int, dict[str, Slot]] = {}
        self._free: dict[int, list[Slot]] = {}

    def spans(self, devices: Sequence[Device[Any]]) -> list[Span]:
        """Where the arrays of some devices lie.

        Args:
            devices: The devices.

        Returns:
            The spans, neighbours joined.
        """
        found: list[Span] = []
        for device in devices:
            for (first, stop), _ in self._of.get(device.index, {}).values():
                if found and found[-1][1] == first:
                    found[-1] = (found[-1][0], stop)
                else:
                    found.append((first, stop))
        return found

    def settle(self, device: Device[Any]) -> None:
        """Move the large arrays of a device's memory that are not in their place there.

        Args:
            device: The device; equal arrays take the place of those it holds.
        """
        mine = self._of.setdefault(device.index, {})
        large = {
            name: (array, put) for name, array, put in arrays_of(device.memory) if array.nbytes >= LEAST_BYTES
        }
        gone = [mine.pop(name) for name in [name for name in mine if name not in large]]
        self._give_back(gone)
        away = {n: a for n, (a, _) in large.items() if n not in mine or not _same_place(a, mine[n][1])}
        # What is a view may lie in the file where another is to be written: it is copied before any is.
        copies = {n: a if a.flags.owndata else np.array(a) for n, a in away.items()}
        for name, array in copies.items():
            if name not in mine or len(mine[name][1]) < array.nbytes:
                if name in mine:
                    gone.append(mine[name])
                    self._give_back(gone[-1:])
                mine[name] = self._take(array.nbytes)
            here = mine[name][1][: array.nbytes].view(array.dtype).reshape(array.shape)
            here[...] = array
            large[name][1](here)
        self._file.let_go([span for span, _ in gone])  # no device will be gone through for them

    def _give_back(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self._free.setdefault(len(slot[1]), []).append(slot)

    def _take(self, size: int) -> Slot:
        """A slot for that many bytes, aligned for any type of number."""
        size = -(-size // 64) * 64
        free = self._free.get(size)
        if free:
            return free.pop()
        if self._used + size > len(self._region):
            self._region_first, self._used = self._file.size, 0
            self._region = self._file.grow(max(REGION_BYTES, size))
        first, self._used = self._used, self._used + size
        at = self._region_first + first
        return (at, at + size), self._region[first : first + size]


def arrays_of(state: Any, name: str = "") -> Iterator[tuple[str, np.ndarray, Put]]:
    """Find the arrays of a method's dataclass that are a device's own.

    Args:
        state: The dataclass.
        name: What its names begin with.

    Yields:
        Name, array, and what puts another in its place.
    """
    for field in fields(state):
        if field.name != SHARED:
            value = getattr(state, field.name)
            yield from _found(value, f"{name}/{field.name}", partial(setattr, state, field.name))


def _found(value: Any, name: str, put: Put) -> Iterator[tuple[str, np.ndarray, Put]]:
    if isinstance(value, np.ndarray):
        yield name, value, put
    elif isinstance(value, dict):
        for key, inner in list(value.items()):
            yield from _found(inner, f"{name}/{key}", partial(value.__setitem__, key))
    elif is_dataclass(value):
        yield from arrays_of(value, name)


def _same_place(array: np.ndarray, slot: np.ndarray) -> bool:
    return array.ctypes.data == slot.ctypes.data and array.nbytes <= len(slot) and array.flags.c_contiguous
