"""`tdma`: one transmission at a time, in an order drawn anew each round; links unserved before go first."""

from __future__ import annotations

import numpy as np

from channels.arrays import IntArray
from channels.scheduling.problem import Scheduler, SlotTask


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slot: the first unit that waits (see `Scheduler.select`)."""
    band = np.full(task.units, -1, dtype=np.int64)
    band[0] = 0
    return [band]


TDMA = Scheduler("tdma", select, groups=True, needs="demand")
