"""What the builders of figures may be given: wrong arguments are named before anything is drawn."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args

from dfl_ray.errors import InputError, nearest
from dfl_ray.records import Run
from dfl_ray.records.arguments import check_text, check_whole, is_list

Over = Literal["round", "bytes", "airtime", "energy", "simulated"]
"""Axes over which learning can be drawn."""
Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")


def checked(builder: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """Have a builder's `run`, `runs`, `round` and `over` checked at each call.

    Args:
        builder: A function of some of these.

    Returns:
        The same function, which raises `InputError` for another type, an unknown axis or a round that the run does not
        have.
    """
    signature, name = inspect.signature(builder), builder.__name__

    @functools.wraps(builder)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Drawn:
        given = signature.bind(*args, **kwargs).arguments
        runs = check_runs(name, [given["run"]] if "run" in given else given.get("runs"))
        if given.get("round") is not None:
            check_whole("round", given["round"], 0, runs[0].last_round)
        if "over" in given:
            _check_axis(given["over"])
        return builder(*args, **kwargs)

    return called


def check_each_once(runs: Sequence[Run]) -> None:
    """Refuse a run that is given twice, since it would count twice.

    Args:
        runs: The runs.

    Raises:
        InputError: It names the run.
    """
    seen: set[Path] = set()
    for run in runs:
        if run.path.resolve() in seen:
            raise InputError(f"The run {run.path} is named twice", expected="runs to compare, each once")
        seen.add(run.path.resolve())


def check_runs(name: str, runs: Any) -> Sequence[Run]:
    """Make sure that what is to be drawn are runs.

    Args:
        name: The function that was called.
        runs: What it was given.

    Returns:
        The runs, at least one.

    Raises:
        InputError: They are no list of runs, or none.
    """
    change = "Open them with `load_run(PATH)`."
    if not is_list(runs) or not runs:
        raise InputError(
            f"`{name}` draws runs", got=f"{runs!r}"[:80], expected="a list of at least one run", change=change
        )
    for run in runs:
        if not isinstance(run, Run):
            raise InputError(
                f"`{name}` draws runs", got=f"{run!r}"[:80], expected="what `load_run` returns", change=change
            )
    return runs


def _check_axis(over: Any) -> None:
    axes = get_args(Over)
    if check_text("over", over, ", ".join(axes)) not in axes:
        raise InputError(f"`over={over}` is no axis", expected=nearest(over, axes))
