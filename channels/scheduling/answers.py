"""What an installed package's scheduler answers, checked before the engine goes by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from channels.arrays import IntArray
from channels.scheduling.rule import Scheduler


def checked(name: str, scheduler: Scheduler) -> Scheduler:
    """A scheduler whose answers are checked; its errors say whose they are.

    Args:
        name: The name it was chosen by.
        scheduler: The scheduler.

    Returns:
        The same rule; its `select` raises a ValueError instead of anything that the engine cannot go by.
    """

    def select(task: Any) -> list[IntArray]:
        try:
            answer = scheduler.select(task)
        except Exception as error:
            raise ValueError(f"the scheduler {name!r} failed: {type(error).__name__}: {error}") from error
        return _bands(name, answer, task.units, task.radio.subchannels)

    return replace(scheduler, select=select)


def _bands(name: str, answer: object, units: int, subchannels: int) -> list[IntArray]:
    """The slots of an answer, each as (U,) sub-channels."""
    if not isinstance(answer, list | tuple):
        raise ValueError(
            f"the scheduler {name!r} answered {type(answer).__name__}; expected a list of arrays, one for each slot"
        )
    if not answer:
        raise ValueError(f"the scheduler {name!r} answered an empty list; expected one slot at least")
    return [_band(name, band, units, subchannels) for band in answer]


def _band(name: str, answer: Any, units: int, subchannels: int) -> IntArray:
    band = np.asarray(answer)
    if band.shape != (units,) or band.dtype.kind not in "iu":
        raise ValueError(
            f"the scheduler {name!r} answered a slot of shape {band.shape} and type {band.dtype}; expected ({units},) "
            "whole numbers, a sub-channel for each waiting unit or -1"
        )
    if band.min() < -1 or band.max() >= subchannels:
        wrong = band.min() if band.min() < -1 else band.max()
        raise ValueError(
            f"the scheduler {name!r} answered the sub-channel {wrong}; expected -1 (not in the slot) to"
            f" {subchannels - 1}"
        )
    return band.astype(np.int64, copy=False)
