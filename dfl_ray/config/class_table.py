"""Device classes out of a mix of the project, or out of a table of one's own in CSV or YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from channels.energy import DeviceClass, with_figures
from channels.tables import DEVICE_MIXES
from dfl_ray.config.problems import Problem
from dfl_ray.errors import InputError
from topology.csv_file import open_csv

SUFFIXES = (".csv", ".yaml", ".yml")
"""Endings of files that hold a table of classes."""


def is_table(name: str) -> bool:
    """Whether a name is that of a file with a table of classes, by its ending."""
    return name.lower().endswith(SUFFIXES)


def classes_of(name: str) -> tuple[DeviceClass, ...]:
    """The classes under a name, or those of a file.

    Args:
        name: A mix of `DEVICE_MIXES`, or the path of a table: CSV with a column `name` and one for each figure, an
            empty cell for a default; or YAML of name -> figure -> value. The figures are those of
            `channels.energy.DeviceClass.at`; a class without a `share` has share 1.

    Returns:
        The classes in the order of the table.

    Raises:
        InputError: The file is not such a table, it names the class and the figure; or an installed package has
            something else under this name.
    """
    if not is_table(name):
        return _mix(name)
    path = Path(name).expanduser()
    read = _from_csv if path.suffix.lower() == ".csv" else _from_yaml
    try:
        figures = read(path)
        if not figures:
            raise ValueError("it holds no class")
        return with_figures((), {one: {"share": 1.0, **given} for one, given in figures.items()})
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            "`devices.classes` is no table of device classes",
            got=f"{path}: {str(error).removeprefix(f'{path}: ')}",
            expected="CSV with columns name, flops_per_s, joules_per_flop or watts, tx_power_dbm, battery_j, share, "
            "step_overhead_s; or YAML of name: {flops_per_s: ...}",
        ) from error


def _mix(name: str) -> tuple[DeviceClass, ...]:
    """The classes of a mix, which may be an installed package's."""
    mix = DEVICE_MIXES[name]
    if not isinstance(mix, tuple | list) or not mix or not all(isinstance(one, DeviceClass) for one in mix):
        raise InputError(
            f"`devices.classes`: the mix {name!r} is no tuple of device classes",
            got=repr(mix)[:80],
            expected="one or more of channels.energy.DeviceClass, each with its share",
        )
    return tuple(mix)


def _from_csv(path: Path) -> dict[str, dict[str, float]]:
    with open_csv(path) as reader:
        if "name" not in (reader.fieldnames or ()):
            raise ValueError(
                f"expected a column `name`, got {', '.join(reader.fieldnames or ()) or 'no columns'}"
            )
        made: dict[str, dict[str, float]] = {}
        for line, row in enumerate(reader, start=2):
            name = _new_name(row.pop("name"), made)
            made[name] = {key: _number(f"line {line}, {key}", text) for key, text in row.items() if text}
        return made


def _from_yaml(path: Path) -> dict[str, dict[str, float]]:
    from dfl_ray.config.yamlio import YAMLError, parse

    try:
        read = parse(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(read, Mapping) or not all(isinstance(given, Mapping) for given in read.values()):
        raise ValueError("expected a mapping of class names to mappings of figures")
    if any(name is None or not str(name).strip() for name in read):
        raise ValueError("a class has no name")
    return {str(name): _figures(str(name), given) for name, given in read.items()}


def _figures(name: str, given: Mapping[str, Any]) -> dict[str, float]:
    return {key: _number(f"{name}.{key}", value) for key, value in given.items() if value is not None}


def _new_name(name: str | None, made: Mapping[str, Any]) -> str:
    if not name or not name.strip():
        raise ValueError("a row has no name")
    if name in made:
        raise ValueError(f"the class {name!r} comes twice")
    return name


def _number(where: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a number, got {value!r}") from error


def class_problems(name: str, figures: Mapping[str, Mapping[str, float]]) -> Iterable[Problem]:
    """Find what of the classes and their figures is no class; a table of one's own is read only where it exists.

    Args:
        name: `devices.classes`.
        figures: `devices.class_figures`.

    Yields:
        At most one problem.
    """
    if is_table(name) and not Path(name).expanduser().exists():
        return
    try:
        with_figures(classes_of(name), figures)
    except InputError as error:
        yield Problem(error.what, error.got, error.expected, error.change)
    except ValueError as error:
        yield Problem(f"`devices.class_figures`: {error}")
