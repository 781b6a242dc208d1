"""What every mobility model can do, and the checks they share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray
from topology.registry import Within

Snapshot: TypeAlias = dict[str, np.ndarray]

Speed: TypeAlias = Annotated[float, Within(ge=0, le=3e8)]
"""A speed in m/s, at most that of light."""

SHORTEST_S = 0.01
"""Least mean time between two changes of a velocity in s: all of them are followed one by one."""


class Mobility(Protocol):
    """Devices that move in a rectangle. Models are values with one verb, `step`."""

    @property
    def positions_m(self) -> FloatArray:
        """Where the devices are now, (N, 2), metres."""
        ...

    @property
    def velocity_mps(self) -> FloatArray | None:
        """Their velocities now, (N, 2), m/s; None where the model does not know them, but only places."""
        ...

    def step(self, dt_s: float) -> FloatArray:
        """Let time pass and move the devices.

        Args:
            dt_s: Seconds, finite, ≥ 0.

        Returns:
            (N, 2) new positions, metres, inside the area.
        """
        ...

    def snapshot(self) -> Snapshot:
        """All state as arrays by name, enough to go on bit for bit."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Take the state of a snapshot of the same model with the same options."""
        ...


class ArrayState:
    """The part that all models share: their whole state is arrays by name, among them positions, as a rule.

    Attributes:
        model: Name of the model, for messages.
    """

    model: ClassVar[str]
    _state: dict[str, np.ndarray]

    @property
    def positions_m(self) -> FloatArray:
        """Where the devices are now, (N, 2), metres."""
        return self._state["position_m"].copy()

    @property
    def velocity_mps(self) -> FloatArray | None:
        """Their velocities now, (N, 2), m/s; None where the model has none in its state."""
        now = self._state.get("velocity_mps")
        return None if now is None else now.copy()

    def snapshot(self) -> Snapshot:
        """All state as arrays; a trace itself is read again from its file."""
        return {name: np.array(value) for name, value in self._state.items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Take the state of a snapshot.

        Args:
            snapshot: Arrays of `snapshot`, of this model with the same options and as many devices.

        Raises:
            ValueError: If a name is missing or a shape differs: the snapshot is of another model or another number
                of devices.
        """
        for name, now in self._state.items():
            if name not in snapshot or np.shape(snapshot[name]) != np.shape(now):
                raise ValueError(
                    f"snapshot does not fit mobility model {self.model!r} ({name} is missing or of another shape); "
                    "restore with the model, options and number of devices it was taken with"
                )
        self._state = {name: np.array(snapshot[name]) for name in self._state}


def check_start(positions_m: ArrayLike, area_m: tuple[float, float]) -> FloatArray:
    """Check starting positions and copy them.

    Args:
        positions_m: (N, 2) positions, metres.
        area_m: Width and height of the area, metres; it spans [0, width] × [0, height].

    Returns:
        (N, 2) float64 copy of the positions, metres.

    Raises:
        ValueError: If a device stands outside the area, the area is not positive, or the positions are not
            finite numbers of that shape.
    """
    width, height = area_m
    if not (width > 0 and height > 0):
        raise ValueError(f"area_m must be two positive lengths in metres, got {area_m}")
    points = np.array(positions_m, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"positions_m must be (devices, 2) and finite, got shape {points.shape}")
    outside = np.flatnonzero(((points < 0) | (points > (width, height))).any(axis=1))
    if len(outside):
        raise ValueError(
            f"device {outside[0]} starts at {points[outside[0]].tolist()}, outside the area "
            f"{width:g} m × {height:g} m; enlarge area_m or move it"
        )
    return points


def check_step(dt_s: float) -> float:
    """Check a time step.

    Args:
        dt_s: The step, seconds.

    Returns:
        The step as a float, seconds.

    Raises:
        ValueError: If it is negative or not finite.
    """
    if not (np.isfinite(dt_s) and dt_s >= 0):
        raise ValueError(f"dt_s must be a number of seconds ≥ 0, got {dt_s}")
    return float(dt_s)


def check_speeds(low_mps: float, high_mps: float, *, above_zero: bool) -> None:
    """Check a range of speeds.

    Args:
        low_mps: Lowest speed, m/s.
        high_mps: Highest speed, m/s.
        above_zero: Whether the lowest speed must be > 0.

    Raises:
        ValueError: If the range is empty, negative, not finite, or touches 0 where that is not allowed.
    """
    if not (np.isfinite([low_mps, high_mps]).all() and 0 <= low_mps <= high_mps):
        raise ValueError(f"speeds must satisfy 0 ≤ min ≤ max in m/s, got {low_mps} and {high_mps}")
    if above_zero and low_mps <= 0:
        raise ValueError(
            f"speed_min_mps must be > 0, got {low_mps}: with 0 the model slows down for ever and has "
            "no steady state; use e.g. 0.1"
        )
