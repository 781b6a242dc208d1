"""What is said of a learning method in one line each: the source of `dfl-ray methods` and of docs/methods.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A method in words.

    Attributes:
        line: What it is, in one line.
        source: Citation, with its identifier.
        trained: What a device trains.
        sent: What it sends.
        mixed: What it makes of what arrives.
        note: What to bear in mind when it is compared; empty where there is nothing.
    """

    line: str = ""
    source: str = ""
    trained: str = "A, B"
    sent: str = "A, B"
    mixed: str = ""
    note: str = ""
