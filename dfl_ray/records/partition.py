"""`partition.parquet`: who holds which rows of which task, written for every run and readable back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dfl_ray.errors import InputError
from dfl_ray.records.files import naming_file

if TYPE_CHECKING:
    import pandas as pd

FILE = "partition.parquet"
SCHEMA = pa.schema(
    [
        pa.field("device", pa.int32(), metadata={"doc": "device that holds the row"}),
        pa.field("task", pa.string(), metadata={"doc": "task of the row"}),
        pa.field(
            "row", pa.int32(), metadata={"doc": "index of the row among the task's training rows, from 0"}
        ),
        pa.field("split", pa.string(), metadata={"doc": "train; held-out rows are asked of every device"}),
    ]
)


def write_partition(
    folder: Path,
    names: Sequence[str],
    held: Mapping[int, Sequence[int]],
    rows: Mapping[int, Sequence[np.ndarray]],
) -> Path:
    """Write who holds which training rows, ordered by device, task and row.

    Args:
        folder: The run folder.
        names: Names of the tasks.
        held: Device -> tasks it holds.
        rows: Device -> for each held task the indices of its training rows.

    Returns:
        The file.
    """
    places = [
        (d, t, np.sort(np.asarray(r))) for d in sorted(held) for t, r in zip(held[d], rows[d], strict=True)
    ]
    sizes = [len(r) for _, _, r in places]
    count = sum(sizes)
    table = pa.table(
        {
            "device": np.repeat(np.array([d for d, _, _ in places], np.int32), sizes),
            "task": pa.DictionaryArray.from_arrays(
                np.repeat(np.array([t for _, t, _ in places], np.int32), sizes), list(names)
            ).cast(pa.string()),
            "row": np.concatenate([r for _, _, r in places]).astype(np.int32)
            if places
            else np.zeros(0, np.int32),
            "split": pa.array(["train"] * count, pa.string()),
        },
        schema=SCHEMA.with_metadata({"tasks": json.dumps(list(names))}),
    )
    pq.write_table(table, folder / FILE, write_page_checksum=True)
    return folder / FILE


def read_partition(path: Path) -> pd.DataFrame:
    """Read a partition back.

    Args:
        path: The file, or the run folder it lies in.

    Returns:
        Columns device, task, row, split.

    Raises:
        InputError: There is none, or a column is missing.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"There is no partition at {path}", expected=f"a run folder with {FILE}, or such a file"
        )
    with naming_file(file):
        table = pq.read_table(file, page_checksum_verification=True)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise InputError(
            f"The partition {file} has no column `{missing[0]}`", expected=", ".join(SCHEMA.names)
        )
    return table.select(SCHEMA.names).to_pandas()
