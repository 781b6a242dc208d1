"""The configurations shipped with the package: one YAML file each in `dfl_ray/presets/`."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

DEFAULT_PRESET = "default"


def preset_names() -> list[str]:
    """Names of the shipped presets, `default` first, the others in alphabetical order."""
    found = sorted(
        item.name.removesuffix(".yaml") for item in _folder().iterdir() if item.name.endswith(".yaml")
    )
    return sorted(found, key=lambda name: name != DEFAULT_PRESET)


def preset_summary(name: str) -> str:
    """The one line that says what a preset is: the first comment line of its file."""
    for line in preset_text(name).splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").strip()
    return ""


def preset_text(name: str) -> str:
    """A preset's YAML as shipped."""
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def _folder() -> Traversable:
    return resources.files("dfl_ray") / "presets"
