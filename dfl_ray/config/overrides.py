"""Overrides `a.b=c` on top of a configuration's plain data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from dfl_ray.config.yamlio import YAMLError, parse, place_and_reason
from dfl_ray.errors import InputError

SHORT_SECTIONS = (("method",), ("topology",), ("devices", "placement"), ("devices", "partition"),
                  ("devices", "mobility"))  # fmt: skip
"""Sections for which a bare word means `{type: word}`."""

SHORT_LISTS: Mapping[str, str] = MappingProxyType({"track": "trackers"})
"""Sections for which a bare word or list means one of their keys."""

MOVED: Mapping[tuple[str, ...], tuple[str, ...]] = MappingProxyType(
    {
        ("devices", "placement_path"): ("devices", "placement", "path"),
        ("devices", "partition_path"): ("devices", "partition", "path"),
        ("devices", "tasks_per_device"): ("devices", "partition", "tasks_per_device"),
        ("devices", "min_holders"): ("devices", "partition", "min_holders"),
        ("devices", "dirichlet_alpha"): ("devices", "partition", "alpha"),
    }
)
"""Short names of keys, as they are written in many files and commands, and where the keys are."""

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """Split one override into its path and its value, the value read as YAML.

    Example:
        >>> parse_override("method.learning_rate=5e-3")
        (('method', 'learning_rate'), 0.005)
        >>> parse_override("tasks.names=[trec, sst2]")
        (('tasks', 'names'), ['trec', 'sst2'])

    Args:
        text: `a.b=c`; the first `=` ends the key.

    Returns:
        The key's path and the value as plain data.

    Raises:
        InputError: No `=`, no key before it, or a value that is not YAML.
    """
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not _KEY.fullmatch(key):
        raise InputError(
            f"`{text}` is not an override",
            expected="key=value with dots between sections, e.g. method.rank=4",
            change="" if equals else f"Write `{text}=VALUE`, or put the preset or YAML file first.",
        )
    try:
        return tuple(key.split(".")), parse(raw)
    except YAMLError as error:
        raise InputError(
            f"The value of the override `{key}` is not YAML",
            got=raw,
            expected=f"a number, text, true, false, null, [a, b] or {{a: b}} ({place_and_reason(error)[1]})",
            change=f"Quote it: '{key}=\"...\"'.",
        ) from None


def key_of(text: str) -> str:
    """Give the full dotted name of the key that an override sets; it may be written short (`MOVED`).

    Args:
        text: `a.b=c`.

    Raises:
        InputError: See `parse_override`.
    """
    path = parse_override(text)[0]
    return ".".join(MOVED.get(path, path))


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set the overridden keys in a copy of `data`; the order of different keys does not matter.

    A word for a section in `SHORT_SECTIONS` sets its `type` and leaves the section's other keys, so that a key that
    the new type does not know is refused by the schema and not dropped in silence. A mapping replaces the
    section, and so does a word or list for a section in `SHORT_LISTS`, which means its key of that name. Whole sections
    are set before the keys in them; of two overrides of one key the later one holds.

    Args:
        data: Plain data of a YAML file or preset.
        overrides: Texts `a.b=c`.

    Returns:
        The new data, keys by their full names; `data` is not changed.

    Raises:
        InputError: One of them is not an override.
    """
    result = expand_short(data)
    found = [(MOVED.get(path, path), value) for path, value in map(parse_override, overrides)]
    for path, value in sorted(found, key=lambda pair: len(pair[0])):
        if path in SHORT_SECTIONS and isinstance(value, str):
            path = (*path, "type")
        elif len(path) == 1:
            value = _long_list(path[0], value)
        _set(result, path, value)
    return _moved(result)


def expand_short(data: Mapping[str, Any]) -> dict[str, Any]:
    """Copy plain data, short forms written out (`method: dlora` as `method: {type: dlora}`), keys by their full names.

    Args:
        data: Sections of a configuration, as read from YAML; not changed.

    Returns:
        The copy, without short forms.
    """
    result: dict[str, Any] = _moved({key: _copy(value) for key, value in data.items()})
    for *outer, name in SHORT_SECTIONS:
        holder = result
        for step in outer:
            holder = holder.get(step) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(holder.get(name), str):
            holder[name] = {"type": holder[name]}
    return {key: _long_list(key, value) for key, value in result.items()}


def _long_list(section: str, value: Any) -> Any:
    """A section's value, its short form written out."""
    key = SHORT_LISTS.get(section)
    if key is None or not isinstance(value, str | list):
        return value
    return {key: [value] if isinstance(value, str) else value}


def _moved(data: dict[str, Any]) -> dict[str, Any]:
    """The data with short names of keys replaced; a word in the place of their section becomes its `type`."""
    for (section, short), path in MOVED.items():
        holder = data.get(section)
        if isinstance(holder, dict) and short in holder:
            value = holder.pop(short)
            inner = holder.get(path[1])
            if isinstance(inner, str):
                holder[path[1]] = {"type": inner}
            _set(data, path, value)
    return data


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *outer, last = path
    for depth, name in enumerate(outer, 1):
        held = data.get(name)
        if held is not None and not isinstance(held, dict):
            raise InputError(
                f"`{'.'.join(path)}` cannot be set, since `{'.'.join(path[:depth])}` holds no keys",
                got=f"{name}: {str(held)[:80]}",
                expected="a mapping of keys",
                change=f"Leave out one of the two, or set `{'.'.join(path[:depth])}` to a mapping.",
            )
        if held is None:
            data[name] = {}
        data = data[name]
    data[last] = value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
