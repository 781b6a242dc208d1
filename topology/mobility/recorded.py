"""`Static` devices, and `Trace`: movement read from a file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray
from topology.mobility.base import Snapshot, check_start, check_step, take

COLUMNS = ("device", "t_s", "x_m", "y_m")


class Static:
    """Devices that stay where they are."""

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

    @property
    def positions_m(self) -> FloatArray:
        """Where the devices are, (N, 2), metres."""
        return self._state["position_m"].copy()

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

    def snapshot(self) -> Snapshot:
        """All state as arrays."""
        return {name: value.copy() for name, value in self._state.items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Take the state of a snapshot.

        Args:
            snapshot: Arrays of `snapshot`, of this model with as many devices.

        Raises:
            ValueError: If it does not fit.
        """
        self._state = take(snapshot, self._state, "static")


class Trace:
    """Devices that follow a recorded trace, on straight lines between its points.

    Before its first point a device stands at that point, after its last one at that one.
    """

    def __init__(
        self,
        positions_m: ArrayLike,
        *,
        area_m: tuple[float, float],
        path: str | Path,
        rng: np.random.Generator | None = None,
        start_s: float = 0.0,
    ) -> None:
        """Read a trace.

        Args:
            positions_m: (N, 2); only the number of devices counts.
            area_m: Width and height, metres; every point must lie inside.
            path: CSV or Parquet with columns ``device, t_s, x_m, y_m``, rows in any order.
            rng: Not used; taken so that all models are made alike.
            start_s: Time of the trace at which the run begins, seconds.

        Raises:
            ValueError: If the file is missing or malformed, a device has no point or two at one time, or a
                point lies outside the area.
        """
        nodes = len(check_start(positions_m, area_m))
        self._points = _read(Path(path), nodes, area_m)
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

    def snapshot(self) -> Snapshot:
        """All state as arrays; the trace itself is read again from its file."""
        return {name: value.copy() for name, value in self._state.items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Take the state of a snapshot: the time reached in the trace.

        Args:
            snapshot: Arrays of `snapshot`, of this model.

        Raises:
            ValueError: If it does not fit.
        """
        self._state = take(snapshot, self._state, "trace")


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


def _read(path: Path, nodes: int, area_m: tuple[float, float]) -> FloatArray:
    if not path.is_file():
        raise ValueError(f"mobility trace {path} does not exist; give a CSV or Parquet file with {COLUMNS}")
    points = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: all values must be finite numbers")
    wrong = (points[:, 0] < 0) | (points[:, 0] >= nodes) | (points[:, 0] != np.floor(points[:, 0]))
    if wrong.any():
        raise ValueError(f"{path}: device {points[wrong, 0][0]:g} does not exist; there are 0..{nodes - 1}")
    missing = np.setdiff1d(np.arange(nodes), points[:, 0].astype(np.int64))
    if len(missing):
        raise ValueError(
            f"{path}: no point for device {missing[0]} ({len(missing)} devices lack one); add them"
        )
    if (np.diff(points[:, :2], axis=0) == 0).all(axis=1).any():
        raise ValueError(f"{path}: a device has two points at the same time; remove one")
    outside = ((points[:, 2:] < 0) | (points[:, 2:] > area_m)).any(axis=1)
    if outside.any():
        raise ValueError(
            f"{path}: device {points[outside, 0][0]:g} leaves the area {area_m[0]:g} m × {area_m[1]:g} m at "
            f"t_s={points[outside, 1][0]:g}; enlarge area_m or shift the trace"
        )
    return points


def _csv(path: Path) -> FloatArray:
    with path.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected columns {', '.join(COLUMNS)}, got {reader.fieldnames}")
        rows: list[list[float]] = []
        for line, row in enumerate(reader, start=2):
            try:
                rows.append([float(row[name]) for name in COLUMNS])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path} line {line}: expected numbers, got {dict(row)}") from error
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _parquet(path: Path) -> FloatArray:
    # Imported here: only users of Parquet traces need pandas in this package.
    import pandas as pd

    try:
        table = pd.read_parquet(path, columns=list(COLUMNS))
        return table.to_numpy(dtype=np.float64)
    except Exception as error:
        # pyarrow has many error types; to a user they all mean that this is not the file asked for.
        raise ValueError(f"{path}: not a Parquet file with numeric columns {COLUMNS}: {error}") from error
