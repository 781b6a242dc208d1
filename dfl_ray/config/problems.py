"""What is wrong with a configuration, in words: one paragraph for one problem, a list for several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from dfl_ray.config import fields
from dfl_ray.config.yamlio import Lines, dump
from dfl_ray.errors import InputError, close_words, nearest, paragraph


class Problem(NamedTuple):
    """One thing wrong, in the four parts of `InputError`.

    Attributes:
        what: What is wrong.
        got: What was found; empty where that says nothing more.
        expected: What would be right.
        change: What the user should change.
    """

    what: str
    got: str = ""
    expected: str = ""
    change: str = ""


def as_error(problems: Sequence[Problem], source: str) -> InputError:
    """Join problems into one `InputError`.

    Args:
        problems: At least one.
        source: Where the configuration comes from, e.g. "preset `default` with 2 overrides".

    Returns:
        The error, ready to raise; several problems are numbered.
    """
    if len(problems) == 1:
        what, got, expected, change = problems[0]
        return InputError(f"{what} ({source})", got=got, expected=expected, change=change)
    rows = [
        f"  {n}. {paragraph(p.what, got=p.got, expected=p.expected, change=p.change)}"
        for n, p in enumerate(problems, 1)
    ]
    return InputError(
        f"{len(problems)} things are wrong in the configuration ({source}):\n" + "\n".join(rows)
    )


def of_validation(
    error: ValidationError, schema: type[BaseModel], data: dict[str, Any], lines: Lines = MappingProxyType({})
) -> list[Problem]:
    """Turn pydantic's errors into problems, one per key.

    Args:
        error: What pydantic raised.
        schema: The class that was validated, e.g. `Config`.
        data: The plain data that was validated, sections with variants carrying their `type`.
        lines: Lines of the keys in their file; a problem with a key that is in it names the line.

    Returns:
        The problems in pydantic's order, of each key the first.
    """
    found: dict[fields.Path, Problem] = {}
    for item in error.errors(include_url=False):
        path = _path(item["loc"], schema, data)
        # A union reports one error per member; the first one already names the whole key.
        if path not in found:
            problem = _problem(item, path, schema, data)
            line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
            found[path] = problem._replace(what=f"{problem.what} on line {line}") if line else problem
    return list(found.values())


def unknown_key(path: fields.Path, schema: type[BaseModel], data: Any) -> str:
    """Name the key that was probably meant: in its own section, elsewhere by the same last word, or the list.

    Args:
        path: The key that does not exist.
        schema: Class of the whole configuration.
        data: The whole configuration as plain data, to know which variants are chosen.

    Returns:
        A question or a list, as a part of a message.
    """
    known = list(fields.keys(schema, data))
    siblings = [key.path[-1] for key in known if key.path[:-1] == path[:-1]]
    values = [key.dotted for key in known if not key.section]
    same = [key.dotted for key in known if key.path[-1] == path[-1]]
    # A slip in the right section comes before the right word in another one; a vague likeness comes last.
    guesses = (
        [".".join((*path[:-1], name)) for name in get_close_matches(path[-1], siblings, n=1, cutoff=0.8)]
        or same
        or [".".join((*path[:-1], name)) for name in get_close_matches(path[-1], siblings, n=1, cutoff=0.6)]
        or get_close_matches(".".join(path), values, n=1, cutoff=0.75)
    )
    if guesses:
        return "did you mean " + " or ".join(f"`{dotted}`" for dotted in guesses) + "?"
    section = f"keys of `{'.'.join(path[:-1])}`: " if path[:-1] else "sections and keys: "
    return section + ", ".join(siblings) if siblings else nearest(path[-1], [key.path[-1] for key in known])


def _path(loc: Iterable[int | str], schema: type[BaseModel], data: Any) -> fields.Path:
    """Key of pydantic's location, without the union members it mixes in."""
    path: list[str] = []
    section: type[BaseModel] | None = schema
    here: Any = data
    rest = list(loc)
    while rest and section is not None:
        name = str(rest.pop(0))
        path.append(name)
        here = here.get(name) if isinstance(here, dict) else None
        field = section.model_fields.get(name)
        section = fields.section_class(field, here) if field else None
    # Below a plain value only list places and the keys of a free mapping are the user's own.
    while rest and isinstance(here, dict | list):
        step = rest.pop(0)
        inside = step in here if isinstance(here, dict) else isinstance(step, int) and step < len(here)
        if inside or isinstance(here, dict):
            path.append(str(step))
            here = here[step] if inside else None  # type: ignore[index]
    return tuple(path)


