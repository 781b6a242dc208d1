"""Bad rows: what is wrong with each, collected by file and told in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dfl_ray.errors import InputError, nearest
from dfl_ray.tasks.data import Row

SHOWN_ROWS = 20


class BadRow(NamedTuple):
    """One row that cannot be used; `place` is its place in its file, e.g. "line 12"."""

    place: str
    reason: str


@dataclass(frozen=True)
class RowTable:
    """What one file or split holds.

    Attributes:
        source: The file's path or the split's name.
        rows: Good rows in order.
        bad: Bad rows in order.
    """

    source: str
    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]


def row_of(record: Any, prompt_field: str, answer_field: str) -> Row | str:
    """Make a row of one record, or say in words why it cannot be.

    Both fields must be text with more than white space. White space around the answer is dropped, since the
    text fed to a model is prompt + " " + answer.
    """
    if not isinstance(record, Mapping):
        return f"not an object but {_kind(record)}"
    values: list[str] = []
    for name in (prompt_field, answer_field):
        if name not in record:
            return f"no field `{name}`; {_meant(name, [str(key) for key in record])}"
        value = record[name]
        if not isinstance(value, str):
            return f"field `{name}` is {_kind(value)}, not text"
        if not value.strip():
            return f"field `{name}` is empty"
        values.append(value)
    return Row(values[0], values[1].strip())


def refuse_bad_rows(tables: Sequence[RowTable]) -> None:
    """Raise one error that lists the bad rows of all tables, if there are any.

    Raises:
        InputError: The first 20 bad rows of each file with their lines, and how many more there are.
    """
    told: list[str] = []
    for table in tables:
        if table.bad:
            told.append(f"{table.source}: {_count(len(table.bad), 'bad row')}")
            told.extend(f"  {bad.place}: {bad.reason}" for bad in table.bad[:SHOWN_ROWS])
            if len(table.bad) > SHOWN_ROWS:
                told.append(f"  and {len(table.bad) - SHOWN_ROWS} more")
    if told:
        told.append(
            "Mend them, map the fields with tasks.prompt_field and tasks.answer_field, or skip and count them "
            "with tasks.on_bad_rows=skip."
        )
        raise InputError("Bad rows in the task data:\n" + "\n".join(told))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _meant(name: str, fields: Sequence[str]) -> str:
    return nearest(name, fields) if fields else "the row is empty"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
