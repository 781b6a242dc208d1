"""Files and folders that a configuration names, made absolute, so that a run can be resumed from any folder."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from dfl_ray.config.load import from_data
from dfl_ray.config.option_files import names_option_file, option_files
from dfl_ray.config.overrides import key_of
from dfl_ray.config.schema import Config

PLACES = ("model.name", "model.warm_start", "tasks.path")
"""Keys that say where model and tasks lie; files of devices and graph have keys of their own (`option_files`)."""


def says_where(override: str) -> bool:
    """Whether an override only says where something lies: the model, the tasks, a file of devices and graph.

    Args:
        override: `key=value`.

    Raises:
        InputError: It is no override.
    """
    key = key_of(override)
    return key in PLACES or names_option_file(key)


def with_absolute_paths(config: Config) -> Config:
    """Make every path of a configuration absolute, seen from the working directory.

    These are `tasks.path` and `runtime.state_dir`, which is made if it is not there; and, where something lies there,
    `model.name`, `model.warm_start`, the data sets of `tasks.templates` (others are hub ids), `devices.classes` where
    it is a file, and the options `path` and `*_path` of placement, partition, mobility, availability and graph.
    `runtime.runs_dir` stays as it is: a run folder knows where it lies.

    Args:
        config: The configuration as the user wrote it.

    Returns:
        The same configuration with absolute paths; itself if it names none.
    """
    data = config.model_dump(mode="json")
    model = data["model"]
    if model["name"] not in ("embedded", "smollm2-135m"):
        _resolve(model, "name")
    _resolve(model, "warm_start")
    for section, name in (("tasks", "path"), ("runtime", "state_dir")):
        _resolve(data[section], name, there=False)
    for template in data["tasks"]["templates"].values():
        _resolve(template, "dataset")
    for key in option_files(config):
        *sections, name = key.split(".")
        _resolve(reduce(getitem, sections, data), name)
    return config if data == config.model_dump(mode="json") else from_data(data)


def _resolve(section: dict[str, Any], name: str, *, there: bool = True) -> None:
    """Make one value absolute, only if something lies there or in any case."""
    value = section[name]
    if isinstance(value, str) and (not there or Path(value).expanduser().exists()):
        section[name] = str(Path(value).expanduser().absolute())
