"""Movement in straight legs: `RandomDirection` and `RandomWaypoint`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray, IntArray
from topology.mobility.base import SHORTEST_S, ArrayState, Speed, check_speeds, check_start, check_step
from topology.mobility.draws import fold, unit_draws
from topology.registry import Within

START_TRIES = 64


class _Legs(ArrayState, ABC):
    """Devices that move in legs of constant velocity, reflecting at the borders; advanced leg by leg."""

    def __init__(self, positions_m: FloatArray, area_m: tuple[float, float], key: int) -> None:
        nodes = len(positions_m)
        self._area_m = (float(area_m[0]), float(area_m[1]))
        self._state: dict[str, np.ndarray] = {
            "key": np.array(key, np.int64),
            "position_m": positions_m,
            "velocity_mps": np.zeros((nodes, 2)),
            "left_s": np.zeros(nodes),
            "legs": np.zeros(nodes, np.int64),
        }

    def step(self, dt_s: float) -> FloatArray:
        """Let time pass and move the devices, drawing a new leg, or a pause, wherever one ends.

        Args:
            dt_s: Seconds, finite, ≥ 0.

        Returns:
            (N, 2) new positions, metres, inside the area.

        Raises:
            ValueError: If the time is negative or not finite.
        """
        state = self._state
        rest = np.full(len(state["left_s"]), check_step(dt_s))
        while True:
            run = np.minimum(rest, state["left_s"])
            moved = state["position_m"] + state["velocity_mps"] * run[:, None]
            state["position_m"], sign = fold(moved, self._area_m)
            state["velocity_mps"] = state["velocity_mps"] * sign
            state["left_s"] = state["left_s"] - run
            rest = rest - run
            due = np.flatnonzero((state["left_s"] <= 0) & (rest > 0)).astype(np.int64)
            if len(due) == 0:
                return state["position_m"].copy()
            draws = unit_draws(int(state["key"]), due, state["legs"][due], 4)
            state["velocity_mps"][due], state["left_s"][due] = self._next(due, draws)
            state["legs"][due] += 1

    @abstractmethod
    def _next(self, devices: IntArray, draws: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Give (velocity (D, 2) in m/s, duration (D,) in s) of the next leg of each of the given devices."""


class RandomDirection(_Legs):
    """Random direction with reflection: straight legs of exponential duration, bouncing off the borders.

    A device keeps a uniform direction and a uniform speed for an exponential time, then draws anew. Devices
    placed uniformly stay uniform at all times.

    Source: Nain, Towsley, Liu and Liu, "Properties of random direction models", INFOCOM 2005 (billiard
    reflection keeps positions uniform).
    """

    model = "random_direction"

    def __init__(
        self,
        positions_m: ArrayLike,
        *,
        area_m: tuple[float, float],
        rng: np.random.Generator,
        speed_min_mps: Speed = 0.5,
        speed_max_mps: Speed = 1.5,
        mean_leg_s: Annotated[float, Within(ge=SHORTEST_S, le=1e12)] = 60.0,
    ) -> None:
        """Start at given positions.

        Args:
            positions_m: (N, 2) starting positions, metres.
            area_m: Width and height, metres.
            rng: One number is drawn from it, the key of all later draws.
            speed_min_mps: Lowest speed, m/s, ≥ 0.
            speed_max_mps: Highest speed, m/s.
            mean_leg_s: Mean duration of a leg, s.

        Raises:
            ValueError: If a value is out of range.
        """
        check_speeds(speed_min_mps, speed_max_mps, above_zero=False)
        if not mean_leg_s > 0:
            raise ValueError(f"mean_leg_s must be > 0 s, got {mean_leg_s}")
        self._speeds = (speed_min_mps, speed_max_mps)
        self._mean_leg_s = mean_leg_s
        super().__init__(check_start(positions_m, area_m), area_m, int(rng.integers(2**63)))

    def _next(self, devices: IntArray, draws: FloatArray) -> tuple[FloatArray, FloatArray]:
        low, high = self._speeds
        angle = 2 * np.pi * draws[:, 0]
        speed = low + (high - low) * draws[:, 1]
        velocity = np.stack([np.cos(angle), np.sin(angle)], axis=1) * speed[:, None]
        return velocity, -self._mean_leg_s * np.log(draws[:, 2])


