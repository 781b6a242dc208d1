"""What every command is, and the flags that all of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

Options = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """One command: its line in `--help`, its arguments, and what it does."""

    name: str
    usage: str
    summary: str
    details: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[Options], int]


def check_number(option: str, value: float, least: float, most: float, unit: str) -> None:
    """Refuse a number that an option cannot be.

    Args:
        option: The option, as it is written.
        value: What was given.
        least: The least it can be.
        most: The most.
        unit: What it is counted in.

    Raises:
        InputError: It is less, more, or no number.
    """
    if not least <= value <= most:
        from dfl_ray.errors import InputError

        raise InputError(
            f"`{option}` cannot be used",
            got=f"{value:g}",
            expected=f"{least:g} to {most:g} {unit}",
            change="Give such a number, or leave it out.",
        )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the flag of commands that answer to programs too."""
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every command takes."""
    from dfl_ray.version import VERSION

    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show what libraries say, and tracebacks"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress; of a run errors only")
    parser.add_argument("--version", action="version", version=f"dfl-ray {VERSION}", help="print the version")
