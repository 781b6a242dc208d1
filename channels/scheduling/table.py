"""The schedulers by name. A new one is one file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from channels.checks import unknown_name
from channels.scheduling.aloha import ALOHA
from channels.scheduling.broadcast import BROADCAST
from channels.scheduling.coloring import COLORING
from channels.scheduling.fplinq import FPLINQ
from channels.scheduling.greedy_sinr import GREEDY_SINR
from channels.scheduling.problem import Scheduler
from channels.scheduling.tdma import TDMA
from channels.scheduling.weighted import MAX_WEIGHT, PROPORTIONAL_FAIR

SCHEDULER_TABLE: Mapping[str, Scheduler] = MappingProxyType(
    {
        scheduler.name: scheduler
        for scheduler in (
            TDMA,
            COLORING,
            GREEDY_SINR,
            BROADCAST,
            FPLINQ,
            ALOHA,
            MAX_WEIGHT,
            PROPORTIONAL_FAIR,
        )
    }
)
"""Every scheduler by name."""


def get_scheduler(name: str) -> Scheduler:
    """Look a scheduler up.

    Args:
        name: A name in `SCHEDULER_TABLE`.

    Returns:
        The scheduler.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in SCHEDULER_TABLE:
        raise unknown_name("scheduler", name, SCHEDULER_TABLE)
    return SCHEDULER_TABLE[name]
