"""The resolved configuration as YAML with every key's meaning, type and default beside it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dfl_ray.config import fields
from dfl_ray.config.schema import Config
from dfl_ray.config.yamlio import dump, plain

_COLUMN = 44
_INDENT = "  "


def describe(config: Config) -> str:
    """Write a configuration as commented YAML: every key, its value, meaning, type and range.

    Keys that differ from the schema's default say so and name it. The text loads back with `load_config` to
    an equal configuration, so that it can be saved as a file and edited.
    """
    data = config.model_dump(mode="python")
    lines = [
        "# Every key: value, meaning, (type and range); CHANGED marks what is not the default.",
    ]
    for key in fields.keys(Config, data):
        value = _at(data, key.path)
        if key.section:
            lines.extend(_section(key))
        else:
            lines.extend(_entry(key, value))
    return "\n".join(lines) + "\n"


def _at(data: Any, path: fields.Path) -> Any:
    for name in path:
        data = data[name]
    return data


def _section(key: fields.Key) -> list[str]:
    indent = _INDENT * (len(key.path) - 1)
    blank = [""] if len(key.path) == 1 else []
    return [*blank, f"{indent}{key.path[-1]}:".ljust(_COLUMN) + f"# {key.meaning}"]


def _entry(key: fields.Key, value: Any) -> list[str]:
    indent = _INDENT * (len(key.path) - 1)
    changed = (
        "" if plain(value) == plain(_default(key)) else f"  CHANGED, default {dump(_default(key), flow=True)}"
    )
    text = f"{indent}{key.path[-1]}: {dump(value, flow=True, width=10_000)}"
    comment = f"# {key.meaning} ({key.expected}){changed}"
    if len(text) >= _COLUMN:
        return [indent + comment, text]
    return [text.ljust(_COLUMN) + comment]


def _default(key: fields.Key) -> Any:
    value = key.default
    return value.model_dump() if isinstance(value, BaseModel) else value
