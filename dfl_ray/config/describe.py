"""The resolved configuration as YAML with every key's meaning, type and default beside it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from ruamel.yaml.comments import CommentedMap

from dfl_ray.config import fields
from dfl_ray.config.schema import Config
from dfl_ray.config.yamlio import dump, in_brackets, plain, write
from dfl_ray.methods.spec import method_spec

_COLUMN = 44
_INDENT = 2


def describe(config: Config, *, changed_only: bool = False) -> str:
    """Write a configuration as commented YAML: every key, its value, meaning, type and range.

    Keys that differ from the schema's default say so and name it. The text loads back with `load_config` to
    an equal configuration, so that it can be saved as a file and edited.

    Args:
        config: The configuration.
        changed_only: Write only the keys that differ from the schema's defaults, and the `type` of their section, so
            that a file says what its author chose and another `method` can be put on top of it.

    Returns:
        The YAML text.
    """
    data = config.model_dump(mode="python")
    document = CommentedMap()
    document.yaml_set_start_comment(
        (
            "What differs from the defaults; `dfl-ray config --all` prints every key.\n"
            if changed_only
            else "Every key: value, meaning, (type and range); CHANGED marks what is not the default.\n"
        )
        + _task_labels(config)
    )
    wanted = _changed(data) if changed_only else None
    for key in fields.keys(Config, data):
        if wanted is not None and key.path not in wanted:
            continue
        parent = _at(document, key.path[:-1])
        if key.section:
            _add_section(parent, key)
        else:
            _add_entry(parent, key, _at(data, key.path))
    return write(document, width=10_000)


def _task_labels(config: Config) -> str:
    used = "uses" if method_spec(config.method).task_labels else "does not use"
    return f"Training with the method `{config.method.name}` {used} the task that each row belongs to."


def _changed(data: dict[str, Any]) -> set[fields.Path]:
    """Keys whose value is not the default, with the sections they stand in and the sections' types.

    A section's type is written with any other key of it, since their defaults are that type's. The model stands in the
    file of a run on data of one's own even if it is the embedded one: such a run must name its model.
    """
    found: set[fields.Path] = set()
    types: dict[fields.Path, fields.Path] = {}
    for key in fields.keys(Config, data):
        if key.section:
            continue
        if key.path[-1] == "type":
            types[key.path[:-1]] = key.path
            field = fields.find(Config, key.path[:-1], data)
            chooser = fields.variants(field) if field else None
            changed = chooser is not None and _at(data, key.path) != chooser.default
        else:
            changed = plain(_at(data, key.path)) != plain(_default(key))
        if changed or (key.path == ("model", "name") and data["tasks"]["source"] != "synthetic"):
            found |= {key.path[:n] for n in range(1, len(key.path) + 1)}
    return found | {path for section, path in types.items() if section in found}


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
