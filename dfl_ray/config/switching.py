"""What becomes of a section's other keys when an override gives it another `type`.

A file or preset was written for one method, graph, placement or partition. Of its keys the new type gets those that it
knows and that somebody chose; a key that the new type does not have, or that merely repeats the old type's default, is
left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dfl_ray.config import fields
from dfl_ray.config.overrides import MOVED, SHORT_SECTIONS, expand_short, parse_override
from dfl_ray.config.schema import Config
from dfl_ray.config.yamlio import plain


def switch_types(data: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Drop from plain data what belongs to a type that an override replaces.

    Args:
        data: Plain data of a file or preset.
        overrides: Texts `a.b=c`; only those that name a section's type are looked at.

    Returns:
        A copy of the data, and one sentence for each section that lost keys or whose defaults changed.
    """
    result = expand_short(data)
    notes: list[str] = []
    for path, wanted in _wanted_types(overrides):
        section = _at(result, path)
        if not isinstance(section, dict):
            continue
        note = _switch(result, path, section, wanted)
        if note:
            notes.append(note)
    return result, notes


def _wanted_types(overrides: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Section and type of each override that names one, the later of two for one section."""
    found: dict[tuple[str, ...], str] = {}
    for path, value in map(parse_override, overrides):
        path = MOVED.get(path, path)
        section = path[:-1] if path[-1] == "type" else path
        if section in SHORT_SECTIONS and isinstance(value, str):
            found[section] = value
    return list(found.items())


def _switch(data: dict[str, Any], path: tuple[str, ...], section: dict[str, Any], wanted: str) -> str:
    """Take out of a section what the wanted type has no use for; the sentence that says so, or nothing."""
    field = fields.find(Config, path, data)
    chooser = fields.variants(field) if field else None
    if chooser is None:
        return ""
    old_name = section.get("type", chooser.default)
    old, new = chooser.chosen(section), chooser.chosen({"type": wanted})
    if old is None or new is None or old_name == wanted:
        return ""
    foreign = [name for name in section if name != "type" and name not in new.model_fields]
    repeated = [
        name
        for name, value in section.items()
        if name != "type" and name in new.model_fields and name in old.model_fields
        and plain(value) == plain(fields.default(old.model_fields[name]))
    ]  # fmt: skip
    changed = [
        name for name in repeated if plain(section[name]) != plain(fields.default(new.model_fields[name]))
    ]
    for name in (*foreign, *repeated):
        del section[name]
    return _in_words(".".join(path), str(old_name), wanted, foreign, changed)


def _in_words(key: str, old: str, new: str, foreign: Sequence[str], changed: Sequence[str]) -> str:
    said: list[str] = []
    if foreign:
        said.append(f"keys of `{old}` left out: {', '.join(foreign)}")
    if changed:
        said.append(f"keys that were at `{old}`'s default are now at `{new}`'s: {', '.join(changed)}")
    return f"`{key}` is now `{new}`; {'; '.join(said)}" if said else ""


def _at(data: Any, path: Sequence[str]) -> Any:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data
