"""A partition in a Parquet file: device, task and row number of every row that somebody holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from topology.arrays import FloatArray, IntArray

COLUMNS = ("device", "task", "row")
SUFFIXES = (".parquet", ".pq")


def read_row_file(
    path: str | Path, devices: int, tasks: int, names: Sequence[str] | None = None
) -> list[dict[int, IntArray]]:
    """Read who holds which rows.

    Tasks are numbers from 0, or names as a run writes them. Rows of a column `split` other than `train` are left out.

    Args:
        path: The file.
        devices: Number of devices.
        tasks: Number of tasks.
        names: Names of the tasks in their order; None: the order of names stands in the file's metadata under `tasks`.

    Returns:
        For every device a dict task → ascending int64 row numbers, as `topology.partition.split_rows` gives it.

    Raises:
        ValueError: The file cannot be read, names other devices or tasks, or deals a row twice.
    """
    columns, its_own = _read(Path(path))
    split = columns.get("split")
    order = {name: number for number, name in enumerate(its_own if names is None else names)}
    _check_names(path, {task for task in columns["task"] if isinstance(task, str)}, order)
    parts: list[dict[int, list[int]]] = [{} for _ in range(devices)]
    seen: set[tuple[int, int]] = set()
    for place, (device, named, row) in enumerate(zip(*(columns[name] for name in COLUMNS), strict=True)):
        if split and split[place] != "train":
            continue
        task: Any = order.get(named, -1) if isinstance(named, str) else named
        if not (_within(device, devices) and _within(task, tasks) and isinstance(row, int) and row >= 0):
            raise ValueError(
                f"{path}: device {device}, task {named} and row {row} do not fit {devices} devices and {tasks} tasks; "
                "tasks are numbers from 0 unless a run wrote the file"
            )
        if (task, row) in seen:
            raise ValueError(f"{path}: row {row} of task {named} is dealt twice")
        seen.add((task, row))
        held: dict[int, list[int]] = parts[int(device)]
        held.setdefault(int(task), []).append(int(row))
    return [{task: np.array(sorted(rows), np.int64) for task, rows in sorted(part.items())} for part in parts]


def _check_names(path: str | Path, found: Set[str], order: Mapping[str, int]) -> None:
    strange = sorted(found - order.keys())
    if strange:
        raise ValueError(
            f"{path}: it deals rows of the tasks {', '.join(strange)}, got a run of {', '.join(order) or 'no names'}; "
            "give the file of a run of these tasks, or take its tasks (`tasks.names`)"
        )


def _read(path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """The columns as lists, and the names of the tasks in their order if the file tells them."""
    # Imported here: only users of Parquet files need pyarrow in this package.
    parquet: Any = import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
        metadata: dict[bytes, bytes] = table.schema.metadata or {}
        names = json.loads(metadata.get(b"tasks", b"[]"))
        columns = {name: table.column(name).to_pylist() for name in COLUMNS}
        if "split" in table.column_names:
            columns["split"] = table.column("split").to_pylist()
    except Exception as error:
        # pyarrow has many error types; to a user they all mean that this is not the file asked for.
        raise ValueError(f"{path}: no Parquet file with columns {', '.join(COLUMNS)}: {error}") from error
    return columns, names


def row_shares(parts: list[dict[int, IntArray]], tasks: int) -> FloatArray:
    """Number of rows of every task on every device.

    Args:
        parts: What `read_row_file` returns.
        tasks: Number of tasks.

    Returns:
        (devices, tasks) counts as float64.
    """
    counts = np.zeros((len(parts), tasks))
    for device, part in enumerate(parts):
        for task, rows in part.items():
            counts[device, task] = len(rows)
    return counts


def _within(value: object, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count
