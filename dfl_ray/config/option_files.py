"""Files that a configuration names for placement, partition, mobility, availability, device classes and graph."""

from __future__ import annotations

from dfl_ray.config.class_table import is_table
from dfl_ray.config.schema import Config
from dfl_ray.config.variants import names_path

SECTIONS = ("devices.placement", "devices.partition", "devices.mobility", "devices.availability", "topology")
"""Sections whose keys `path` and `..._path` name files."""


def names_option_file(key: str) -> bool:
    """Whether a dotted key may name such a file.

    Args:
        key: The key, e.g. `devices.mobility.path`.
    """
    section, _, name = key.rpartition(".")
    return key == "devices.classes" or (section in SECTIONS and names_path(name))


def option_files(config: Config) -> dict[str, str]:
    """The files that a configuration names for its devices and graph, as it names them.

    Args:
        config: The experiment.

    Returns:
        Dotted key -> path.
    """
    found = {"devices.classes": config.devices.classes} if is_table(config.devices.classes) else {}
    for section in SECTIONS:
        values: object = config
        for name in section.split("."):
            values = getattr(values, name)
        for name, value in values:  # type: ignore[attr-defined]
            if names_path(name) and isinstance(value, str):
                found[f"{section}.{name}"] = value
    return found
