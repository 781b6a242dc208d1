"""Bringing tables to a schema of `records.schema`: order, types, nulls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dfl_ray.errors import nearest

if TYPE_CHECKING:
    import pandas as pd

    TableLike = pa.Table | pd.DataFrame | Mapping[str, Any]


def conform(table: TableLike, schema: pa.Schema, *, round: int | None = None) -> pa.Table:
    """Bring a table to a schema: order, types, missing nullable columns as null, NaN as null.

    Args:
        table: Arrow table, DataFrame, or mapping of column name to a sequence of equal lengths.
        schema: One of `TABLES` or `TOPOLOGY_TABLES`.
        round: Fills the column `round` when the table has none; must equal it when it has one.

    Returns:
        The table with exactly the schema's columns and types.

    Raises:
        ValueError: An unknown column, a missing one that must not be null, a null in it, a type that does not
            fit (an integer out of range too), or a `round` other than the one given.
    """
    arrow = _as_arrow(table)
    name = (schema.metadata or {}).get(b"dfl_ray.table", b"?").decode()
    if round is not None and "round" not in arrow.column_names:
        arrow = arrow.append_column("round", pa.array([round] * arrow.num_rows, pa.int64()))
    for column in arrow.column_names:
        if column not in schema.names:
            raise ValueError(f"table `{name}` has no column `{column}`: {nearest(column, schema.names)}")
    columns = [_column(arrow, field, name) for field in schema]
    others = [value for value in columns[0].unique().to_pylist() if round is not None and value != round]
    if others:
        raise ValueError(f"table `{name}`: rows of other rounds than {round}: {others[:5]}")
    return pa.table(columns, schema=schema)


def _as_arrow(table: TableLike) -> pa.Table:
    if isinstance(table, pa.Table):
        return table
    # Column by column: pyarrow's own conversion of frames spends more on pandas metadata than on the values.
    columns = {str(name): pa.array(_plain(values), from_pandas=True) for name, values in table.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of one table differ in length: {lengths}")
    return pa.table(columns)


def _plain(values: Any) -> Any:
    """The array of a pandas column that has a numpy type, which pyarrow converts faster; anything else as it is."""
    if hasattr(values, "to_numpy") and isinstance(values.dtype, np.dtype):
        return values.to_numpy()
    return values


def _column(arrow: pa.Table, field: pa.Field, table: str) -> pa.ChunkedArray:
    """One column cast to its field; floats that are NaN become null where null is allowed."""
    if field.name not in arrow.column_names:
        values: Any = pa.chunked_array([pa.nulls(arrow.num_rows, field.type)])
    else:
        try:
            values = arrow.column(field.name)
            values = values if values.type == field.type else values.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"table `{table}`, column `{field.name}`: not {field.type}: {error}") from error
        if field.nullable and pa.types.is_floating(field.type):
            values = _nan_to_null(values)
    if not field.nullable and values.null_count:
        raise ValueError(f"table `{table}`: column `{field.name}` must be given in every row")
    return values


def upgrade(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring rows written under an older schema version to a schema.

    Args:
        table: Rows with a subset of the schema's columns; those that are missing become null.
        schema: The schema to reach, or some columns of one.

    Returns:
        The rows with exactly the schema's columns, types and metadata.
    """
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _nan_to_null(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    mask: Any = pc.is_nan(values)
    return pc.if_else(mask, pa.scalar(None, values.type), values)
