"""The configuration a run goes on with when `resume` is given overrides: more rounds, or another way to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any

from dfl_ray.config.load import load_config
from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.schema import Config
from dfl_ray.config.training import TrainingConfig
from dfl_ray.errors import InputError
from dfl_ray.methods.expert_law import update_rounds

MAY_CHANGE = ("rounds", "stop", "evaluate", "checkpoint", "track", "runtime")
"""What a run may go on with: nothing in it changes what has been trained."""

SHARES = ("prune_start", "prune_end")
"""Keys of `method` that place the pruning as shares of the run."""


def resumed_config(config: Config, overrides: Sequence[str], path: str, done: int) -> Config:
    """Apply the overrides of `resume` to a run's configuration.

    A schedule given as shares of the run (`method.prune_start`, `method.prune_end`) keeps the rounds it had: a run that
    is lengthened has pruned already.

    Args:
        config: The run's own configuration.
        overrides: Texts `a.b=c`.
        path: The run's config.yaml, which `config` was read from.
        done: Rounds that are done.

    Returns:
        The configuration to go on with.

    Raises:
        InputError: A key that a run cannot change on its way, fewer rounds than are done, or so few that its pruning
            would have to be another.
    """
    if not overrides:
        return config
    changed = load_config(path, overrides)
    fixed = [name for name in Config.model_fields if name not in MAY_CHANGE]
    wrong = [name for name in fixed if getattr(changed, name) != getattr(config, name)]
    if wrong:
        raise InputError(
            f"A run cannot change its `{wrong[0]}` on its way",
            got=", ".join(overrides),
            expected="rounds, or keys of " + ", ".join(f"`{name}`" for name in MAY_CHANGE[1:]),
            change="Start another run for that.",
        )
    if changed.rounds < done:
        raise InputError(
            "`rounds` is less than what the run has done",
            got=f"rounds={changed.rounds} after round {done}",
            expected=f"at least {done}",
        )
    method = _same_schedule(config.method, config.rounds, changed.rounds)
    if _pruned(method, changed.rounds) != _pruned(config.method, config.rounds):
        raise InputError(
            "`rounds` ends the run before its pruning does",
            got=f"rounds={changed.rounds}; masks are announced in rounds up to "
            f"{max(_pruned(config.method, config.rounds))}",
            expected="rounds in which the pruning it began with comes to its end",
            change="Give more `rounds`, or another run `method.prune_end`.",
        )
    return changed.model_copy(update={"method": method})


def rounds_changed(info: Mapping[str, Any], rounds: int, done: int) -> dict[str, list[int]]:
    """What `run.json` notes of a run that goes on with other `rounds` than it had.

    Args:
        info: Its `run.json`.
        rounds: The `rounds` it had.
        done: Rounds that are done.

    Returns:
        `lengthened`, the `rounds` it had before each such resume; `ended_after`, those of them which it had reached, so
        that what an end does was done in them.
    """
    noted = {"lengthened": [*info.get("lengthened", ()), rounds]}
    return noted | ({"ended_after": [*info.get("ended_after", ()), rounds]} if done == rounds else {})


def ends_kept(info: Mapping[str, Any], done: int) -> dict[str, list[int]]:
    """What `run.json` keeps of the ends of a run that goes on: those in rounds whose records stay.

    Args:
        info: Its `run.json`.
        done: Rounds that are done.

    Returns:
        `early_ends`, the rounds after which it ended before its last one; `ended_after`, see `rounds_changed`. Either
        is left out where there was nothing.
    """
    ended = info.get("ended_early_after")
    early = {*info.get("early_ends", ()), *(() if ended is None else (ended,))}
    noted = {"early_ends": sorted(early), "ended_after": info.get("ended_after", ())}
    return {name: [r for r in ends if r <= done] for name, ends in noted.items() if ends}


def same_experiment(own: Config, given: Config, folder: Path) -> set[str]:
    """Compare a configuration with that of the run that bears its name, but for the number of rounds.

    Args:
        own: The run's own.
        given: The configuration, its paths as it says them.
        folder: The run's folder; its `run.json` knows the `rounds` it was begun with.

    Returns:
        Sections of `MAY_CHANGE` that differ.

    Raises:
        InputError: Something differs that a run cannot change on its way.
    """
    from dfl_ray.config.locations import with_absolute_paths
    from dfl_ray.records.folder_checks import check_run_folder

    wanted = with_absolute_paths(given)
    begun = next(iter(check_run_folder(folder).get("lengthened", ())), own.rounds)
    if _alike(_same_schedule(wanted.method, begun, own.rounds), own.method):
        wanted = wanted.model_copy(update={"method": own.method})
    sections = [name for name in Config.model_fields if getattr(own, name) != getattr(wanted, name)]
    wrong = [name for name in sections if name not in MAY_CHANGE]
    if wrong:
        raise InputError(
            f"The run {folder} is another experiment",
            got=f"another `{'`, `'.join(wrong)}` than it was begun with",
            expected="the words it was begun with; more `rounds`, or keys of "
            + ", ".join(f"`{name}`" for name in MAY_CHANGE[1:]),
            change="Give another `name`.",
        )
    return {name for name in sections if name != "rounds"}


def _same_schedule(method: TrainingConfig, before: int, now: int) -> TrainingConfig:
    """A method with its pruning in the rounds where it was when the run had another number of rounds."""
    if not isinstance(method, SparseOrthogonalConfig) or before == now:
        return method
    found = [
        method.model_copy(
            update={name: min(1.0, getattr(method, name) * before / now * nudge) for name in SHARES}
        )
        for nudge in (1.0, 1.0 + 1e-12, 1.0 - 1e-12)
    ]
    return next((m for m in found if _pruned(m, now) == _pruned(method, before)), found[0])


def _pruned(method: TrainingConfig, rounds: int) -> dict[int, float]:
    """Round -> density of the mask announced in it."""
    return update_rounds(method, rounds) if isinstance(method, SparseOrthogonalConfig) else {}


def _alike(one: TrainingConfig, other: TrainingConfig) -> bool:
    """Whether two methods are the same but for the rounding of shares that were rescaled."""
    if not (isinstance(one, SparseOrthogonalConfig) and isinstance(other, SparseOrthogonalConfig)):
        return one == other
    shares = {name: getattr(other, name) for name in SHARES}
    near = all(isclose(getattr(one, name), share) for name, share in shares.items())
    return near and one.model_copy(update=shares) == other
