"""The resolved configuration as YAML with every key's meaning, type and default beside it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from ruamel.yaml.comments import CommentedMap

from dfl_ray.config import fields
from dfl_ray.config.schema import Config
from dfl_ray.config.yamlio import dump, in_brackets, plain, write

_COLUMN = 44
_INDENT = 2


def describe(config: Config) -> str:
    """Write a configuration as commented YAML: every key, its value, meaning, type and range.

    Keys that differ from the schema's default say so and name it. The text loads back with `load_config` to
    an equal configuration, so that it can be saved as a file and edited.

    Args:
        config: The configuration.

    Returns:
        The YAML text.
    """
    data = config.model_dump(mode="python")
    document = CommentedMap()
    document.yaml_set_start_comment(
        "Every key: value, meaning, (type and range); CHANGED marks what is not the default."
    )
    for key in fields.keys(Config, data):
        parent = _at(document, key.path[:-1])
        if key.section:
            _add_section(parent, key)
        else:
            _add_entry(parent, key, _at(data, key.path))
    return write(document, width=10_000)


def _at(data: Any, path: fields.Path) -> Any:
    for name in path:
        data = data[name]
    return data


def _add_section(parent: CommentedMap, key: fields.Key) -> None:
    name = key.path[-1]
    parent[name] = CommentedMap()
    if len(key.path) == 1:
        parent.yaml_set_comment_before_after_key(name, before="\n")
    parent.yaml_add_eol_comment(key.meaning, key=name, column=_COLUMN)


def _add_entry(parent: CommentedMap, key: fields.Key, value: Any) -> None:
    name, indent = key.path[-1], _INDENT * (len(key.path) - 1)
    changed = (
        "" if plain(value) == plain(_default(key)) else f"  CHANGED, default {dump(_default(key), flow=True)}"
    )
    comment = f"{key.meaning} ({key.expected}){changed}"
    parent[name] = in_brackets(value)
    if indent + len(f"{name}: {dump(value, flow=True, width=10_000)}") >= _COLUMN:
        parent.yaml_set_comment_before_after_key(name, before=comment, indent=indent)
    else:
        parent.yaml_add_eol_comment(comment, key=name, column=_COLUMN)


def _default(key: fields.Key) -> Any:
    value = key.default
    return value.model_dump() if isinstance(value, BaseModel) else value
