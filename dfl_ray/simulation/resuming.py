"""What a stopped run has left, checked before it is gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dfl_ray.config.load import load_config
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError, RunError, resume_line, tell
from dfl_ray.records import RunFolder, load_run
from dfl_ray.records.folder_checks import check_run_folder
from dfl_ray.records.info import read_info, versions
from dfl_ray.simulation.checkpoint import Checkpoint, load_checkpoint
from dfl_ray.simulation.fingerprint import refuse_changed_config
from dfl_ray.simulation.round_loop import nobody_left


def own_config(path: Path) -> Config:
    """The configuration that a run keeps of itself.

    Args:
        path: The run folder.

    Returns:
        The configuration.

    Raises:
        InputError: `config.yaml` is missing, empty or wrong; packages that the run had and that are not installed
            here are named.
    """
    file = path / "config.yaml"
    if file.is_file() and not file.read_bytes().strip():
        raise InputError(
            f"{file} is empty",
            expected="the configuration of the run",
            change="Restore it from a copy; `dfl-ray config` prints the form of one.",
        )
    with packages_named(path):
        return load_config(str(file), [])


@contextmanager
def packages_named(path: Path) -> Iterator[None]:
    """Name, in what is said of a run's configuration in the block, the packages that the run had and that are missing.

    Args:
        path: The run folder.

    Raises:
        InputError: That of the block, with the packages.
    """
    try:
        yield
    except InputError as error:
        missing = missing_packages(path)
        if not missing:
            raise
        said = f"The run had packages that are not installed here: {missing}. Install them."
        raise InputError(
            error.what, got=error.got, expected=error.expected, change=f"{error.change} {said}".strip()
        ) from error


def missing_packages(path: Path) -> str:
    """Packages that a run's `run.json` names and that are not installed, with their versions; empty where none are.

    Args:
        path: The run folder.
    """
    try:
        named = read_info(path / "run.json").get("versions")
    except (OSError, ValueError):
        return ""
    known = versions()
    had = named if isinstance(named, dict) else {}
    return ", ".join(f"{name} {version}" for name, version in had.items() if name not in known)


def said_of_done(folder: RunFolder, config: Config, overrides: Sequence[str]) -> str:
    """What is said of a run that is done and has no round left under some overrides: it stays as it is.

    Args:
        folder: The run, locked.
        config: Its own configuration.
        overrides: Texts `a.b=c`, those of `resume`.

    Returns:
        A sentence; empty where a round is left, or something of the run's end is missing.

    Raises:
        InputError: The configuration was changed, a record is damaged or missing, or an override is wrong.
    """
    from dfl_ray.simulation.lengthen import resumed_config

    refuse_changed_config(folder.path, folder.info, config)
    folder.check()
    last = load_run(folder.path).last_round
    if folder.info.get("state") != "done" or last < config.rounds:
        return ""
    if resumed_config(config, overrides, str(folder.path / "config.yaml"), last).rounds != config.rounds:
        return ""
    return done_already(folder.path, overrides)


def done_already(path: Path, overrides: Sequence[str]) -> str:
    """The sentence of `said_of_done`: a run is done, and some overrides, but for `rounds`, are without effect.

    Args:
        path: The run folder.
        overrides: Texts `a.b=c`.
    """
    idle = " ".join(word for word in overrides if not word.startswith("rounds="))
    rest = f": no round is left in which {idle} would count, and nothing was changed" if idle else ""
    return f"{path} is done already{rest}"


def saved_state(folder: RunFolder, config: Config) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run whose records are whole; see `said_of_done`.

    Args:
        folder: The run, locked.
        config: Its own configuration.

    Returns:
        The checkpoint, None where none was due yet; and sentences for the user about those that were lost.

    Raises:
        InputError: No checkpoint is whole, none is left, or rows of a run that is done would be dropped.
    """
    notes: list[str] = []
    checkpoint = load_checkpoint(folder.checkpoints, notes.append)
    done = checkpoint.round_index if checkpoint else 0
    recorded = _recorded(folder.path, done)
    _refuse_to_drop(folder, config, done, recorded, notes)
    every = config.checkpoint.every
    if not notes and every and recorded // every * every > done:
        notes.append(
            f"The checkpoint of round {recorded // every * every} is missing; the run goes on "
            + (f"from that of round {done}" if checkpoint else "from its start")
        )
    return checkpoint, notes


def _refuse_to_drop(
    folder: RunFolder, config: Config, done: int, recorded: int, notes: Sequence[str]
) -> None:
    """Refuse to drop rows that no state is left to repeat, and those of a run that is done.

    A run that stopped before its first checkpoint was written goes on from its start; that of the last round recorded
    may not have been written.
    """
    if done:
        had = recorded if folder.info.get("state") == "done" else 0
    else:
        had = _last_saved(folder.info, config, recorded)
    if had <= done:
        return
    got = f"records up to round {recorded}, " + (f"a checkpoint of round {done}" if done else "no checkpoint")
    raise InputError(
        f"The run {folder.path} cannot go on: its checkpoint of round {had} is {'damaged' if notes else 'missing'}",
        got=". ".join([got, *notes]),
        expected="the folder `checkpoints` as the run left it; rows that are recorded are not dropped",
        change="Restore it from a copy, or run the experiment anew under another `name`.",
    )


