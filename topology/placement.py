"""Where devices stand at the start: uniform, Poisson, hotspots (Thomas process), or read from a file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from topology.arrays import FloatArray

Draw = Callable[[int], FloatArray]


def place(
    kind: str,
    count: int,
    *,
    area_m: tuple[float, float],
    rng: np.random.Generator,
    min_separation_m: float = 0.0,
    hotspots: int = 5,
    spread_m: float | None = None,
    background: float = 0.0,
    path: str | Path | None = None,
) -> FloatArray:
    """Place devices in the rectangle ``[0, width] × [0, height]``.

    ``uniform``: independent and uniform. ``poisson``: a homogeneous Poisson process seen with exactly
    ``count`` points, which is the same law as ``uniform`` (and the same draw). ``hotspots``: a Thomas process
    with ``hotspots`` uniform centres; each device picks a centre at random and stands at a Gaussian distance
    from it, redrawn while outside the area. ``file``: positions of the user's.

    Args:
        kind: One of ``uniform``, ``poisson``, ``hotspots``, ``file``.
        count: Number of devices, ≥ 1.
        area_m: Width and height, metres, both > 0.
        rng: Source of every draw.
        min_separation_m: Redraw devices closer than this to another one, metres; 0 for none.
        hotspots: Number of centres, ≥ 1 (``hotspots`` only).
        spread_m: Standard deviation of a device's offset per axis, metres; None for 6 % of the shorter side.
        background: Share of devices, 0..1, placed uniformly instead (``hotspots`` only).
        path: CSV with columns ``x_m,y_m`` and optionally ``device``, or a ``.npy`` array (count, 2).

    Returns:
        (count, 2) float64 positions, metres.

    Raises:
        ValueError: For an unknown kind, a value out of range, a separation the area cannot give, or a file
            that does not fit.

    Source: Thomas process: Illian, Penttinen, Stoyan and Stoyan, "Statistical Analysis and Modelling of
        Spatial Point Patterns", 2008, §6.3 (here with a fixed number of centres and of devices).
    """
    width, height = float(area_m[0]), float(area_m[1])
    if count < 1 or not (width > 0 and height > 0) or not np.isfinite([width, height]).all():
        raise ValueError(
            f"placement needs count ≥ 1 and a positive area_m, got count={count}, area_m={area_m}"
        )
    if kind == "file":
        return _read(path, count, width, height)
    if kind in ("uniform", "poisson"):
        draw = _uniform(width, height, rng)
    elif kind == "hotspots":
        spread = 0.06 * min(width, height) if spread_m is None else spread_m
        draw = _thomas(width, height, rng, hotspots, spread, background)
    else:
        raise ValueError(f"unknown placement {kind!r}; choose uniform, poisson, hotspots or file")
    return _separate(draw(count), draw, min_separation_m)


def _uniform(width: float, height: float, rng: np.random.Generator) -> Draw:
    return lambda count: rng.random((count, 2)) * (width, height)


def _thomas(
    width: float, height: float, rng: np.random.Generator, hotspots: int, spread_m: float, background: float
) -> Draw:
    if hotspots < 1 or spread_m <= 0 or not 0 <= background <= 1:
        raise ValueError(
            "hotspots placement needs hotspots ≥ 1, spread_m > 0 and background in 0..1, "
            f"got {hotspots}, {spread_m}, {background}"
        )
    centres = rng.random((hotspots, 2)) * (width, height)

    def draw(count: int) -> FloatArray:
        centre = centres[rng.integers(hotspots, size=count)]
        points = centre + rng.normal(scale=spread_m, size=(count, 2))
        while (outside := ((points < 0) | (points > (width, height))).any(axis=1)).any():
            again = centre[outside]
            points[outside] = again + rng.normal(scale=spread_m, size=again.shape)
        spread_out = rng.random(count) < background
        points[spread_out] = rng.random((int(spread_out.sum()), 2)) * (width, height)
        return points

    return draw


def _separate(points: FloatArray, draw: Draw, min_separation_m: float) -> FloatArray:
    if min_separation_m <= 0:
        return points
    from scipy.spatial import KDTree

    for _ in range(200):
        close = KDTree(points).query_pairs(min_separation_m, output_type="ndarray")
        if len(close) == 0:
            return points
        move = np.unique(close.max(axis=1))
        points = points.copy()
        points[move] = draw(len(move))
    raise ValueError(
        f"could not place {len(points)} devices at least {min_separation_m} m apart; "
        "lower min_separation_m, lower the count or enlarge area_m"
    )


def _read(path: str | Path | None, count: int, width: float, height: float) -> FloatArray:
    if path is None:
        raise ValueError("placement 'file' needs path= (a CSV with x_m,y_m or a .npy array)")
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"placement file {source} does not exist; give the path of a CSV or .npy file")
    points = np.load(source, allow_pickle=False) if source.suffix == ".npy" else _read_csv(source)
    points = np.asarray(points, dtype=np.float64)
    if points.shape != (count, 2):
        raise ValueError(f"{source} holds positions of shape {points.shape}, expected ({count}, 2)")
    inside = np.isfinite(points).all(axis=1) & (points >= 0).all(axis=1)
    inside &= (points <= (width, height)).all(axis=1)
    if not inside.all():
        raise ValueError(
            f"{source}: device {np.flatnonzero(~inside)[0]} stands at {points[~inside][0].tolist()}, outside "
            f"the area {width:g} m × {height:g} m; enlarge area_m or shift the positions"
        )
    return points


def _read_csv(source: Path) -> FloatArray:
    with source.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        names = set(reader.fieldnames or ())
        if not {"x_m", "y_m"} <= names:
            raise ValueError(
                f"{source}: expected columns x_m,y_m (and optionally device), got {sorted(names)}"
            )
        rows: list[tuple[int, float, float]] = []
        for line, row in enumerate(reader, start=2):
            try:
                rows.append((int(row.get("device") or line - 2), float(row["x_m"]), float(row["y_m"])))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{source} line {line}: expected numbers, got {dict(row)}") from error
    devices = sorted(row[0] for row in rows)
    if devices != list(range(len(rows))):
        raise ValueError(f"{source}: the device column must number the devices 0..{len(rows) - 1}, once each")
    return np.array([row[1:] for row in sorted(rows)], dtype=np.float64).reshape(-1, 2)
