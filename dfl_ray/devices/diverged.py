"""Which devices end with adapters that nobody can use: what the driver asks of the saved state, without torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dfl_ray.devices.records import Snapshot
from dfl_ray.lora.range import LARGEST_VALUE


def diverged_devices(snapshots: Iterable[Snapshot]) -> list[int]:
    """Find the devices whose trained values, or whose updates merged into the base, are out of float16's range.

    Args:
        snapshots: The state of devices, each in one snapshot.

    Returns:
        Their numbers, ascending; see `lora.optimizer.in_range`.
    """
    found: set[int] = set()
    for snapshot in snapshots:
        for name, array in snapshot.arrays.items():
            if is_trained(name) and array.size and not _in_range(array):
                found.add(int(name.partition("/")[0]))
    return sorted(found)


def is_trained(name: str) -> bool:
    """Whether an array of a snapshot holds what training has made: trained values, or updates merged into the base.

    Args:
        name: Its name.
    """
    return name.partition("/")[2] in ("state/theta", "memory/merged")


def _in_range(values: np.ndarray) -> bool:
    """Whether all values are finite and float16 can hold them; NaN makes every comparison false."""
    return bool(values.min() >= -LARGEST_VALUE) and bool(values.max() <= LARGEST_VALUE)
