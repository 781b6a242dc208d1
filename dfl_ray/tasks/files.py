"""Tasks from a folder: `<task>/train.jsonl|csv|parquet` and `<task>/test.*`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dfl_ray.config.schema import TasksConfig
from dfl_ray.errors import InputError, nearest
from dfl_ray.tasks.assemble import LoadedTasks, assemble
from dfl_ray.tasks.data import Task
from dfl_ray.tasks.rows import BadRow, RowTable, refuse_bad_rows, row_of

Record = tuple[str, Any]
"""Place in the file, and the record there or the BadRow it is."""


def load_file_tasks(config: TasksConfig) -> LoadedTasks:
    """Read the tasks of a folder.

    Every subfolder with a train or test file is a task. A file holds one row each line (`.jsonl`, UTF-8;
    blank lines are passed over), or is a CSV with a header line, or Parquet. `config.prompt_field` and
    `config.answer_field` name its two fields; others are ignored.

    Args:
        config: The `tasks` section with `source: files`.

    Returns:
        The tasks in the order of `config.names`, or by name, with what was skipped.

    Raises:
        InputError: No such folder or task, a split missing or doubled, or bad rows (all of them, with file
            and line, in one message) unless `config.on_bad_rows` is `skip`.
    """
    if config.path is None:
        raise InputError(
            "`tasks.path` is not set", expected="a folder with <task>/train.jsonl and <task>/test.jsonl"
        )
    folder = Path(config.path).expanduser()
    names = _chosen(folder, config.names)
    # All splits are looked for before any is read, so that a missing one is told at once.
    files = {
        name: {split: _split_file(folder / name, split) for split in ("train", "test")} for name in names
    }
    tables = {name: {s: read_rows(path, config) for s, path in pair.items()} for name, pair in files.items()}
    everything = [table for pair in tables.values() for table in pair.values()]
    if config.on_bad_rows == "refuse":
        refuse_bad_rows(everything)
    tasks: list[Task] = []
    leaked: dict[str, int] = {}
    for name, pair in tables.items():
        _refuse_empty(name, pair)
        task, count = assemble(name, pair["train"].rows, pair["test"].rows, config)
        tasks.append(task)
        if count:
            leaked[name] = count
    return LoadedTasks(tuple(tasks), {t.source: len(t.bad) for t in everything if t.bad}, leaked)


def read_rows(path: Path, config: TasksConfig) -> RowTable:
    """Read one file by its suffix into good and bad rows.

    Raises:
        InputError: The file as a whole cannot be read (no header, not Parquet, no permission).
    """
    rows, bad = [], []
    try:
        for place, record in _READERS[path.suffix](path, (config.prompt_field, config.answer_field)):
            row = (
                record.reason
                if isinstance(record, BadRow)
                else row_of(record, config.prompt_field, config.answer_field)
            )
            if isinstance(row, str):
                bad.append(BadRow(place, row))
            else:
                rows.append(row)
    except OSError as error:
        raise InputError(f"The task file {path} cannot be read", got=str(error)) from None
    return RowTable(str(path), tuple(rows), tuple(bad))


def _chosen(folder: Path, names: tuple[str, ...] | None) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InputError(
            "`tasks.path` is not a folder", got=str(folder), expected="a folder with one subfolder a task"
        )
    found = sorted(item.name for item in folder.iterdir() if item.is_dir() and _has_split(item))
    if not found:
        raise InputError(
            f"There are no tasks in {folder}",
            got=", ".join(sorted(item.name for item in folder.iterdir())[:10]) or "an empty folder",
            expected="subfolders <task> with train.jsonl and test.jsonl (or .csv, .parquet)",
        )
    for name in names or ():
        if name not in found:
            inside = (folder / name).is_dir()
            raise InputError(
                f"There is no task `{name}` in {folder}"
                + (": its folder has no train or test file" if inside else ""),
                expected=nearest(name, found),
                change="Change tasks.names.",
            )
    return names or tuple(found)


def _has_split(folder: Path) -> bool:
    return any((folder / f"{split}{suffix}").is_file() for split in ("train", "test") for suffix in _READERS)


def _split_file(folder: Path, split: str) -> Path:
    found = [path for suffix in _READERS if (path := folder / f"{split}{suffix}").is_file()]
    if len(found) == 1:
        return found[0]
    got = ", ".join(path.name for path in found) or f"no {split} file"
    raise InputError(
        f"The task `{folder.name}` has {'several' if found else 'no'} {split} rows"
        + (" files" if found else ""),
        got=f"{got} in {folder}",
        expected=f"one of {', '.join(split + suffix for suffix in _READERS)}",
    )


def _refuse_empty(name: str, pair: Mapping[str, RowTable]) -> None:
    for split, table in pair.items():
        if not table.rows:
            got = f"{len(table.bad)} rows, all bad" if table.bad else "an empty file"
            first = f" (first: {table.bad[0].place}: {table.bad[0].reason})" if table.bad else ""
            raise InputError(
                f"The task `{name}` has no {split} rows",
                got=f"{got}: {table.source}{first}",
                expected="at least one row",
            )


def _jsonl(path: Path, fields: tuple[str, str]) -> Iterator[Record]:
    del fields
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield place, json.loads(text)
            except UnicodeDecodeError as error:
                yield place, BadRow(place, f"not UTF-8 (byte {error.start + 1})")
            except json.JSONDecodeError as error:
                yield place, BadRow(place, f"not JSON: {error.msg} at column {error.colno}")
            except RecursionError:
                yield place, BadRow(place, "not JSON that can be read: nested too deeply")


def _csv(path: Path, fields: tuple[str, str]) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _refuse_missing_columns(path, reader.fieldnames or (), fields)
            while True:
                start = reader.line_num + 1
                try:
                    record = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield f"line {start}", BadRow(f"line {start}", f"not CSV: {error}")
                    continue
                if None in record:
                    yield f"line {start}", BadRow(f"line {start}", "more cells than the header has columns")
                elif None in record.values():
                    yield f"line {start}", BadRow(f"line {start}", "fewer cells than the header has columns")
                else:
                    yield f"line {start}", record
    except UnicodeDecodeError as error:
        raise InputError(
            f"The task file {path} is not UTF-8", got=f"byte {error.start + 1} of a block"
        ) from None


def _parquet(path: Path, fields: tuple[str, str]) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _refuse_missing_columns(path, file.schema_arrow.names, fields)
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(fields))):
                for record in batch.to_pylist():
                    number += 1
                    yield f"row {number}", record
    except pyarrow.ArrowException as error:
        raise InputError(f"The task file {path} is not Parquet", got=str(error).splitlines()[0]) from None


def _refuse_missing_columns(path: Path, columns: Any, fields: tuple[str, str]) -> None:
    for name in fields:
        if name not in columns:
            got = ", ".join(columns) or "an empty file"
            raise InputError(
                f"The task file {path} has no column `{name}`",
                got=got,
                expected=nearest(name, columns) if columns else "a header line and rows",
                change="Map it with tasks.prompt_field or tasks.answer_field." if columns else "",
            )


_READERS: Mapping[str, Callable[[Path, tuple[str, str]], Iterator[Record]]] = MappingProxyType(
    {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
)
