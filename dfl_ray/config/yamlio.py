"""YAML in and out through `ruamel.yaml`, with the scalars of the core schema of YAML 1.2.

`5e-3` is a number, `no` is text, a repeated key is an error. What `ruamel.yaml` reads beyond the core schema
(`1_000`, `2024-01-02` and `=` as something other than text) is left out, so that a value means what the
standard says and nothing else. Source: YAML 1.2.2, section 10.3.2 (tag resolution of the core schema).

A document is refused where reading it would take long or run code: more than `MAX_DEPTH` levels, more than
`MAX_NODES` values once its aliases are written out, an alias inside its own anchor, a tag of its own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.resolver import BaseResolver

__all__ = [
    "MAX_DEPTH", "MAX_NODES", "Document", "Lines", "YAMLError", "dump", "in_brackets", "parse", "place_and_reason",
    "plain", "read", "write",
]  # fmt: skip

MAX_DEPTH = 50
"""Levels of nesting that a document may have."""

MAX_NODES = 1_000_000
"""Values that a document may hold with its aliases written out."""

_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)


class _Resolver(BaseResolver):
    """Resolves plain scalars by the core schema, whatever version a document claims for itself."""

    def __init__(self, version: Any = None, loader: Any = None, loadumper: Any = None) -> None:
        super().__init__(loader or loadumper)

    @property
    def processing_version(self) -> tuple[int, int]:
        return (1, 2)


for _name, _pattern, _first in _CORE:
    _Resolver.add_implicit_resolver_base(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


class _Constructor(SafeConstructor):
    """Builds plain data from the tags of the core schema and refuses every other tag."""

    yaml_constructors = {  # noqa: RUF012 - a class table of ruamel.yaml
        tag: build
        for tag, build in SafeConstructor.yaml_constructors.items()
        if str(tag).removeprefix(_TAG) in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, IndexError):
            kind, text = str(node.tag).removeprefix(_TAG), str(node.value)
            reason = f"`{text if len(text) <= 40 else text[:40] + '…'}` cannot be read as {kind}"
            raise ConstructorError(None, None, reason, node.start_mark) from None

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            reason = "half of a surrogate pair stands in a text, which no encoding can write"
            raise ConstructorError(None, None, reason, node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                kind = "a list" if isinstance(key, SequenceNode) else "a mapping"
                problem = f"{kind} stands here as a key; keys are words"
                raise ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep=deep)

    def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
        if key in mapping:
            problem = f"the key `{key}` stands here a second time"
            raise ConstructorError(None, None, problem, key_node.start_mark)
        return True


def _refuse_tag(constructor: Any, node: Any) -> None:
    reason = f"the tag `{node.tag}` is not one of YAML's core schema"
    raise ConstructorError(None, None, reason, node.start_mark)


_Constructor.add_constructor(None, _refuse_tag)


class _Representer(RoundTripRepresenter):
    """Writes every value out in full: no anchors and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_none(representer: Any, data: None) -> Any:
    return representer.represent_scalar(_TAG + "null", "null")


def _represent_text(representer: Any, data: str) -> Any:
    # Inside brackets a plain `?` or `:` at the start is read as the sign of a key or value, whatever follows it.
    return representer.represent_scalar(
        _TAG + "str", data, style="'" if data.startswith(("?", ":")) else None
    )


_Representer.add_representer(type(None), _represent_none)
_Representer.add_representer(str, _represent_text)


Lines = Mapping[tuple[str, ...], int]
"""Line of every key of a document, counted from 1, by the key's path, for example ("method", "rank")."""


@dataclass(frozen=True)
class Document:
    """One YAML document.

    Attributes:
        data: Its plain data; None for an empty document.
        lines: Where its keys stand.
    """

    data: Any
    lines: Lines = field(default_factory=dict)


def parse(text: str) -> Any:
    """Read one YAML document as plain data; an empty one is None.

    Args:
        text: The document.

    Returns:
        Its plain data.

    Raises:
        YAMLError: See `read`.
    """
    return read(text).data


