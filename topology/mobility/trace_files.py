"""Traces of movement in files: CSV and Parquet of device, t_s, x_m, y_m, and SUMO's floating-car data."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import ParseError, iterparse

import numpy as np

from topology.arrays import FloatArray
from topology.csv_file import open_csv

COLUMNS = ("device", "t_s", "x_m", "y_m")


def read_trace(
    path: Path, nodes: int, area_m: tuple[float, float], offset_m: tuple[float, float]
) -> FloatArray:
    """Read and check a trace.

    Args:
        path: CSV, Parquet (``.parquet``, ``.pq``) or SUMO's FCD XML (``.xml``, ``.xml.gz``).
        nodes: Number of devices N.
        area_m: Width and height, metres.
        offset_m: Added to all points, metres.

    Returns:
        (P, 4) columns device, t_s, x_m, y_m, sorted by device, then time.

    Raises:
        ValueError: If the file is missing or malformed, a device has no point or two at one time, or a point lies
            outside the area.
    """
    if not path.is_file():
        raise ValueError(
            f"mobility trace {path} does not exist; give a CSV or Parquet file with {COLUMNS}, or FCD XML"
        )
    points = _reader(path)(path, nodes)
    points[:, 2:] += offset_m
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


def _reader(path: Path) -> Callable[[Path, int], FloatArray]:
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return _parquet
    return _sumo if name.endswith((".xml", ".xml.gz")) else _csv


def _sumo(path: Path, nodes: int) -> FloatArray:
    """The first `nodes` vehicles of SUMO's floating-car data, in the order in which they come.

    Source: SUMO user documentation, "FCD output": ``<timestep time=".."><vehicle id=".." x=".." y=".."/>``; persons
    count like vehicles.
    """
    numbers: dict[str, int] = {}
    rows: list[tuple[float, ...]] = []
    time_s = 0.0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as handle:
            for event, element in iterparse(handle, events=("start", "end")):
                if element.tag == "timestep":
                    if event == "start":
                        time_s = float(element.attrib["time"])
                    else:
                        element.clear()
                elif event == "start" and element.tag in ("vehicle", "person"):
                    number = numbers.setdefault(element.attrib["id"], len(numbers))
                    if number < nodes:
                        rows.append((number, time_s, float(element.attrib["x"]), float(element.attrib["y"])))
    except (ParseError, KeyError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not SUMO floating-car data (FCD XML): {error}") from error
    if len(numbers) < nodes:
        raise ValueError(
            f"{path}: {len(numbers)} vehicles for {nodes} devices; lower devices.count or record a longer trace"
        )
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _csv(path: Path, _nodes: int) -> FloatArray:
    with open_csv(path) as reader:
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected columns {', '.join(COLUMNS)}, got {reader.fieldnames}")
        rows: list[list[float]] = []
        for line, row in enumerate(reader, start=2):
            try:
                rows.append([float(row[name]) for name in COLUMNS])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path} line {line}: expected numbers, got {dict(row)}") from error
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _parquet(path: Path, _nodes: int) -> FloatArray:
    # Imported here: only users of Parquet traces need pandas in this package.
    import pandas as pd

    try:
        table = pd.read_parquet(path, columns=list(COLUMNS))
        return np.array(table, dtype=np.float64)
    except Exception as error:
        # pyarrow has many error types; to a user they all mean that this is not the file asked for.
        raise ValueError(f"{path}: not a Parquet file with numeric columns {COLUMNS}: {error}") from error