def _value(path: fields.Path, data: Any) -> Any:
    for name in path:
        if isinstance(data, list):
            data = data[int(name)]
        elif isinstance(data, dict):
            data = data.get(name)
        else:
            return None
    return data


def _problem(item: Any, path: fields.Path, schema: type[BaseModel], data: dict[str, Any]) -> Problem:
    dotted, kind = ".".join(path), item["type"]
    if kind == "extra_forbidden":
        return _unknown(path, schema, data)
    if kind == "missing" and path[-1] not in _value(path[:-1], data):
        return Problem(f"`{dotted}` is missing", change=f"Add the key `{path[-1]}`.")
    if kind == "value_error":
        return Problem(f"`{dotted}`: {item['ctx']['error']}" if dotted else str(item["ctx"]["error"]))
    if kind.startswith("union_tag"):
        return _unknown_variant(path, schema, data)
    field = fields.find(schema, path, data)
    if field is None and path[-1].isdigit():
        field = fields.find(schema, path[:-1], data)
    value = _value(path, data)
    got = _shown(value)
    wanted = fields.expected(field) if field else item["msg"].removeprefix("Input should be ")
    meaning = f" ({field.description})" if field and field.description else ""
    return Problem(
        f"`{dotted}` has a wrong value", got=got, expected=wanted + meaning, change=_advice(value, field)
    )


def _advice(value: Any, field: Any) -> str:
    if isinstance(value, str) and field is not None and "one of" in (words := fields.expected(field)):
        close = get_close_matches(value, [word for word in words.split("`")[1::2]], n=1, cutoff=0.5)
        return f"Did you mean `{close[0]}`?" if close else ""
    if field is not None and _several(value, fields.in_words(field.annotation)):
        return "One run takes one value; several values are a sweep: `dfl-ray sweep CONFIG key=a,b,c`."
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and field is not None and fields.in_words(field.annotation).startswith("text"):
        return f"""Quote it to make it text: '"{value}"'."""
    return ""


def _several(value: Any, expected: str) -> bool:
    """Whether a value looks like several where one is expected: a list, `0,1,2` or `0-2`."""
    if isinstance(value, list):
        return "a list" not in expected
    ranged = isinstance(value, str) and bool(re.fullmatch(r"\d+(-|\.\.|:)\d+", value))
    return ranged or (isinstance(value, str) and "," in value and not expected.startswith("text"))


def _unknown(path: fields.Path, schema: type[BaseModel], data: dict[str, Any]) -> Problem:
    section = ".".join(path[:-1])
    parent = fields.find(schema, path[:-1], data)
    chooser = fields.variants(parent) if parent else None
    variant, expected, change = "", unknown_key(path, schema, data), ""
    if chooser is not None:
        kind = _value((*path[:-1], "type"), data) or chooser.default
        variant = f" for `{section}.type` = `{kind}`"
        change = f"Leave it out, or replace the whole section: '{section}={{type: {kind}}}'."
        others = [name for name in chooser.names if path[-1] in chooser.section(name).model_fields]
        if others:
            expected = f"`{path[-1]}` is a key of `{section}.type` = " + ", ".join(f"`{n}`" for n in others)
    return Problem(
        f"There is no key `{'.'.join(path)}`{variant}",
        got=f"{path[-1]}: {_shown(_value(path, data))}",
        expected=expected,
        change=change,
    )


def _unknown_variant(path: fields.Path, schema: type[BaseModel], data: dict[str, Any]) -> Problem:
    field = fields.find(schema, path, data)
    chooser = fields.variants(field) if field else None
    tags = list(chooser.names) if chooser else []
    kind = _value((*path, "type"), data)
    return Problem(
        f"`{'.'.join(path)}.type` is not known",
        got=_shown(kind),
        expected=f"{nearest(str(kind), tags)} (all: {', '.join(tags)})"
        if close_words(str(kind), tags)
        else f"one of {', '.join(tags)}",
    )


def _shown(value: Any) -> str:
    text = dump(value, flow=True, width=10_000)
    return text if len(text) <= 120 else text[:117] + "..."
