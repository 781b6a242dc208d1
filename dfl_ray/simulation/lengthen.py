"""The configuration a run goes on with when `resume` is given overrides: more rounds, or another way to run."""

from __future__ import annotations

from collections.abc import Sequence

from dfl_ray.config.load import load_config
from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError
from dfl_ray.methods.expert_law import update_rounds

MAY_CHANGE = ("rounds", "stop", "evaluate", "checkpoint", "track", "runtime")
"""What a run may go on with: nothing in it changes what has been trained."""


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
        InputError: A key that a run cannot change on its way, or fewer rounds than are done.
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
    return changed.model_copy(update={"method": _same_schedule(config, changed.rounds)})


def same_experiment(own: Config, given: Config, run: str) -> set[str]:
    """Compare a configuration with that of the run that bears its name, but for the number of rounds.

    Args:
        own: The run's own.
        given: The configuration, its paths as it says them.
        run: The run's folder, for the message.

    Returns:
        Sections of `MAY_CHANGE` that differ.

    Raises:
        InputError: Something differs that a run cannot change on its way.
    """
    from dfl_ray.config.locations import with_absolute_paths

    wanted = with_absolute_paths(given)
    if isinstance(own.method, SparseOrthogonalConfig) and own.rounds != wanted.rounds:
        schedule = {name: getattr(own.method, name) for name in ("prune_start", "prune_end")}
        if isinstance(wanted.method, SparseOrthogonalConfig):  # lengthening rescales both
            wanted = wanted.model_copy(update={"method": wanted.method.model_copy(update=schedule)})
    sections = [name for name in Config.model_fields if getattr(own, name) != getattr(wanted, name)]
    wrong = [name for name in sections if name not in MAY_CHANGE]
    if wrong:
        raise InputError(
            f"The run {run} is another experiment",
            got=f"another `{'`, `'.join(wrong)}` than it was begun with",
            expected="the words it was begun with; more `rounds`, or keys of "
            + ", ".join(f"`{name}`" for name in MAY_CHANGE[1:]),
            change="Give another `name`.",
        )
    return {name for name in sections if name != "rounds"}


def _same_schedule(config: Config, rounds: int) -> object:
    """The method with its pruning in the rounds where it was."""
    method = config.method
    if not isinstance(method, SparseOrthogonalConfig) or rounds == config.rounds:
        return method
    wanted = update_rounds(method, config.rounds)
    found = [
        method.model_copy(
            update={
                name: min(1.0, getattr(method, name) * config.rounds / rounds * nudge)
                for name in ("prune_start", "prune_end")
            }
        )
        for nudge in (1.0, 1.0 + 1e-12, 1.0 - 1e-12)
    ]
    return next((m for m in found if update_rounds(m, rounds) == wanted), found[0])
