"""The configuration a run goes on with under overrides: more rounds, another way to run, other places of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any

from dfl_ray.config.changeable import MAY_CHANGE, MEASURES
from dfl_ray.config.check import value_at
from dfl_ray.config.load import load_config, override_texts
from dfl_ray.config.locations import says_where, with_absolute_paths
from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.overrides import key_of
from dfl_ray.config.schema import Config
from dfl_ray.config.training import TrainingConfig
from dfl_ray.errors import InputError
from dfl_ray.methods.expert_law import update_rounds

PLACES_IN_WORDS = (
    "where its inputs lie now (model.name, model.warm_start, tasks.path, devices.partition.path and the like)"
)

SHARES = ("prune_start", "prune_end")
"""Keys of `method` that place the pruning as shares of the run."""


def resumed_config(config: Config, overrides: Sequence[str], path: str, done: int) -> Config:
    """Apply the overrides of `resume` to a run's configuration.

    A schedule given as shares of the run (`method.prune_start`, `method.prune_end`) keeps the rounds it had: a run that
    is lengthened has pruned already. What has been moved since may be named where it lies now; that it is the same is
    for `fingerprint.refuse_changed_inputs` to say.

    Args:
        config: The run's own configuration.
        overrides: Texts `a.b=c`, keys of `MAY_CHANGE` and those by which `says_where` goes.
        path: The run's config.yaml, which `config` was read from.
        done: Rounds that are done.

    Returns:
        The configuration to go on with.

    Raises:
        InputError: A key that a run cannot change on its way, a place of something it did without, fewer rounds than
            are done, or so few that its pruning would have to be another.
    """
    if not overrides:
        return config
    places = [word for word in overrides if says_where(word)]
    _check_places(config, places)
    changed, here = load_config(path, overrides), load_config(path, places)
    fixed = [name for name in Config.model_fields if name not in MAY_CHANGE]
    wrong = [name for name in fixed if getattr(changed, name) != getattr(here, name)]
    if wrong:
        raise InputError(
            f"A run cannot change its `{wrong[0]}` on its way",
            got=", ".join(overrides),
            expected="rounds, keys of "
            + ", ".join(f"`{name}`" for name in MAY_CHANGE[1:])
            + f", or {PLACES_IN_WORDS}",
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
    found = changed.model_copy(update={"method": method})
    return with_absolute_paths(found) if places else found


def only_places(what: str, overrides: Sequence[str]) -> None:
    """Refuse overrides that do not say where a run's inputs lie now.

    Args:
        what: What was asked for, in words ("an export").
        overrides: Texts `a.b=c`.

    Raises:
        InputError: One that says something else.
    """
    for word in overrides:
        if not says_where(word):
            raise InputError(f"`{key_of(word)}` says nothing to {what}", got=word, expected=PLACES_IN_WORDS)


def _check_places(config: Config, places: Sequence[str]) -> None:
    """Refuse to say where something lies that the run does not have."""
    for word in places:
        key = key_of(word)
        if value_at(config, key) is None:
            raise InputError(
                f"A run cannot change its `{key}` on its way",
                got=word,
                expected="the place of something it was begun with; it had none",
                change="Start another run for that.",
            )


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


def way_noted(
    info: Mapping[str, Any], own: Config, config: Config, done: int, *, closing: bool
) -> dict[str, list[Any]]:
    """What `run.json` notes of the way of a run that is gone on with.

    Its ends (see `ends_kept` and `rounds_changed`), and with its `changes` those of `changed_measures`.

    Args:
        info: Its `run.json`.
        own: The configuration it had.
        config: The configuration it goes on with.
        done: Rounds that are done.
        closing: Whether nothing but its end is written, which stays its end.
    """
    noted: dict[str, list[Any]] = {} if closing else {**ends_kept(info, done)}
    if config.rounds != own.rounds:
        noted |= rounds_changed({**info, **noted}, own.rounds, done)
    if changes := changed_measures(own, config, done):
        noted["changes"] = [*info.get("changes", ()), *changes]
    return noted


def changed_measures(own: Config, config: Config, done: int) -> list[str]:
    """What is told of a run that is measured or ends otherwise from some round on; nothing of one that begins anew.

    Args:
        own: The configuration it had.
        config: The configuration it goes on with.
        done: Rounds that are done.

    Returns:
        Texts such as "after round 3: evaluate.rows_per_task=2 in place of 8".
    """
    return [f"after round {done}: {change}" for change in measured_otherwise(own, config)] if done else []


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


def differences(own: Config, given: Config, sections: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """Keys of some sections in which two configurations of a run differ, paths as they say them.

    Args:
        own: The configuration the run has.
        given: Another one.
        sections: The sections.

    Returns:
        Dotted key -> its values in both, as plain data.
    """
    was, now = own.model_dump(mode="json"), given.model_dump(mode="json")
    keys = [(section, key) for section in sorted(sections) for key in now[section]]
    return {f"{s}.{k}": (was[s][k], now[s][k]) for s, k in keys if was[s][k] != now[s][k]}


def as_given(own: Config, given: Config, folder: Path) -> list[str]:
    """Overrides with which a run goes on as a configuration of the same experiment says, but for its rounds and folder.

    Args:
        own: The run's own configuration.
        given: The configuration, its paths as it says them.
        folder: The run's folder.

    Returns:
        Texts `section.key=value`.

    Raises:
        InputError: It is another experiment; see `same_experiment`.
    """
    found = differences(own, with_absolute_paths(given), same_experiment(own, given, folder))
    return override_texts({key: now for key, (_, now) in found.items() if key != "runtime.runs_dir"})


def measured_otherwise(own: Config, given: Config) -> list[str]:
    """Keys that say how a run is measured and when it ends, and that are others in a configuration, each in words.

    Args:
        own: The configuration the run has.
        given: Another one.

    Returns:
        Texts such as "evaluate.rows_per_task=2 in place of 8".
    """
    found = differences(own, given, MEASURES)
    texts = [override_texts({key: value[i] for key, value in found.items()}) for i in (0, 1)]
    return [f"{now} in place of {was.partition('=')[2]}" for was, now in zip(*texts, strict=True)]


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