class RandomWaypoint(_Legs):
    """Random waypoint: walk straight to a uniform point at a uniform speed, pause, repeat.

    Started in its steady state by default: in the naive start, from a placement and all at the beginning of
    a leg, the mean speed falls and the devices gather in the middle for a long time. The steady state takes
    the place of the given positions.

    Source: Navidi and Camp, "Stationary distributions for the random waypoint mobility model", IEEE Trans.
    Mobile Computing 3(1), 2004: a leg is met with a chance in proportion to its length, a speed to 1/v, the
    place on the leg is uniform, and a device pauses with the chance mean pause/(mean pause + mean travel).
    """

    model = "random_waypoint"

    def __init__(
        self,
        positions_m: ArrayLike,
        *,
        area_m: tuple[float, float],
        rng: np.random.Generator,
        speed_min_mps: Speed = 0.5,
        speed_max_mps: Speed = 1.5,
        pause_s: Annotated[float, Within(ge=0, le=1e12)] = 0.0,
        start: Literal["steady", "given"] = "steady",
    ) -> None:
        """Start the devices.

        Args:
            positions_m: (N, 2) positions, metres; with ``steady`` only their number counts.
            area_m: Width and height, metres.
            rng: One number is drawn from it, the key of all later draws.
            speed_min_mps: Lowest speed, m/s, > 0 (with 0 there is no steady state).
            speed_max_mps: Highest speed, m/s.
            pause_s: Pause at every waypoint, s, ≥ 0.
            start: ``steady``, or ``given`` to begin a first leg at the given positions.

        Raises:
            ValueError: If a value is out of range, or legs at the highest speed are too short to be followed.
        """
        check_speeds(speed_min_mps, speed_max_mps, above_zero=True)
        if not pause_s >= 0 or start not in ("steady", "given"):
            raise ValueError(f"need pause_s ≥ 0 and start 'steady' or 'given', got {pause_s}, {start!r}")
        leg_s = mean_distance_m(float(area_m[0]), float(area_m[1])) / speed_max_mps + pause_s
        if leg_s < SHORTEST_S:
            raise ValueError(
                f"speed_max_mps is {speed_max_mps:g} in an area of {area_m[0]:g} m × {area_m[1]:g} m: a leg and its "
                f"pause take {leg_s:.2g} s, expected at least {SHORTEST_S:g} s; lower speed_max_mps, or set pause_s"
            )
        self._speeds = (speed_min_mps, speed_max_mps)
        self._pause_s = float(pause_s)
        super().__init__(check_start(positions_m, area_m), area_m, int(rng.integers(2**63)))
        self._state["pausing"] = np.ones(len(self._state["legs"]), np.bool_)
        if start == "steady":
            self._begin_steady()

    def _begin_steady(self) -> None:
        state, side = self._state, np.asarray(self._area_m)
        low, high = self._speeds
        devices = np.arange(len(state["legs"]), dtype=np.int64)
        draws = unit_draws(int(state["key"]), devices, np.full(len(devices), 2**40, np.int64), 5)
        mean_slowness = np.log(high / low) / (high - low) if high > low else 1.0 / low
        travel_s = mean_distance_m(*self._area_m) * mean_slowness
        pausing = draws[:, 0] < self._pause_s / (self._pause_s + travel_s)
        begin, end = _long_legs(int(state["key"]), devices, side)
        speed = low ** (1 - draws[:, 1]) * high ** draws[:, 1]
        length = np.hypot(*(end - begin).T)
        here = begin + draws[:, 2:3] * (end - begin)
        state["position_m"] = np.where(pausing[:, None], draws[:, 3:5] * side, here)
        heading = (end - begin) / np.maximum(length, 1e-12)[:, None] * speed[:, None]
        state["velocity_mps"] = np.where(pausing[:, None], 0.0, heading)
        state["left_s"] = np.where(pausing, draws[:, 2] * self._pause_s, (1 - draws[:, 2]) * length / speed)
        state["pausing"] = pausing

    def _next(self, devices: IntArray, draws: FloatArray) -> tuple[FloatArray, FloatArray]:
        state, side = self._state, np.asarray(self._area_m)
        rests = ~state["pausing"][devices] & (self._pause_s > 0)
        state["pausing"][devices] = rests
        way = draws[:, :2] * side - state["position_m"][devices]
        length = np.hypot(way[:, 0], way[:, 1])
        low, high = self._speeds
        speed = low + (high - low) * draws[:, 2]
        velocity = way / np.maximum(length, 1e-12)[:, None] * speed[:, None]
        return np.where(rests[:, None], 0.0, velocity), np.where(rests, self._pause_s, length / speed)


def _long_legs(key: int, devices: IntArray, side: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Begin and end of a leg drawn with a chance in proportion to its length, by rejection."""
    begin, end = np.zeros((len(devices), 2)), np.ones((len(devices), 2)) * side
    open_rows = np.arange(len(devices))
    diagonal = float(np.hypot(side[0], side[1]))
    for attempt in range(START_TRIES):
        draws = unit_draws(key, devices[open_rows], np.full(len(open_rows), 2**41 + attempt, np.int64), 5)
        begin[open_rows], end[open_rows] = draws[:, 0:2] * side, draws[:, 2:4] * side
        length = np.hypot(*(end[open_rows] - begin[open_rows]).T)
        open_rows = open_rows[draws[:, 4] * diagonal >= length]
        if len(open_rows) == 0:
            break
    return begin, end


def mean_distance_m(width_m: float, height_m: float) -> float:
    """Mean distance of two uniform points in a rectangle (0.5214 for the unit square).

    With sides w, h and diagonal d = √(w² + h²): (w³/h² + h³/w² + d·(3 − w²/h² − h²/w²)
    + 5/2·(h²/w·ln((w + d)/h) + w²/h·ln((h + d)/w)))/15.

    Args:
        width_m: One side w, metres, > 0.
        height_m: The other, h, metres, > 0.

    Returns:
        Metres.

    Source: Ghosh, "Random distances within a rectangle and between two rectangles", Bull. Calcutta Math.
        Soc. 43, 1951.
    """
    w, h = width_m, height_m
    d = float(np.hypot(w, h))
    corner = w**3 / h**2 + h**3 / w**2 + d * (3 - w**2 / h**2 - h**2 / w**2)
    sides = h**2 / w * np.log((w + d) / h) + w**2 / h * np.log((h + d) / w)
    return float((corner + 2.5 * sides) / 15)
