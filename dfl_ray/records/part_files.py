"""Which files are the parts of a table: their names, those that a wider one replaces, those that are missing.

A part is named `part-<first>-<last>.parquet` by the appends it holds. A compacted part covers the range of
the parts it replaces; if a crash leaves both, the wider one wins and the others are ignored and later removed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dfl_ray.errors import InputError


@dataclass(frozen=True, order=True)
class Part:
    """One part file and the range of appends it holds, both ends included.

    Attributes:
        first: Number of the first append in it.
        last: Number of the last one.
        path: The file.
    """

    first: int
    last: int
    path: Path

    @property
    def span(self) -> int:
        """Number of appends in the part."""
        return self.last - self.first + 1


def list_parts(folder: Path) -> tuple[list[Part], list[Part]]:
    """List the parts of a table in order, and those superseded by a wider part.

    Args:
        folder: The table's folder; a missing one has no parts.

    Returns:
        The parts that count, and those that a wider one replaces.
    """
    named = (parse_name(path) for path in folder.glob("part-*.parquet"))
    found = sorted((part for part in named if part), key=lambda p: (p.first, -p.last))
    live: list[Part] = []
    superseded: list[Part] = []
    for part in found:
        (superseded if live and part.last <= live[-1].last else live).append(part)
    return live, superseded


def parse_name(path: Path) -> Part | None:
    """Read the range of appends from the name of a part.

    Args:
        path: A file.

    Returns:
        The part; None if the file is not named as one.
    """
    found = re.fullmatch(r"part-([0-9]{9})-([0-9]{9})\.parquet", path.name)
    return Part(int(found[1]), int(found[2]), path) if found and int(found[1]) <= int(found[2]) else None


def check_complete(folder: Path) -> list[Part]:
    """List the parts of a table and refuse a table in which one is missing or strays.

    Args:
        folder: The table's folder; a missing one has no parts.

    Returns:
        The parts that count.

    Raises:
        InputError: The ranges of the parts do not follow each other, or a file is named like no part.
    """
    live, _ = list_parts(folder)
    stray = next((path for path in sorted(folder.glob("part-*")) if parse_name(path) is None), None)
    if stray is not None:
        raise _foreign(stray)
    expected = 0
    for part in live:
        if part.first != expected:
            raise InputError(
                f"A part of the table {folder} is missing, or {part.path.name} is not of this run",
                got=f"part {part.first} behind part {expected - 1}"
                if expected
                else f"part {part.first} as the first",
                expected=f"part {expected}",
                change="Restore the missing file from a copy, or remove the stray one.",
            )
        expected = part.last + 1
    return live


def _foreign(path: Path) -> InputError:
    return InputError(
        f"{path} is not a part of a record table",
        got=f"the name {path.name}",
        expected="part-<first>-<last>.parquet with nine digits each",
        change="Remove that file from the run folder.",
    )


def part_path(folder: Path, first: int, last: int) -> Path:
    """The file of a part.

    Args:
        folder: The table's folder.
        first: Number of the first append in it.
        last: Number of the last one.

    Returns:
        Its path.
    """
    return folder / f"part-{first:09d}-{last:09d}.parquet"
