"""dfl-ray in a program or a notebook: `from dfl_ray import load_config, run, resume, plan, load_run`.

Nothing is printed unless asked for. Where the caller has initialised Ray, its Ray is used and left up; otherwise Ray is
started for the run and stopped at its end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError
from dfl_ray.records import Run, load_run
from dfl_ray.records.arguments import check_whole

OnRoundEnd = Callable[[Run], object]


def _a_config(config: object, name: str) -> Config:
    if not isinstance(config, Config):
        raise InputError(
            f"`{name}` takes a configuration",
            got=f"{type(config).__name__} {str(config)[:60]}",
            change=f'Give {name}(load_config(SOURCE, ["key=value"])).',
        )
    return config


def run(
    config: Config | None = None,
    *,
    on_round_end: OnRoundEnd | None = None,
    progress: bool = False,
    verbose: bool = False,
) -> Run:
    """Run an experiment to its end.

    Args:
        config: The experiment, from `dfl_ray.load_config`; None is the embedded default.
        on_round_end: Called after every round with the run so far; its tables hold all finished rounds. If it answers
            True, the run ends there: it is evaluated, reported and its adapters are saved, as after the last round.
        progress: Show the progress on standard output.
        verbose: Show what libraries say.

    Returns:
        The finished run: tables as pandas, `adapters`, and the input of the figures in `dfl_ray.views`.

    Raises:
        InputError: The input is wrong; nothing was written, and nothing runs on.
        RunError: The run failed; what it had saved stays.

    Example:
        >>> found = run(load_config(None, ["rounds=3"]), on_round_end=lambda r: r.last_round == 2)  # doctest: +SKIP
        >>> found.rounds[["round", "accuracy_mean"]]  # doctest: +SKIP
    """
    from dfl_ray.config.check import check_inputs
    from dfl_ray.config.load import load_config
    from dfl_ray.simulation.launch import launch

    config = load_config() if config is None else _a_config(config, "run")
    watch = _watching(on_round_end)
    check_inputs(config)
    return load_run(launch(config, verbose=verbose, quiet=not progress, on_round_end=watch).folder)


def resume(
    of: Run | str | Path,
    overrides: str | Sequence[str] | Mapping[str, Any] = (),
    *,
    on_round_end: OnRoundEnd | None = None,
    changed: bool = False,
    progress: bool = False,
    verbose: bool = False,
) -> Run:
    """Go on with a run from its newest checkpoint, or from its start if it has none.

    Args:
        of: The run, its folder or its URL.
        overrides: What may change on its way: `rounds` to lengthen it, `stop`, `evaluate`, `checkpoint`, `track`,
            `runtime`, and where its inputs lie now; texts `a.b=c` or a mapping, as `load_config` takes them.
        on_round_end: See `run`.
        changed: Go on although rows, weights or code are others than the run began with; it is noted in `run.json`.
        progress: Show the progress on standard output.
        verbose: Show what libraries say.

    Returns:
        The finished run.

    Raises:
        InputError: No run, one in use or damaged, or it cannot go on so; nothing in it was changed.
        RunError: The run failed again; what it had saved stays.

    Example:
        >>> longer = resume("runs/one", {"rounds": 20})  # doctest: +SKIP
    """
    from dfl_ray.config.load import override_texts
    from dfl_ray.records.remote import folder_at
    from dfl_ray.simulation.launch import resume as go_on

    if not isinstance(of, Run | str | Path):
        raise InputError(
            "`resume` takes a run",
            got=f"{type(of).__name__} {str(of)[:60]}",
            expected="a Run, its folder or its URL",
        )
    folder = of.path if isinstance(of, Run) else folder_at(of)
    more = override_texts(overrides)
    watch = _watching(on_round_end)
    return load_run(
        go_on(folder, more, verbose=verbose, quiet=not progress, changed=changed, on_round_end=watch).folder
    )


def _watching(on_round_end: OnRoundEnd | None) -> Callable[[Path], bool]:
    """What the driver asks after every round; see `run`."""
    if on_round_end is None:
        return lambda _folder: False
    if not callable(on_round_end):
        raise InputError(
            "`on_round_end` cannot be called", got=repr(on_round_end), expected="a function of a Run"
        )
    return lambda folder: _ends(on_round_end(load_run(folder)))


def _ends(answer: Any) -> bool:
    """Whether the answer of `on_round_end` ends the run; NumPy's truth values are taken for what they are."""
    if answer is None or isinstance(answer, bool | np.bool_):
        return bool(answer)
    if inspect.iscoroutine(answer):
        answer.close()
    raise InputError(
        "`on_round_end` answers neither yes nor no",
        got=f"{answer!r}"[:80],
        expected="True, False or None",
        change="Return `bool(...)` of what is to end the run, and no coroutine.",
    )


def plan(config: Config | None = None, *, rounds: int | None = None) -> dict[str, Any]:
    """Plan a run: the same graph, traffic and radio draws, without a model's weights and without training.

    Args:
        config: The experiment; None is the embedded default.
        rounds: How many rounds to plan, at least 1, evenly spread; None plans all where that takes minutes at most.

    Returns:
        Figures by name; see `dfl_ray.simulation.estimate.plan`.

    Raises:
        InputError: The input is wrong, the layout is impossible or the model's shapes are not known.
    """
    from dfl_ray.config.check import check_inputs
    from dfl_ray.config.load import load_config
    from dfl_ray.simulation.estimate import plan as plan_run

    config = load_config() if config is None else _a_config(config, "plan")
    if rounds is not None:
        check_whole("rounds", rounds, 1, change="Give plan(config, rounds=5), or leave it out.")
    check_inputs(config, planned=True)
    return plan_run(config, rounds=rounds)
