"""Text laid out for the width of a terminal: broken between words, never inside one.

Where there is no terminal and no `COLUMNS` (a pipe, a log), tables and lists keep their long lines.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from textwrap import TextWrapper

WIDE = 250
_INDENT = "    "
_JOINED = "\N{NO-BREAK SPACE}"
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|m?s|J|m|dBm?|[kMG]?Hz|points)(?:\W|$))")


def columns(without: int = WIDE) -> int:
    """Width to keep to: `COLUMNS` if it is set, else the terminal's.

    Args:
        without: Width where neither is known.
    """
    return shutil.get_terminal_size((without, 24)).columns


def broken(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """Break a line between its words; a figure stays on the line of its unit.

    Args:
        text: One line.
        width: Letters a line; a word that is longer stands whole on a line of its own.
        first: What stands before the first line.
        rest: What stands before the others.

    Returns:
        At least one line.
    """
    wrapper = TextWrapper(
        max(width, 20),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    whole = wrapper.wrap(_BEFORE_UNIT.sub(_JOINED, text)) or [first.rstrip()]
    return [line.replace(_JOINED, " ") for line in whole]


def prose(text: str, width: int) -> str:
    r"""Break the lines of a help text; an example (a line with a blank before it) goes on behind a backslash.

    Args:
        text: Lines; each of them is a paragraph or an example that a shell takes.
        width: Letters a line.
    """
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith(" ") or len(line) <= width:
            lines += [line] if line.startswith(" ") else broken(line, width)
            continue
        parts = broken(line.strip(), width - 2, first="  ", rest="    ")
        lines += [*(f"{part} \\" for part in parts[:-1]), parts[-1]]
    return "\n".join(lines)


def named(rows: Sequence[tuple[str, str]], width: int, *, indent: str = "") -> list[str]:
    """Names with what is said of each beside them, or below them where the names take half of the width.

    Args:
        rows: Name and text.
        width: Letters a line.
        indent: What stands before every line.

    Returns:
        The lines.
    """
    column = max(len(name) for name, _ in rows) + 2 + len(indent)
    if column > width // 2:
        return [
            line
            for name, text in rows
            for line in (
                f"{indent}{name}".rstrip(),
                *broken(text, width, first=indent + _INDENT, rest=indent + _INDENT),
            )
        ]
    return [
        line
        for name, text in rows
        for line in broken(text, width, first=(indent + name).ljust(column), rest=" " * column)
    ]


def table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table: the first column to the left, the others to the right; where it is too wide, a list for each row.

    Args:
        rows: The heads, then the rows, equally long.
        width: Letters a line.

    Returns:
        The lines. In a list each cell stands behind its column's head, and the first cell above them.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        return [
            row[0].ljust(widths[0])
            + "".join(f"  {cell.rjust(wide)}" for cell, wide in zip(row[1:], widths[1:], strict=True))
            for row in rows
        ]
    heads, *others = rows
    lines: list[str] = []
    for row in others:
        lines.append(row[0])
        lines += named(list(zip(heads[1:], row[1:], strict=True)), width, indent="  ")
    return lines
