"""Where a file's rows have prompt and answer: named fields, a template, or one of the usual layouts.

The usual layouts are read as they are where the configuration names no field: conversations (`messages`, a list of
`{role, content}`), Alpaca (`instruction`, `input`, `output`) and Dolly (`instruction`, `context`, `response`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dfl_ray.config.tasks import TasksConfig
from dfl_ray.tasks.data import Row
from dfl_ray.tasks.readers import read_records, suffix_of
from dfl_ray.tasks.rows import kind, row_of, template_fields

CONTEXTS = frozenset({"input", "context"})
"""Fields of what an instruction is about."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class RowLayout:
    """How records of one file become rows.

    Attributes:
        fields: Names of the fields that are read.
        make: Makes a row of a record, or says in words why it cannot.
        words: Name of a layout that was found by looking at the file; empty where the configuration names fields.
    """

    fields: tuple[str, ...]
    make: Callable[[Any], Row | str]
    words: str = ""


def layout_of(path: Path, task: str, config: TasksConfig) -> RowLayout:
    """Decide how a file's rows are read.

    The task's own `tasks.fields` come first, then `tasks.template`, `tasks.prompt_field` and `tasks.answer_field`.
    Where all of these are the defaults and the file has no field `prompt`, its first row is looked at.

    Args:
        path: The file.
        task: The task's name.
        config: The configuration's `tasks`.

    Returns:
        The layout.
    """
    own = config.fields.get(task)
    plain = (config.prompt_field, config.answer_field, config.template) == ("prompt", "answer", None)
    if own is None and plain:
        found = usual_layout(first_fields(path))
        if found is not None:
            return found
    answer = config.answer_field if own is None or own.answer is None else own.answer
    prompt = config.prompt_field if own is None or own.prompt is None else own.prompt
    template = config.template if own is None else own.template
    if own is not None and own.prompt is None and own.template is None:
        template = config.template
    read = (prompt,) if template is None else template_fields(template)
    return RowLayout(
        tuple(dict.fromkeys((*read, answer))), lambda record: row_of(record, prompt, answer, template)
    )


def usual_layout(fields: Sequence[str]) -> RowLayout | None:
    """Find the usual layout of a record without a field `prompt`.

    A layout all of whose fields are there comes first. What an instruction is about (`input`, `context`) may be missing
    otherwise, since rows without it may leave it out.

    Args:
        fields: Names of the record's fields.

    Returns:
        The layout, its fields those of the record; None where it has none.
    """
    if "prompt" in fields:
        return None
    for layout in USUAL.values():
        if set(layout.fields) <= set(fields):
            return layout
    about = CONTEXTS & set(fields)
    for layout in USUAL.values():
        if set(layout.fields) - CONTEXTS <= set(fields) and about <= set(layout.fields):
            return replace(layout, fields=tuple(name for name in layout.fields if name in fields))
    return None


def first_fields(path: Path) -> tuple[str, ...]:
    """Read the names of a file's fields: a table's columns, or those of the first row that is an object.

    Args:
        path: The file.

    Returns:
        The names; none where the first rows are no objects.
    """
    if suffix_of(path.name) == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            return tuple(parquet.read_schema(path).names)
        except (OSError, pyarrow.ArrowException):
            return ()  # the reader says what is wrong with the file
    records = (record for _, record in islice(read_records(path, ()), 20))
    return next((tuple(map(str, record)) for record in records if isinstance(record, Mapping)), ())


def instruction_row(record: Any, context: str, answer: str) -> Row | str:
    """Make a row of an instruction, what it is about (may be empty), and the answer.

    Args:
        record: A mapping of field to value; anything else is a bad row.
        context: Field of what the instruction is about: `input` or `context`.
        answer: Field of the answer.

    Returns:
        The row, its prompt being instruction and context with an empty line between; or what is wrong.
    """
    about = record.get(context) if isinstance(record, Mapping) else None
    empty = about is None or (isinstance(about, str) and not about.strip())
    template = "{instruction}" if empty else f"{{instruction}}\n\n{{{context}}}"
    return row_of(record, "instruction", answer, template)


def conversation_row(record: Any) -> Row | str:
    """Make a row of a conversation: the answer is the assistant's last message, the prompt all before it.

    Messages behind the last of the assistant are left out.

    Args:
        record: A mapping with the list `messages` of `{role, content}`; anything else is a bad row.

    Returns:
        The row, or what is wrong with the record.
    """
    messages = record.get("messages") if isinstance(record, Mapping) else None
    if not isinstance(messages, list):
        return (
            f"field `messages` is {kind(messages)}, not a list"
            if isinstance(record, Mapping)
            else "not an object"
        )
    said: list[tuple[str, str]] = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            return f"message {number} has no text `content`"
        if message.get("role") not in ROLES:
            return f"message {number} has the role {message.get('role')!r}, not one of {', '.join(ROLES)}"
        said.append((message["role"], message["content"]))
    last = max((n for n, (role, _) in enumerate(said) if role == "assistant"), default=0)
    if not last or said[last - 1][0] != "user":
        return "no message of the assistant behind one of a user"
    before = tuple(said[:last])
    made = row_of({"prompt": as_text(before), "answer": said[last][1]}, "prompt", "answer")
    return made if isinstance(made, str) else Row(made.prompt, made.answer, before)


def as_text(messages: Sequence[tuple[str, str]]) -> str:
    """Write messages as plain text, for a model without a chat template.

    One message of a user is its content, behind that of a system message and an empty line; longer conversations are
    `user: ...` and `assistant: ...` line by line, and end in `assistant:`.

    Args:
        messages: (role, content) of each message, the last of a user.

    Returns:
        The prompt.
    """
    system = [content for role, content in messages if role == "system"]
    turns = [(role, content) for role, content in messages if role != "system"]
    if len(turns) == 1:
        return "\n\n".join([*system, turns[0][1]])
    lines = [f"{role}: {content}" for role, content in turns]
    return "\n".join([*system, *lines, "assistant:"])


USUAL: Mapping[str, RowLayout] = MappingProxyType(
    {
        "messages": RowLayout(("messages",), conversation_row, "conversations (`messages`)"),
        "alpaca": RowLayout(
            ("instruction", "input", "output"),
            lambda record: instruction_row(record, "input", "output"),
            "Alpaca (`instruction`, `input`, `output`)",
        ),
        "dolly": RowLayout(
            ("instruction", "context", "response"),
            lambda record: instruction_row(record, "context", "response"),
            "Dolly (`instruction`, `context`, `response`)",
        ),
    }
)
"""The usual layouts by name, in the order in which they are looked for."""