def read(text: str) -> Document:
    """Read one YAML document with the lines of its keys.

    Args:
        text: The document.

    Returns:
        Its plain data, None if it is empty, and the lines, counted from 1.

    Raises:
        YAMLError: The text is not YAML, a mapping has a key twice, a tag is not one of the core schema, or the
            document is nested too deeply or grows too large through its aliases. `place_and_reason` reads it.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    yaml.Resolver = _Resolver
    yaml.Constructor = _Constructor
    yaml.composer.warn_double_anchors = False
    node = yaml.compose(text)
    if node is None:
        return Document(None)
    _measure(node, {})
    lines: dict[tuple[str, ...], int] = {}
    _note_lines(node, (), lines)
    return Document(yaml.constructor.construct_document(node), lines)


def place_and_reason(error: YAMLError) -> tuple[str, str]:
    """Where a document is wrong, and why.

    Args:
        error: What `read` raised.

    Returns:
        The place as ", line 2, column 5", or "" if it is not known; and the reason in one line.
    """
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    problem = error.problem if isinstance(error, MarkedYAMLError) else None
    if isinstance(error, MaxDepthExceededError):
        problem = f"nested more than {MAX_DEPTH} levels deep"
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return place, " ".join(str(problem or error).split())


def _measure(node: Any, sizes: dict[int, int]) -> int:
    """Number of values below a node with aliases written out; refuses loops and too large documents."""
    key = id(node)
    if key in sizes:
        if sizes[key] == 0:
            raise ConstructorError(None, None, "an alias stands inside its own anchor", node.start_mark)
        return sizes[key]
    sizes[key] = 0
    size = 1
    if isinstance(node, MappingNode):
        size += sum(_measure(part, sizes) for pair in node.value for part in pair)
    elif isinstance(node, SequenceNode):
        size += sum(_measure(part, sizes) for part in node.value)
    if size > MAX_NODES:
        problem = f"its aliases written out make more than {MAX_NODES:,} values"
        raise ConstructorError(None, None, problem, node.start_mark)
    sizes[key] = size
    return size


def _note_lines(node: Any, path: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    """Note the line of every key below a mapping; values behind an alias have the lines of their anchor."""
    if not isinstance(node, MappingNode):
        return
    for key, value in node.value:
        if isinstance(key, ScalarNode):
            inner = (*path, str(key.value))
            lines.setdefault(inner, key.start_mark.line + 1)
            if value.anchor is None:
                _note_lines(value, inner, lines)


def dump(value: Any, *, flow: bool = False, width: int = 100) -> str:
    """Write plain data (dict, list, str, int, float, bool, None) so that `parse` gives it back equal.

    Args:
        value: Plain data; tuples are written as lists.
        flow: One line in JSON-like brackets in place of an indented block.
        width: Line width in characters.

    Returns:
        YAML text; without a line break at its end if `flow`.
    """
    if flow and (value is None or isinstance(value, bool | int | float | str)):
        return _scalar(type(value), repr(value), value, width)
    text = write(plain(value), flow=flow, width=width)
    return _bare(text) if flow else text


@lru_cache(4096)
def _scalar(kind: type, shown: str, value: Any, width: int) -> str:
    """`dump` of one scalar, kept: most values of a configuration are the defaults; 1, 1.0 and True are told apart."""
    del kind, shown
    return _bare(write(value, flow=True, width=width))


def _bare(text: str) -> str:
    """A document of one line without the marks of its end."""
    return text.removesuffix("\n...\n").removesuffix("\n")


def write(value: Any, *, flow: bool = False, width: int = 100) -> str:
    """Write plain data or a `CommentedMap` with its comments.

    Args:
        value: Plain data without tuples, or a `CommentedMap`.
        flow: One line in brackets in place of an indented block.
        width: Line width in characters.

    Returns:
        YAML text, as the library ends it.
    """
    yaml = YAML(typ="rt", pure=True)
    yaml.Resolver = _Resolver
    yaml.Representer = _Representer
    yaml.default_flow_style = flow
    yaml.width = width
    yaml.allow_unicode = True
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def in_brackets(value: Any) -> Any:
    """Plain data for `write` whose lists and mappings are written in brackets on one line.

    Args:
        value: Lists, mappings and scalars, nested.

    Returns:
        The same data; scalars as they are.
    """
    if isinstance(value, dict):
        result: Any = CommentedMap((key, in_brackets(item)) for key, item in value.items())
    elif isinstance(value, list | tuple):
        result = CommentedSeq(in_brackets(item) for item in value)
    else:
        return value
    result.fa.set_flow_style()
    return result


def plain(value: Any) -> Any:
    """Turn tuples into lists, all the way down."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
