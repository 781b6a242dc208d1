"""Random numbers for moving devices: a function of (key, device, how-manieth draw), kept in no generator.

A device's path then depends neither on how many devices there are, nor on the order in which they come to
the end of a leg, nor on the length of the steps a run takes; and a snapshot needs the key and counters only.
"""

from __future__ import annotations

import numpy as np

from topology.arrays import FloatArray, IntArray


def unit_draws(key: int, devices: IntArray, counters: IntArray, count: int) -> FloatArray:
    """Uniform numbers in (0, 1) for each device at its counter.

    Args:
        key: 63-bit key of the run.
        devices: (D,) device numbers.
        counters: (D,) number of the draw at each device, ≥ 0.
        count: Numbers wanted per device.

    Returns:
        (D, count) float64.

    Source: SplitMix64's output function (Steele, Lea and Flood, "Fast splittable pseudorandom number
        generators", OOPSLA 2014), applied twice as a keyed hash.
    """
    with np.errstate(over="ignore"):
        lane = _mix(np.uint64(key) + _mix(devices.astype(np.uint64) + np.uint64(1)))
        turn = _mix(lane ^ _mix(counters.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = _mix(turn[:, None] + steps[None, :])
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(value: np.ndarray | np.uint64) -> np.ndarray:
    mixed = np.asarray(value, np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def fold(positions_m: FloatArray, area_m: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Reflect positions at the borders, as often as needed.

    Args:
        positions_m: (N, 2) positions, anywhere.
        area_m: Width and height, metres.

    Returns:
        (N, 2) positions inside, and (N, 2) signs, −1 where a velocity component is turned round.
    """
    side = np.asarray(area_m, np.float64)
    within = np.mod(positions_m, 2 * side)
    back = within > side
    return np.where(back, 2 * side - within, within), np.where(back, -1.0, 1.0)
