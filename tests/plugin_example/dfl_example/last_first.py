"""`last_first`: a few links at a time, the last that wait first."""

import numpy as np

from channels.scheduling.problem import Scheduler, SlotTask


def last_first(*, skip: int = 0) -> Scheduler:
    """One link at a time, the last that waits first.

    Args:
        skip: So many of the last ones wait a while longer.
    """
    if skip < 0:
        raise ValueError(f"skip must be >= 0, got {skip}")

    def select(task: SlotTask) -> list[np.ndarray]:
        band = np.full(task.units, -1, dtype=np.int64)
        band[max(task.units - 1 - skip, 0)] = 0
        return [band]

    return Scheduler("last_first", select)
