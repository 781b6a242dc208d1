"""Traces of availability and speed in files: CSV and Parquet of device, t_s, on, speed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.errors import InputError
from topology.csv_file import open_csv

if TYPE_CHECKING:
    from channels.presence import Presence
    from dfl_ray.config.availability import AvailabilityConfig

COLUMNS = ("device", "t_s", "on", "speed")
"""Columns of a trace; `on` and `speed` may be missing, and are 1 then."""


def presence_of(section: AvailabilityConfig, devices: int) -> Presence | None:
    """Read the trace that a configuration names.

    Args:
        section: The configuration's `devices.availability`.
        devices: Number of devices.

    Returns:
        When devices are on and how fast; None where none is named.

    Raises:
        InputError: The file is no trace of these devices.
    """
    from channels.presence import Presence

    if section.path is None:
        return None
    path = Path(section.path).expanduser()
    try:
        rows = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)
        if not len(rows):
            raise ValueError("it holds no row")
        return Presence.build(devices, *rows.T)
    except (OSError, ValueError) as error:
        raise InputError(
            "`devices.availability.path` is no trace of when devices are on",
            got=f"{path}: {str(error).removeprefix(f'{path}: ')}",
            expected=f"CSV or Parquet with the columns {', '.join(COLUMNS)}; each row holds until the device's next, "
            "and before its first one a device is on at speed 1",
        ) from error


def _csv(path: Path) -> np.ndarray:
    with open_csv(path) as reader:
        names = _known(reader.fieldnames or ())
        rows: list[list[float]] = []
        for line, row in enumerate(reader, start=2):
            try:
                rows.append([float(row[name]) if name in names else 1.0 for name in COLUMNS])
            except (TypeError, ValueError) as error:
                raise ValueError(f"line {line}: expected numbers, got {dict(row)}") from error
    return np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))


def _parquet(path: Path) -> np.ndarray:
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(path)
    except pa.ArrowException as error:
        raise ValueError(f"not a Parquet file: {error}") from error
    names = _known(list(map(str, table.columns)))
    columns = [table[n].to_numpy(dtype=np.float64) if n in names else np.ones(len(table)) for n in COLUMNS]
    return np.stack(columns, axis=1)


def _known(names: Iterable[str]) -> set[str]:
    """The columns of a trace among the names.

    Raises:
        ValueError: A column is unknown, or device or time is missing.
    """
    found = set(names)
    if found - set(COLUMNS) or not {"device", "t_s"} <= found:
        raise ValueError(f"expected columns {', '.join(COLUMNS)}, got {', '.join(sorted(found)) or 'none'}")
    return found
