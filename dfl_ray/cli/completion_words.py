"""What the shell offers to each command: presets, keys, their values and figures, from the tables they stand in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dfl_ray.config.changeable import MAY_CHANGE, READ, UNREAD
from dfl_ray.config.locations import says_where

FOLDERS_OF_RUNS = ("runtime.runs_dir", "runtime.state_dir")
"""Keys whose values are folders, beside those that say where inputs lie."""

TAKES: Mapping[str, Callable[[str], bool]] = {
    "resume": lambda key: key.partition(".")[0] in MAY_CHANGE or _is_place(key),
    "replan": lambda key: key.startswith("radio."),
    "replay": lambda key: key.startswith("runtime.") or _is_place(key),
    "export": lambda key: _is_place(key),
    "evaluate": lambda key: (
        (key.startswith("evaluate.") and key not in UNREAD) or key in READ or _is_place(key)
    ),
}
"""Command -> which keys it takes; commands that are given a configuration take all."""


@dataclass(frozen=True)
class Words:
    """What can stand in a configuration's words.

    Attributes:
        presets: Names of presets.
        keys: Every key of the default configuration, dotted.
        values: `key=value` of keys that have a choice.
        places: Keys whose values are files or folders.
        figures: Names of figures.
    """

    presets: list[str]
    keys: list[str]
    values: list[str]
    places: list[str]
    figures: list[str]


def all_words() -> Words:
    """Read them from the schema, the presets and the catalog of figures."""
    from dfl_ray.config import fields
    from dfl_ray.config.load import load_config
    from dfl_ray.config.presets import preset_names
    from dfl_ray.config.schema import Config
    from dfl_ray.views.catalog import names_for

    data = load_config(None, []).model_dump(mode="python")
    found = {key.dotted: key.expected for key in fields.keys(Config, data) if not key.section}
    # A word for a section sets its type.
    found |= {key.removesuffix(".type"): told for key, told in found.items() if key.endswith(".type")}
    values = [f"{key}={value}" for key, told in found.items() for value in _choices(told)]
    places = [key for key, told in found.items() if "path of a file" in told or _is_place(key)]
    figures = list(dict.fromkeys([*names_for(1), *names_for(2)]))
    return Words(list(preset_names()), list(found), values, [*places, *FOLDERS_OF_RUNS], figures)


def _choices(expected: str) -> list[str]:
    """The values that a key's type in words names; none where it is a number, text or a list."""
    if expected.startswith("one of `"):
        return re.findall("`([^`]+)`", expected)
    return ["true", "false"] if expected.startswith("true or false") else []


def _is_place(key: str) -> bool:
    return says_where(f"{key}=x")
