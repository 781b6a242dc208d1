"""A table on disk as a folder of Parquet part files: append, compact, truncate and read, each step atomic.

Which files are the parts of a table `records.part_files` tells. Every reader sees every row once, and
`pandas.read_parquet(folder)` works too, since names that start with a dot are skipped by it. (That plain call can
see rows twice in one case: after a crash between writing a compacted part and removing its sources, until the
folder is next truncated or finished.)

A part keeps the schema version it was written with. Reading and merging bring older parts to the present schema:
columns that came later are null in them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dfl_ray.errors import InputError
from dfl_ray.records.files import naming_file, replacing, sync_folder
from dfl_ray.records.part_files import Part, list_parts, part_path
from dfl_ray.records.schema import SCHEMA_VERSION, came_with, upgrade

T = TypeVar("T")

COMPACT_EVERY = 64
_ROW_GROUP = 1 << 17


def append(folder: Path, table: pa.Table) -> None:
    """Write one part behind the last, then compact where `COMPACT_EVERY` parts of like size have gathered.

    Args:
        folder: The table's folder, made when missing.
        table: The rows, in the table's full schema.
    """
    parts, _ = list_parts(folder)
    sequence = parts[-1].last + 1 if parts else 0
    path = part_path(folder, sequence, sequence)
    _write_atomically(path, table.schema, [table])
    _compact_tail([*parts, Part(sequence, sequence, path)], table.schema)


def append_all(tables: Mapping[Path, pa.Table]) -> None:
    """Append to several tables side by side, since most of the time is spent waiting for the disk; see `append`.

    All are on the disk when it returns. If one fails, parts of the others may have been written.

    Args:
        tables: Folder of a table -> the rows; nothing is done without tables.
    """
    if len(tables) < 2:
        for folder, rows in tables.items():
            append(folder, rows)
        return
    with ThreadPoolExecutor(len(tables)) as threads:
        list(threads.map(append, tables.keys(), tables.values()))


def _compact_tail(parts: list[Part], schema: pa.Schema) -> None:
    """Merge the last parts level by level, so that n appends leave O(log n) parts."""
    size = 1
    while True:
        tail: list[Part] = []
        for part in reversed(parts):
            if part.span >= size * COMPACT_EVERY:
                break
            tail.insert(0, part)
        if len(tail) < COMPACT_EVERY:
            return
        parts = [*parts[: -len(tail)], _merge(tail, schema)]
        size *= COMPACT_EVERY


def compact(folder: Path, schema: pa.Schema) -> None:
    """Merge all parts of a table into one and remove superseded ones.

    Args:
        folder: The table's folder; nothing is done without parts.
        schema: The table's schema, to which rows of older versions are brought.
    """
    parts, superseded = list_parts(folder)
    _remove(superseded)
    if len(parts) > 1:
        _merge(parts, schema)


def _merge(parts: Sequence[Part], schema: pa.Schema) -> Part:
    path = part_path(parts[0].path.parent, parts[0].first, parts[-1].last)
    _write_atomically(path, schema, (upgrade(_read_whole(part.path), schema) for part in parts))
    _remove(parts)
    return Part(parts[0].first, parts[-1].last, path)


def _read_whole(path: Path) -> pa.Table:
    with naming_file(path):
        return pq.ParquetFile(path, page_checksum_verification=True).read()


def _remove(parts: Sequence[Part]) -> None:
    for part in parts:
        part.path.unlink(missing_ok=True)


def truncate(folder: Path, after_round: int) -> None:
    """Drop every row of a later round than `after_round`, and nothing else. Repeating it changes nothing.

    Args:
        folder: The table's folder; a missing one stays missing.
        after_round: Last round whose rows are kept.
    """
    parts, superseded = list_parts(folder)
    _remove(superseded)
    for part in parts:
        if not reaches_beyond(part, after_round):
            continue
        table = _read_whole(part.path)
        keep = pc.less_equal(table.column("round"), after_round)
        _write_atomically(part.path, table.schema, [table.filter(keep)])


def reaches_beyond(part: Part, after_round: int) -> bool:
    """Whether a part holds rows of a later round.

    Args:
        part: The part.
        after_round: The round.

    Returns:
        True if it does.

    Raises:
        InputError: The part is damaged.
    """
    newest = _newest(part)
    return newest is not None and newest > after_round


def newest_round(folder: Path) -> int | None:
    """The latest round that a table has rows of.

    Args:
        folder: The table's folder.

    Returns:
        The round; None for a table without rows.

    Raises:
        InputError: A part is damaged.
    """
    found = [newest for part in list_parts(folder)[0] if (newest := _newest(part)) is not None]
    return max(found, default=None)


def _newest(part: Part) -> int | None:
    """The latest round of a part: from its footer, or from its rows where that does not tell."""
    with naming_file(part.path), pq.ParquetFile(part.path) as file:
        footer, place = file.metadata, file.schema_arrow.get_field_index("round")
        groups = range(footer.num_row_groups if place >= 0 else 0)
        told = [footer.row_group(group).column(place).statistics for group in groups]
        if told and all(one is not None and one.has_min_max for one in told):
            return int(max(one.max for one in told))
        rounds = file.read(["round"]).column("round")
    return pc.max(rounds).as_py() if rounds.length() else None


def read(folder: Path, schema: pa.Schema, *, columns: Sequence[str] | None = None, filters=None) -> pa.Table:
    """Read a table whole, or some columns and rows of it.

    Args:
        folder: The table's folder; without parts the answer has the schema's columns and no rows.
        schema: The table's schema.
        columns: Columns wanted; none = all of the schema.
        filters: Row filter as in `pyarrow.parquet.read_table`, e.g. `[("round", "==", 3)]`, or a list of such lists
            of which one must hold, over columns that every version has.

    Returns:
        The rows of all parts in order; columns that came after a part was written are null in its rows.

    Raises:
        InputError: A part is of a newer schema, is damaged or missing, or is not a table of this kind.
        OSError: The folder changed at each of five attempts to read it.
    """
    tables = _settled(folder, lambda: list(_read_parts(folder, schema, columns, filters)))
    wanted = schema if columns is None else _chosen(schema, columns)
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def count_rows(folder: Path) -> int:
    """Number of rows of a table, by the footers of its parts.

    Args:
        folder: The table's folder; without parts there are none.

    Returns:
        Rows of all parts.

    Raises:
        InputError: A part is damaged.
        OSError: The folder changed at each of five attempts to read it.
    """

    def counted() -> int:
        rows = 0
        for part in list_parts(folder)[0]:
            with naming_file(part.path):
                rows += pq.read_metadata(part.path).num_rows
        return rows

    return _settled(folder, counted)


def check_rows(folder: Path, schema: pa.Schema) -> None:
    """Read every row of a table once, a row group at a time, for the errors that it would give.

    Args:
        folder: The table's folder; without parts there is nothing to read.
        schema: The table's schema.

    Raises:
        InputError: A part is of a newer schema, is damaged or missing, or is not a table of this kind.
        OSError: The folder changed at each of five attempts to read it.
    """

    def checked() -> None:
        for part in list_parts(folder)[0]:
            names = check_part(part.path, schema).names
            wanted = [name for name in schema.names if name in names]
            with naming_file(part.path), pq.ParquetFile(part.path, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    upgrade(file.read_row_group(group, columns=wanted), schema)

    _settled(folder, checked)


def _settled(folder: Path, read: Callable[[], T]) -> T:
    """What is read of a folder; where a live run merged parts between listing and reading, it is listed again."""
    for _ in range(5):
        try:
            return read()
        except FileNotFoundError:
            continue
    raise OSError(f"{folder} kept changing while it was read")


def _chosen(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)


def _read_parts(
    folder: Path, schema: pa.Schema, columns: Sequence[str] | None, filters
) -> Iterator[pa.Table]:
    wanted = schema if columns is None else _chosen(schema, columns)
    for part in list_parts(folder)[0]:
        stored = check_part(part.path, schema)
        names = [name for name in wanted.names if name in stored.names]
        with naming_file(part.path):
            table = pq.read_table(
                part.path,
                columns=names,
                filters=filters,
                partitioning=None,
                page_checksum_verification=True,
            )
            upgraded = upgrade(table, wanted)
        yield upgraded


def check_part(path: Path, schema: pa.Schema) -> pa.Schema:
    """Refuse a part of a newer schema or of another table.

    Args:
        path: The part file.
        schema: The table's schema in this version.

    Returns:
        The schema of the part, which lacks the columns that came after it was written.

    Raises:
        InputError: Naming the file and the versions.
    """
    with naming_file(path):
        stored = pq.read_schema(path)
    version = int((stored.metadata or {}).get(b"dfl_ray.schema_version", b"0"))
    if version > SCHEMA_VERSION:
        raise InputError(
            f"The records at {path.parent} were written by a newer dfl-ray",
            got=f"schema version {version}",
            expected=f"at most {SCHEMA_VERSION}",
            change="Read them with the version of dfl-ray that wrote them, or update this one.",
        )
    missing = [
        field.name
        for field in schema
        if field.name not in stored.names and came_with(field) <= max(version, 1)
    ]
    if missing:
        raise InputError(
            f"{path} is not a table of this kind",
            got="columns " + ", ".join(stored.names[:8]),
            expected="also " + ", ".join(missing[:8]),
            change="Give the folder of a run made by `dfl-ray run`.",
        )
    return stored


def _write_atomically(path: Path, schema: pa.Schema, tables) -> None:
    """Write to a hidden file beside the target, flush it to the disk and rename it over the target."""
    path.parent.mkdir(exist_ok=True)  # not its parents: a run folder that was removed is not made anew
    temporary = path.with_name(f".{path.name}.tmp")
    with replacing(path, temporary):
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
                for group in _row_groups(schema, tables):
                    writer.write_table(group, row_group_size=_ROW_GROUP)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    sync_folder(path.parent)


def _row_groups(schema: pa.Schema, tables) -> Iterator[pa.Table]:
    """Gather small tables into row groups of useful size, holding only one group in memory."""
    gathered: list[pa.Table] = []
    rows = 0
    for table in tables:
        gathered.append(table)
        rows += table.num_rows
        if rows >= _ROW_GROUP:
            yield pa.concat_tables(gathered)
            gathered, rows = [], 0
    if gathered:
        yield pa.concat_tables(gathered).combine_chunks() if rows else schema.empty_table()
