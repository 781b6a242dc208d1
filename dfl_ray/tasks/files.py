"""Tasks from a folder: `<task>/train.*` and `<task>/test.*` in any format that `tasks.readers` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dfl_ray.config.tasks import TasksConfig
from dfl_ray.errors import InputError, nearest
from dfl_ray.tasks.assemble import LoadedTasks, assemble_all
from dfl_ray.tasks.readers import READERS, read_records, stem_of, suffix_of
from dfl_ray.tasks.row_layouts import layout_of
from dfl_ray.tasks.rows import BadRow, RowTable, refuse_bad_rows
from dfl_ray.tasks.splitting import split_rows

SPLITS = ("train", "test")
_TEST_LIKE = ("validation", "valid", "val", "dev", "eval", "heldout")


def load_file_tasks(config: TasksConfig, *, seed: int = 0) -> LoadedTasks:
    """Read the tasks of a folder.

    Every subfolder with a train or test file is a task. A file holds one row each line (`.jsonl`, `.ndjson`), an
    array of rows (`.json`), or is a CSV with a header line, or Parquet; suffixes are read in whatever case, text in
    UTF-8, and `.gz` is unpacked. `config.prompt_field` and `config.answer_field` name the two fields, or
    `config.template` joins several into the prompt, `config.fields` says so for single tasks; others are ignored. The
    usual layouts are read as they are (`row_layouts`). With `config.test_share` a task without a test file holds out
    some of its training rows (`splitting.split_rows`).

    Args:
        config: The `tasks` section with `source: files`.
        seed: The run's seed, for the rows held out.

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
    names, passed_over = _chosen(folder, config.names)
    # All splits are looked for before any is read, so that a missing one is told at once.
    files = {name: _files_of(folder / name, config) for name in names}
    _refuse_unknown_fields(config, names)
    tables: dict[str, tuple[RowTable, RowTable]] = {}
    remarks: list[str] = []
    for name, paths in files.items():
        read = [read_rows(path, name, config) for path in paths]
        if len(read) == 1 and config.test_share is not None:
            made = split_rows(name, read[0], config.test_share, seed)
            read, remarks = [made.train, made.test], [*remarks, made.remark]
        tables[name] = (read[0], read[1])
        if layout := layout_of(paths[0], name, config).words:
            remarks.append(f"task {name}: rows read as {layout}")
    if config.on_bad_rows == "refuse":
        refuse_bad_rows([table for pair in tables.values() for table in pair])
    for name, pair in tables.items():
        _refuse_empty(name, dict(zip(SPLITS, pair, strict=True)))
    return assemble_all(tables, config, (*passed_over, *remarks))


def _files_of(folder: Path, config: TasksConfig) -> list[Path]:
    """The task's files: training and test, or training alone where test rows are to be drawn from it."""
    if config.test_share is not None and not _split_files(folder, "test"):
        return [_split_file(folder, "train")]
    return [_split_file(folder, split) for split in SPLITS]


def _refuse_unknown_fields(config: TasksConfig, names: tuple[str, ...]) -> None:
    for name in config.fields:
        if name not in names:
            raise InputError(
                f"`tasks.fields.{name}` names no task of this run", expected=nearest(name, names)
            )


def read_rows(path: Path, task: str, config: TasksConfig) -> RowTable:
    """Read one file by its suffix into good and bad rows.

    Args:
        path: The file.
        task: The task's name.
        config: Names of fields, or a template.

    Returns:
        The rows of the file, good and bad.

    Raises:
        InputError: The file as a whole cannot be read (no header, not Parquet, no permission).
    """
    layout = layout_of(path, task, config)
    rows, bad = [], []
    for place, record in read_records(path, layout.fields):
        row = record.reason if isinstance(record, BadRow) else layout.make(record)
        if isinstance(row, str):
            bad.append(BadRow(place, row))
        else:
            rows.append(row)
    return RowTable(str(path), tuple(rows), tuple(bad))


def _chosen(folder: Path, names: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tasks' names, and a remark on each subfolder that holds files but none that is read."""
    if not folder.is_dir():
        raise InputError(
            "`tasks.path` is not a folder",
            got=str(folder),
            expected="a folder with one subfolder a task",
            change="Say where the tasks lie: tasks.path=FOLDER.",
        )
    inside = sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    found = [item.name for item in inside if any(_split_files(item, split) for split in SPLITS)]
    others = {item.name: _listing(item) for item in inside if item.name not in found}
    if not found:
        raise InputError(
            f"There are no tasks in {folder}",
            got="; ".join(f"{name}: {files}" for name, files in list(others.items())[:5] if files)
            or _listing(folder) or "an empty folder",
            expected=f"subfolders <task> with {_read_names('train')} and the same for test",
        )  # fmt: skip
    for name in names or ():
        if name not in found:
            raise InputError(
                f"There is no task `{name}` in {folder}"
                + (": its folder has no train or test file" if name in others else ""),
                got=others.get(name, ""),
                expected=nearest(name, found),
                change="Change tasks.names.",
            )
    if names:
        return names, ()
    remarks = (
        f"{folder / n} passed over: no train or test file, but {files}"
        for n, files in others.items()
        if files
    )
    return tuple(found), tuple(remarks)


def _split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split that a reader takes, in the order of the readers."""
    order = list(READERS)
    found = [p for p in folder.iterdir() if stem_of(p.name) == split and suffix_of(p.name) and p.is_file()]
    return sorted(found, key=lambda path: (order.index(str(suffix_of(path.name))), path.name))


def _split_file(folder: Path, split: str) -> Path:
    found = _split_files(folder, split)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"The task `{folder.name}` has several {split} rows files",
            got=f"{', '.join(path.name for path in found)} in {folder}",
            expected=f"one of {_read_names(split)}",
        )
    there = _listing(folder)
    meant = _meant(folder, split)
    raise InputError(
        f"The task `{folder.name}` has no {split} rows",
        got=f"no {split} file in {folder}" + (f", but {there}" if there else ""),
        expected=f"one of {_read_names(split)}",
        change=f"If `{meant.name}` holds them, call it `{split}{meant.name[len(stem_of(meant.name)) :]}`."
        if meant
        else "To hold some of the training rows out set tasks.test_share=0.1."
        if split == "test"
        else "",
    )


def _meant(folder: Path, split: str) -> Path | None:
    """The file that a missing split may be: readable and named as test rows often are, or as the split in part."""
    readable = [p for p in sorted(folder.iterdir()) if p.is_file() and suffix_of(p.name)]
    likely = [
        p for p in readable if split in stem_of(p.name) or (split == "test" and stem_of(p.name) in _TEST_LIKE)
    ]
    return likely[0] if likely else None


def _read_names(split: str) -> str:
    return ", ".join(f"{split}{suffix}" for suffix in READERS)


def _listing(folder: Path) -> str:
    return ", ".join(sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))[:10])


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
