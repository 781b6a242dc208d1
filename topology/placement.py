"""Where devices stand at the start: uniform, Poisson, hotspots (Thomas process), or read from a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np

from topology.answers import positions
from topology.arrays import FloatArray
from topology.csv_file import open_csv
from topology.registry import Within, ask, check_options
from topology.tables import PLACEMENTS

Draw = Callable[[int], FloatArray]

LEAST_INSIDE = 1e-3
"""Share of the offsets from a hotspot in a corner that must stay inside; the others are redrawn."""

GIVEN = ("count", "area_m", "rng")
"""What every placement is given; its other parameters are its options."""


def place(
    kind: str, count: int, /, *, area_m: tuple[float, float], rng: np.random.Generator, **options: object
) -> FloatArray:
    """Place devices in the rectangle ``[0, width] × [0, height]``.

    Args:
        kind: Name of a placement, see `topology.tables.PLACEMENTS`.
        count: Number of devices, ≥ 1.
        area_m: Width and height, metres, both > 0.
        rng: Source of every draw.
        **options: The placement's own, e.g. ``hotspots`` and ``spread_m`` of `hotspots`.

    Returns:
        (count, 2) float64 positions, metres.

    Raises:
        ValueError: For an unknown kind or option, a value out of range, a separation the area cannot give, a
            file that does not fit, or a placement that does not give every device a place in the area.
    """
    width, height = float(area_m[0]), float(area_m[1])
    if count < 1 or not (width > 0 and height > 0) or not np.isfinite([width, height]).all():
        raise ValueError(
            f"placement needs count ≥ 1 and a positive area_m, got count={count}, area_m={area_m}"
        )
    chosen = PLACEMENTS[kind]
    what, area = f"placement {kind!r}", (width, height)
    check_options(what, chosen, GIVEN, options)
    return positions(what, ask(what, chosen, count, area_m=area, rng=rng, **options), count, area)


def uniform(
    count: int,
    *,
    area_m: tuple[float, float],
    rng: np.random.Generator,
    min_separation_m: Annotated[float, Within(ge=0)] = 0.0,
) -> FloatArray:
    """Independent and uniform positions.

    Args:
        count: Number of devices.
        area_m: Width and height, metres.
        rng: Source of every draw.
        min_separation_m: Devices closer than this to another one are redrawn, metres; 0 for none.

    Returns:
        (count, 2) positions, metres.

    Raises:
        ValueError: If the area cannot give the separation.
    """
    draw = _uniform(*area_m, rng)
    return _separate(draw(count), draw, min_separation_m)


def poisson(
    count: int,
    *,
    area_m: tuple[float, float],
    rng: np.random.Generator,
    min_separation_m: Annotated[float, Within(ge=0)] = 0.0,
) -> FloatArray:
    """A homogeneous Poisson process seen with exactly ``count`` points: the law and the draw of `uniform`.

    Args:
        count: Number of devices.
        area_m: Width and height, metres.
        rng: Source of every draw.
        min_separation_m: Devices closer than this to another one are redrawn, metres; 0 for none.

    Returns:
        (count, 2) positions, metres.

    Raises:
        ValueError: If the area cannot give the separation.
    """
    return uniform(count, area_m=area_m, rng=rng, min_separation_m=min_separation_m)


def hotspots(
    count: int,
    *,
    area_m: tuple[float, float],
    rng: np.random.Generator,
    hotspots: Annotated[int, Within(ge=1, le=1_000_000)] = 5,
    spread_m: Annotated[float | None, Within(gt=0)] = None,
    background: Annotated[float, Within(ge=0, le=1)] = 0.0,
    min_separation_m: Annotated[float, Within(ge=0)] = 0.0,
) -> FloatArray:
    """A Thomas process: devices at Gaussian distances from uniform centres, redrawn while outside the area.

    Args:
        count: Number of devices.
        area_m: Width and height, metres.
        rng: Source of every draw.
        hotspots: Number of centres; each device picks one at random.
        spread_m: Standard deviation of a device's offset per axis, metres; none = 6 % of the shorter side.
        background: Share of devices placed uniformly instead.
        min_separation_m: Devices closer than this to another one are redrawn, metres; 0 for none.

    Returns:
        (count, 2) positions, metres.

    Raises:
        ValueError: If a value is out of range, so few offsets stay inside that the draws would not end, or the area
            cannot give the separation.

    Source: Illian, Penttinen, Stoyan and Stoyan, "Statistical Analysis and Modelling of Spatial Point Patterns",
        2008, §6.3 (here with a fixed number of centres and of devices).
    """
    spread = 0.06 * min(area_m) if spread_m is None else spread_m
    draw = _thomas(*area_m, rng, hotspots, spread, background)
    return _separate(draw(count), draw, min_separation_m)


def from_file(
    count: int, *, area_m: tuple[float, float], rng: np.random.Generator, path: str | Path
) -> FloatArray:
    """Positions of the user's.

    Args:
        count: Number of devices.
        area_m: Width and height, metres; every device must stand inside.
        rng: Not used; taken so that all placements are called alike.
        path: CSV with columns ``x_m,y_m`` and optionally ``device``, or a ``.npy`` array (devices, 2).

    Returns:
        (count, 2) positions, metres.

    Raises:
        ValueError: If the file is missing or malformed, or a device stands outside the area.
    """
    return _read(path, count, *area_m)


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
    # Of a centre in a corner, which keeps the fewest: the share of offsets from 0 to the side, on both axes.
    inside = math.prod(math.erf(side / spread_m / math.sqrt(2)) / 2 for side in (width, height))
    if inside < LEAST_INSIDE:
        raise ValueError(
            f"hotspots: spread_m is {spread_m:g} for an area of {width:g} m × {height:g} m: of a hotspot in a "
            f"corner a share of {inside:.2g} would stay inside, expected at least {LEAST_INSIDE:g}; lower spread_m, or "
            "take the uniform placement, which this is as good as"
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


def _read(path: str | Path, count: int, width: float, height: float) -> FloatArray:
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"placement file {source} does not exist; give the path of a CSV or .npy file")
    try:
        points = np.load(source, allow_pickle=False) if source.suffix == ".npy" else _read_csv(source)
    except EOFError as error:
        raise ValueError(f"placement file {source} is neither a CSV in UTF-8 nor .npy: {error}") from error
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
    with open_csv(source) as reader:
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
