"""`Static` devices, and `Trace`: movement read from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray
from topology.mobility.base import ArrayState, check_start, check_step
from topology.mobility.trace_files import read_trace


class Static(ArrayState):
    """Devices that stay where they are."""

    model = "static"

    def __init__(
        self, positions_m: ArrayLike, *, area_m: tuple[float, float], rng: np.random.Generator | None = None
    ) -> None:
        """Start at given positions.

        Args:
            positions_m: (N, 2) positions, metres.
            area_m: Width and height, metres.
            rng: Not used; taken so that all models are made alike.

        Raises:
            ValueError: If a device stands outside the area.
        """
        self._state = {"position_m": check_start(positions_m, area_m)}

    def step(self, dt_s: float) -> FloatArray:
        """Let time pass; nobody moves.

        Args:
            dt_s: Seconds, finite, ≥ 0.

        Returns:
            (N, 2) positions, metres, the same as before.

        Raises:
            ValueError: If the time is negative or not finite.
        """
        check_step(dt_s)
        return self.positions_m


class Trace(ArrayState):
    """Devices that follow a recorded trace, on straight lines between its points.

    Before its first point a device stands at that point, after its last one at that one. A trace of SUMO names
    vehicles by texts; they are devices 0, 1, ... in the order in which they come first.
    """

    model = "trace"

    def __init__(
        self,
        positions_m: ArrayLike,
        *,
        area_m: tuple[float, float],
        path: str | Path,
        rng: np.random.Generator | None = None,
        start_s: float = 0.0,
        offset_m: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Read a trace.

        Args:
            positions_m: (N, 2); only the number of devices counts.
            area_m: Width and height, metres; every point must lie inside.
            path: CSV or Parquet with columns ``device, t_s, x_m, y_m``, rows in any order, or SUMO's FCD XML
                (``--fcd-output``, plain or gzipped), of which the first N vehicles are taken.
            rng: Not used; taken so that all models are made alike.
            start_s: Time of the trace at which the run begins, seconds.
            offset_m: Added to all points, metres, to bring a trace into the area.

        Raises:
            ValueError: If the file is missing or malformed, a device has no point or two at one time, or a
                point lies outside the area.
        """
        nodes = len(check_start(positions_m, area_m))
        self._points = read_trace(Path(path), nodes, area_m, offset_m)
        self._state = {"t_s": np.array(float(start_s))}

    @property
    def positions_m(self) -> FloatArray:
        """Where the devices are now, (N, 2), metres."""
        return _at(self._points, float(self._state["t_s"]))

    def step(self, dt_s: float) -> FloatArray:
        """Let time pass and read the positions off the trace, linear in time between its points.

        Args:
            dt_s: Seconds, finite, ≥ 0.

        Returns:
            (N, 2) new positions, metres, inside the area.

        Raises:
            ValueError: If the time is negative or not finite.
        """
        self._state["t_s"] = self._state["t_s"] + check_step(dt_s)
        return self.positions_m


def _at(points: FloatArray, time_s: float) -> FloatArray:
    """Interpolate all devices at once; `points` is sorted by device, then time."""
    device = points[:, 0].astype(np.int64)
    first = np.flatnonzero(np.r_[True, device[1:] != device[:-1]])
    last = np.r_[first[1:], len(device)] - 1
    passed = np.add.reduceat((points[:, 1] <= time_s).astype(np.int64), first)
    left = np.maximum(first + passed - 1, first)
    right = np.minimum(left + (passed > 0), last)
    span = points[right, 1] - points[left, 1]
    share = np.divide(time_s - points[left, 1], span, out=np.zeros(len(left)), where=span > 0)
    share = np.clip(share, 0.0, 1.0)[:, None]
    return points[left, 2:] * (1 - share) + points[right, 2:] * share
