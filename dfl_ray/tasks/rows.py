"""Bad rows: what is wrong with each, collected by file and told in one message."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, NamedTuple

from dfl_ray.errors import InputError, nearest
from dfl_ray.tasks.data import Row

SHOWN_ROWS = 20
NOT_UTF8 = "not UTF-8"


class BadRow(NamedTuple):
    """One row that cannot be used.

    Attributes:
        place: Its place in its file, for example "line 12".
        reason: What is wrong with it, in words.
    """

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


def row_of(record: Any, prompt_field: str, answer_field: str, template: str | None = None) -> Row | str:
    r"""Make a row of one record, or say in words why it cannot be.

    Both parts must be text with more than white space, every character whole. White space around the answer is
    dropped, since a blank stands between prompt and answer in the text fed to a model.

    Args:
        record: A mapping of field to value; anything else is a bad row.
        prompt_field: Field of the prompt; not read with a template.
        answer_field: Field of the answer.
        template: Format string that joins fields into the prompt, `"{instruction}\n{input}"`.

    Returns:
        The row, or what is wrong with the record.
    """
    if not isinstance(record, Mapping):
        return f"not an object but {kind(record)}"
    try:
        prompt = _text(record, prompt_field) if template is None else _joined(record, template)
        answer = _text(record, answer_field)
    except _Unusable as error:
        return str(error)
    return Row(prompt, answer.strip())


class _Unusable(ValueError):
    """A record that is no row; the text says why."""


class DoubledFields(dict[str, Any]):
    """A record in which some fields stand twice; they have no value.

    Attributes:
        doubled: Names of those fields.
    """

    doubled: frozenset[str] = frozenset()


def _text(record: Mapping[Any, Any], name: str) -> str:
    value = _value(record, name)
    if not isinstance(value, str):
        raise _Unusable(f"field `{name}` is {kind(value)}, not text")
    if not value.strip():
        raise _Unusable(f"field `{name}` is empty")
    return _whole(value, f"field `{name}`")


def _joined(record: Mapping[Any, Any], template: str) -> str:
    """The prompt of a template; its fields may be empty, numbers or text, but not null, a list or an object."""
    for name in template_fields(template):
        value = _value(record, name)
        if not isinstance(value, str | int | float):
            raise _Unusable(f"field `{name}` is {kind(value)}, neither text nor a number")
        if is_missing(value):
            raise _Unusable(f"field `{name}` is empty (NaN)")
    try:
        prompt = template.format_map(record)
    except (ValueError, OverflowError) as error:
        raise _Unusable(f"`tasks.template` cannot write it: {error}") from None
    if not prompt.strip():
        raise _Unusable("`tasks.template` gives an empty prompt")
    return _whole(prompt, "the prompt")


def _value(record: Mapping[Any, Any], name: str) -> Any:
    if isinstance(record, DoubledFields) and name in record.doubled:
        raise _Unusable(f"field `{name}` stands in it twice")
    if name not in record:
        raise _Unusable(f"no field `{name}`; {_meant(name, [str(key) for key in record])}")
    return record[name]


def _whole(text: str, where: str) -> str:
    """The text itself, unless it holds half of a surrogate pair, which no encoding can write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unusable(
            f"{where} holds half a character, \\u{ord(text[error.start]):04x}, at place {error.start + 1}"
        ) from None
    return text


def template_fields(template: str) -> tuple[str, ...]:
    """List the fields that a format string reads, each once, in the order of their first use.

    Args:
        template: The format string.

    Returns:
        The names; none where it has no part in braces.

    Raises:
        ValueError: It cannot be read, or a part in braces is no field's name with a format that Python knows. It says
            what the string is or must do, without naming it.
    """
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"is not a format string: {error}") from None
    for _, name, form, conversion in parts:
        if not (name or "").isidentifier():
            raise ValueError(f"must name fields in braces, e.g. {{instruction}}, got {template!r}")
        if conversion not in (None, "s", "r", "a"):
            raise ValueError(f"knows the conversions !s, !r and !a, got `!{conversion}` in {template!r}")
        if "{" in (form or ""):
            raise ValueError(f"must give a field's format itself, not by another field, got {template!r}")
    return tuple(dict.fromkeys(name for _, name, _, _ in parts if name is not None))


def refuse_bad_rows(tables: Sequence[RowTable]) -> None:
    """Raise one error that lists the bad rows of all tables, if there are any.

    Args:
        tables: What the files or splits hold.

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
        if any(NOT_UTF8 in line for line in told):
            told.append(
                "A file in another encoding can be converted, for example: iconv -f WINDOWS-1252 -t UTF-8 FILE"
            )
        told.append(
            "Mend them, map the fields with tasks.prompt_field, tasks.answer_field or tasks.template, or skip "
            "and count them with tasks.on_bad_rows=skip."
        )
        raise InputError("Bad rows in the task data:\n" + "\n".join(told))


def is_missing(value: Any) -> bool:
    """Whether a record has no value there: null, or the NaN that stands for it where numbers are expected."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _meant(name: str, fields: Sequence[str]) -> str:
    return nearest(name, fields) if fields else "the row is empty"


def kind(value: Any) -> str:
    """What a value is, in the words of JSON."""
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        bytes: "bytes",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
