"""`checksums.json`: SHA-256 and size of every file of a run that is written once, to find what was lost or damaged.

Record parts are listed when their round is complete, `partition.parquet` and saved adapters when they are written. A
part that a wider one replaces leaves the list with it. A part that is not listed is one of the round in flight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dfl_ray.errors import InputError
from dfl_ray.records.info import write_text_atomically

FILE = "checksums.json"
ADVICE = (
    "Restore the file from a copy, or resume a copy of the run from an earlier checkpoint; "
    "`dfl-ray verify RUN` lists all that is damaged."
)

Listed = dict[str, list[Any]]
"""Path within the run folder, with `/`, -> [bytes, SHA-256 in hexadecimal digits]."""


def checksum(path: Path) -> list[Any]:
    """Size in bytes and SHA-256 of a file.

    Args:
        path: The file.

    Returns:
        Both in a list, ready for JSON.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [path.stat().st_size, digest]


def read_listed(folder: Path) -> Listed | None:
    """Read the list of a run.

    Args:
        folder: The run folder.

    Returns:
        The list; None for a run that was recorded before there were checksums.

    Raises:
        InputError: It is damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(found, dict) or not all(_is_entry(entry) for entry in found.values()):
        raise _unreadable(path, "something other than sizes and checksums of files")
    return found


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list) and [type(part) for part in entry] == [int, str] and len(str(entry[1])) == 64
    )


def _unreadable(path: Path, got: str) -> InputError:
    return InputError(
        f"The list of checksums {path} cannot be read",
        got=got,
        expected="a JSON object",
        change="Restore it from a copy; without the file the run is read unchecked.",
    )


def write_listed(folder: Path, listed: Listed) -> None:
    """Replace the list of a run atomically.

    Args:
        folder: The run folder.
        listed: The whole list.
    """
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(listed[name])}" for name in sorted(listed))
    write_text_atomically(folder / FILE, "{\n" + lines + "\n}\n")


def add_files(folder: Path, paths: Iterable[Path]) -> None:
    """List files that have just been written.

    Args:
        folder: The run folder.
        paths: Files below it.
    """
    added = {path.relative_to(folder).as_posix(): checksum(path) for path in paths}
    write_listed(folder, {**(read_listed(folder) or {}), **added})


def drop_files(folder: Path, inside: str) -> None:
    """Take the files of one folder off the list of a run, before they are written anew.

    Args:
        folder: The run folder.
        inside: The folder's name in it.
    """
    listed = read_listed(folder) or {}
    kept = {name: entry for name, entry in listed.items() if not name.startswith(f"{inside}/")}
    if kept != listed:
        write_listed(folder, kept)


def check_listed(folder: Path, listed: Listed, *, contents: bool) -> Iterator[InputError]:
    """Compare the files of a run with its list.

    Args:
        folder: The run folder.
        listed: The list.
        contents: Whether contents are compared too; otherwise only that files are there in their size.

    Yields:
        One error a file that is missing or differs; nothing is raised.
    """
    for name in sorted(listed):
        if ".." in Path(name).parts or Path(name).is_absolute():
            yield _unreadable(folder / FILE, f"a path outside the run folder, {name}")
            continue
        error = _compare(folder / name, listed[name], contents=contents)
        if error is not None and not _is_replaced(folder / name):
            yield error


def _compare(path: Path, entry: list[Any], *, contents: bool) -> InputError | None:
    try:
        size = path.stat().st_size
        found = checksum(path) if contents and size == entry[0] else [size, entry[1]]
    except OSError as error:
        return InputError(
            f"{path} is missing or cannot be read",
            got=error.strerror or str(error),
            expected=f"a file of {entry[0]} bytes",
            change=ADVICE,
        )
    if found[0] != entry[0]:
        return InputError(
            f"{path} is damaged", got=f"{size} bytes", expected=f"{entry[0]} bytes", change=ADVICE
        )
    if found != entry:
        return InputError(
            f"{path} is damaged",
            got=f"SHA-256 {found[1][:16]}…",
            expected=f"{entry[1][:16]}…",
            change=ADVICE,
        )
    return None


def _is_replaced(path: Path) -> bool:
    """Whether a wider part has taken the place of a listed part: a crash between both writes leaves the old entry."""
    from dfl_ray.records.part_files import list_parts, parse_name

    own = parse_name(path)
    if own is None:
        return False
    return any(
        part.first <= own.first and own.last <= part.last and part.path.name != path.name
        for part in list_parts(path.parent)[0]
    )


def refuse_damage(folder: Path, *, contents: bool) -> None:
    """Refuse a run one of whose listed files is missing or differs.

    Args:
        folder: The run folder.
        contents: See `check_listed`.

    Raises:
        InputError: It names the first such file.
    """
    last: InputError | None = None
    for _ in range(3):  # a live run may rewrite parts and its list between both looks
        last = next(check_listed(folder, read_listed(folder) or {}, contents=contents), None)
        if last is None:
            return
    if last is not None:
        raise last