def _last_saved(info: Mapping[str, Any], config: Config, recorded: int) -> int:
    """The last round that a run has surely saved a checkpoint of; 0 where none was due yet."""
    if info.get("state") == "done":
        return recorded
    every = config.checkpoint.every
    due = (recorded - 1) // every * every if every and recorded else 0
    return max(due, *info.get("ended_after", ()), *info.get("early_ends", ()), 0)


def _recorded(path: Path, done: int) -> int:
    """The last round recorded, which is not before that of the newest checkpoint.

    Raises:
        InputError: It is.
    """
    recorded = load_run(path).last_round
    if done > recorded:
        raise InputError(
            f"The records of {path} end before its newest checkpoint",
            got=f"records up to round {recorded}, a checkpoint of round {done}",
            expected="records of every round",
            change="Restore rounds.parquet from a copy, or remove that checkpoint to go on from the one before it.",
        )
    return recorded


def only_to_close(
    info: Mapping[str, Any], checkpoint: Checkpoint | None, own: Config, config: Config
) -> bool:
    """Whether a run ended before its last round and died before all that belongs to its end was written.

    Args:
        info: Its `run.json`.
        checkpoint: Its newest checkpoint; None where nothing was saved yet.
        own: The configuration it has.
        config: The configuration that it is to go on with.

    Returns:
        True if its newest checkpoint is that of its end, and it is not asked for other rounds or goals that somebody is
        left to play for.
    """
    at_its_end = checkpoint is not None and info.get("ended_early_after") == checkpoint.round_index
    same_end = (config.rounds, config.stop) == (own.rounds, own.stop)
    return at_its_end and info.get("state") != "done" and (same_end or _nobody_was_left(info))


def _nobody_was_left(info: Mapping[str, Any]) -> bool:
    return info.get("stopped_by") in (nobody_left(True), nobody_left(False))


def refuse_ended(path: Path, info: Mapping[str, Any], checkpoint: Checkpoint | None, config: Config) -> None:
    """Refuse further rounds of a run whose newest checkpoint is one in which no device has energy and work left.

    What `run.json` says of its end holds for the checkpoint of that round alone: where that one could not be written or
    is damaged, the run goes on from an earlier one.

    Args:
        path: The run folder.
        info: Its `run.json`.
        checkpoint: Its newest checkpoint; None where nothing was saved yet.
        config: The configuration that it is to go on with.

    Raises:
        InputError: Rounds are missing and nobody is left to play them.
    """
    if checkpoint is None or checkpoint.round_index >= config.rounds:
        return
    empty = len(checkpoint.driver["absent"]) == config.devices.count
    at_its_end = info.get("ended_early_after") == checkpoint.round_index
    if empty or (at_its_end and _nobody_was_left(info)):
        raise InputError(
            f"The run {path} cannot go on: after round {checkpoint.round_index} {nobody_left(not empty).split('.')[0]}",
            expected="a device that has energy and work left",
            change="Begin another run with other settings; what this one has learnt and spent is whole.",
        )


def newest_state(path: Path) -> tuple[Config, Checkpoint]:
    """A run's configuration and its newest whole checkpoint, for what only reads a run.

    A damaged checkpoint that is passed over is told on standard error.

    Args:
        path: The run folder.

    Returns:
        The configuration of the run and the checkpoint.

    Raises:
        InputError: `config.yaml` is missing, wrong or changed since the run began, nothing was saved, no checkpoint is
            whole, or the records end before it.
    """
    config, info = own_config(path), check_run_folder(path)
    refuse_changed_config(path, info, config)
    checkpoint = load_checkpoint(path / "checkpoints", tell)
    if checkpoint is None:
        lost = _last_saved(info, config, load_run(path).last_round)
        raise InputError(
            f"The run {path} has no saved state",
            got=f"no checkpoint, where that of round {lost} was saved" if lost else "",
            expected="a checkpoint, as every finished run has",
            change="Restore the folder `checkpoints` from a copy."
            if lost
            else f"Go on with it until it has saved one: {resume_line(path)}",
        )
    _recorded(path, checkpoint.round_index)
    return config, checkpoint


def not_written(error: Exception, folder: Path) -> Exception:
    """What the user is told when a file of a run cannot be written.

    Args:
        error: What was raised; anything but an `OSError` is given back as it is.
        folder: The run folder.

    Returns:
        A `RunError` that names the file, the reason and how to go on.
    """
    if not isinstance(error, OSError):
        return error
    if not folder.is_dir():
        return RunError(
            f"The run folder {folder} is gone: it was removed or renamed while the run was going on. The run has "
            "stopped; if the folder still lies elsewhere, go on with `dfl-ray resume` and its new path."
        )
    reason = error.strerror or str(error)
    return RunError(
        f"{error.filename or folder} cannot be written: {reason}. Free some room there, or make it writable. "
        f"What was saved stays; go on with: {resume_line(folder)}"
    )
