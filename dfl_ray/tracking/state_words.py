"""A run's state in words, the same in `dfl-ray status` and in the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfl_ray.tracking.stages import duration

if TYPE_CHECKING:
    from dfl_ray.records.states import RunState


def left_words(state: RunState) -> str:
    """Write the real time that a run has left.

    Args:
        state: The run.

    Returns:
        For example `3 min 05 s`; a dash where it is not known.
    """
    return "–" if state.left_s is None else duration(state.left_s)


def heartbeat_words(state: RunState) -> str:
    """Write the age of a run's last sign of life.

    Args:
        state: The run.

    Returns:
        For example `2.10 s ago`; a dash for a run that has ended or never beat.
    """
    return "–" if state.heartbeat_s is None else f"{duration(state.heartbeat_s)} ago"
