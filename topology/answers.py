"""Checks of what a placement, a partition or a mobility model answers, which may be an installed package's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray


def positions(
    what: str, answer: ArrayLike, count: int, area_m: tuple[float, float] | None = None
) -> FloatArray:
    """Positions of all devices.

    Args:
        what: Who gave them, in words ("placement 'line'").
        answer: What was given.
        count: Number of devices.
        area_m: Width and height that they are to stand within, metres; None for anywhere.

    Returns:
        (count, 2) float64 positions, metres.

    Raises:
        ValueError: If they are of another shape, not finite, or outside the area.
    """
    found = numbers(what, answer)
    if found.shape != (count, 2):
        raise ValueError(
            f"{what} gave positions of shape {found.shape}; expected ({count}, 2), x and y in metres"
        )
    inside = np.isfinite(found).all(axis=1)
    if area_m is not None:
        inside &= (found >= 0).all(axis=1) & (found <= area_m).all(axis=1)
    if not inside.all():
        where = "finite numbers" if area_m is None else f"a place within {area_m[0]:g} m x {area_m[1]:g} m"
        first = int(np.flatnonzero(~inside)[0])
        raise ValueError(f"{what} gave device {first} the place {found[first].tolist()}; expected {where}")
    return found


def weights(what: str, answer: ArrayLike, devices: int, tasks: int) -> FloatArray:
    """Shares of the tasks in the data of all devices.

    Args:
        what: Who gave them, in words ("partition 'mine'").
        answer: What was given, any weights >= 0.
        devices: Number of devices.
        tasks: Number of tasks.

    Returns:
        (devices, tasks) float64 shares; rows that do not sum to 1 are scaled to it.

    Raises:
        ValueError: If they are of another shape, negative or not finite, or a device holds no task.
    """
    found = numbers(what, answer)
    if found.shape != (devices, tasks):
        raise ValueError(
            f"{what} gave weights of shape {found.shape}; expected ({devices}, {tasks}), devices by tasks"
        )
    bad = np.flatnonzero(~(np.isfinite(found) & (found >= 0)).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{what} gave device {bad[0]} the weights {found[bad[0]].tolist()}; expected numbers >= 0"
        )
    total = found.sum(axis=1)
    empty = np.flatnonzero(total <= 0)
    if empty.size:
        raise ValueError(f"{what} gave device {empty[0]} no task; every device needs a weight above 0")
    return found if (np.abs(total - 1) <= 1e-9).all() else found / total[:, None]


def numbers(what: str, answer: ArrayLike) -> FloatArray:
    """What was given as an array of numbers.

    Args:
        what: Who gave it, in words.
        answer: What was given.

    Returns:
        float64 of any shape; the same array if it is one.

    Raises:
        ValueError: If it is no such array.
    """
    try:
        return np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} gave no array of numbers but {type(answer).__name__}: {error}") from error
