"""The schema read as data: every key with its type in words, its default and its meaning.

Both the error messages and `dfl-ray config` speak from here, so neither can say what the schema does not.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dfl_ray.config.choices import Choice, Variants

Path = tuple[str, ...]

_NOUNS: Mapping[type, tuple[str, str]] = types.MappingProxyType(
    {int: ("an integer", "integers"), float: ("a number", "numbers"), str: ("text", "text")}
)


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        path: Its place, for example ("method", "rank").
        expected: Its type and range in words.
        default: Its default as plain data; None also where there is none.
        meaning: What it does.
        section: True where it holds further keys.
    """

    path: Path
    expected: str
    default: Any
    meaning: str
    section: bool

    @property
    def dotted(self) -> str:
        """The key as the command line writes it, e.g. `method.rank`."""
        return ".".join(self.path)


def variants(field: FieldInfo) -> Variants | None:
    """The variants of a section whose keys depend on its `type`; None for any other field."""
    return next((mark for mark in field.metadata if isinstance(mark, Variants)), None)


def is_section(field: FieldInfo) -> bool:
    """Whether a field holds further keys."""
    return variants(field) is not None or _is_model(field.annotation)


def section_class(field: FieldInfo, data: Any) -> type[BaseModel] | None:
    """The class of the section that a field holds, as `data` choose it.

    Args:
        field: A field of a section.
        data: The field's value as plain data; it chooses among variants by its `type`.

    Returns:
        The class; None for a field that holds a value, or an unknown `type`.
    """
    chooser = variants(field)
    if chooser is not None:
        return chooser.chosen(data)
    annotation: Any = field.annotation
    return annotation if _is_model(annotation) else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def keys(
    section: type[BaseModel], data: Any, prefix: Path = (), chooser: Variants | None = None
) -> Iterator[Key]:
    """Walk all keys of a section in schema order, taking the variants that `data` names.

    Args:
        section: The section's class, e.g. `Config`.
        data: The section's values as plain data, used only to choose among variants; may be incomplete.
        prefix: Path of the section itself.
        chooser: The variants the section is one of.

    Yields:
        Every key, `type` first in each section, a section before the keys in it.
    """
    for name, field in sorted(section.model_fields.items(), key=lambda item: item[0] != "type"):
        path, inner = (*prefix, name), data.get(name) if isinstance(data, Mapping) else None
        words = f"one of {_quoted(chooser.names)}" if chooser and name == "type" else expected(field)
        yield Key(path, words, default(field), field.description or "", is_section(field))
        chosen = section_class(field, inner) or section_class(field, None)
        if chosen is not None:
            yield from keys(chosen, inner, path, variants(field))


def default(field: FieldInfo) -> Any:
    """A field's default; sections give their object, required fields None."""
    return None if field.is_required() else field.get_default(call_default_factory=True)  # type: ignore[call-arg]


def find(section: type[BaseModel], path: Path, data: Any) -> FieldInfo | None:
    """The field at a path, following the variants that `data` names.

    Args:
        section: Class of the section where the path begins, e.g. `Config`.
        path: Names from that section down.
        data: The section's values as plain data; may be incomplete.

    Returns:
        The field, or None if there is no such key.
    """
    field = section.model_fields.get(path[0]) if path else None
    if field is None or len(path) == 1:
        return field
    inner = data.get(path[0]) if isinstance(data, Mapping) else None
    chosen = section_class(field, inner)
    return find(chosen, path[1:], inner) if chosen else None


def expected(field: FieldInfo) -> str:
    """A field's type and range in words, e.g. "an integer from 1 to 1024 or null"."""
    if is_section(field):
        chooser = variants(field)
        return "a mapping of keys" + (f" with `type` one of {_quoted(chooser.names)}" if chooser else "")
    return _choice(field.metadata) or in_words(field.annotation, _limits(field))


def _choice(marks: Any) -> str:
    """The names a `Choice` among the annotations allows, in words; empty without one."""
    mark = next((mark for mark in marks if isinstance(mark, Choice)), None)
    if mark is None:
        return ""
    files = f", or the path of a file ({', '.join(mark.files)})" if mark.files else ""
    return f"one of {_quoted(mark.names)}{files}"


def in_words(annotation: Any, limits: str = "") -> str:
    """An annotation in words.

    Args:
        annotation: The type of a key.
        limits: Range in words, put behind the numbers in it.

    Returns:
        For example "an integer from 1 to 1024 or null".
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _quoted(parts) if len(parts) == 1 else "one of " + _quoted(parts)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(part, limits) for part in parts)
    if origin is Annotated:
        return _choice(parts[1:]) or in_words(parts[0], limits)
    if origin is tuple:
        count = "" if parts[-1] is Ellipsis else f"{len(parts)} "
        return f"a list of {count}{_plural(parts[0])}" + limits
    if origin is dict:
        return "a mapping"
    if annotation is bool:
        return "true or false"
    if annotation is type(None):
        return "null"
    noun = _NOUNS.get(annotation, (str(annotation), ""))[0]
    return noun + (limits if annotation in (int, float) else "")


def _plural(annotation: Any) -> str:
    if get_origin(annotation) is Annotated and (names := _choice(get_args(annotation)[1:])):
        return f"names, each {names}"
    return _NOUNS[annotation][1] if annotation in _NOUNS else "entries"


def _quoted(values: Any) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _limits(field: FieldInfo) -> str:
    bounds = {
        kind: getattr(m, kind)
        for m in field.metadata
        for kind in ("ge", "gt", "le", "lt")
        if hasattr(m, kind)
    }
    if "ge" in bounds and "le" in bounds:
        return f" from {bounds['ge']:g} to {bounds['le']}"
    words = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}
    parts = [words[kind].format(bounds[kind]) for kind in words if kind in bounds]
    return " " + " and ".join(parts) if parts else ""
