"""Whether a run folder can be made at a place, or read from it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from dfl_ray.errors import InputError, resume_line
from dfl_ray.records import lock
from dfl_ray.records.info import read_info
from dfl_ray.records.run_info import check_info
from dfl_ray.records.schema import SCHEMA_VERSION

_OF_A_SWEEP = re.compile(r"\d{3,}-(.+-)?s\d+")
"""Names of the run folders of a sweep; see `simulation.sweep.make_trials`."""


def check_free(path: Path) -> None:
    """Refuse a place where no run folder can be made: soon, since a run has much to set up before it makes its own.

    Args:
        path: Where it is to be.

    Raises:
        InputError: It is a file or lies below one or in another run's folder, another run writes there, or it is a
            folder that is not empty.
    """
    check_folder(path)
    if path.is_dir() and _entries(path):
        if (path / lock.LOCK_NAME).exists():
            lock.acquire(path).release()  # names the process that writes there
        check_empty(path)


def check_free_for_sweep(path: Path) -> None:
    """Refuse a place where the folder of a sweep can neither be made nor be gone on with.

    Args:
        path: Where it is to be.

    Raises:
        InputError: It is a file or lies below one or in a run's folder, or it is a folder that holds a run, or other
            files and no sweep.
    """
    check_folder(path)
    if path.is_dir() and not _is_sweep(path):
        check_empty(path)


def check_folder(path: Path) -> None:
    """Refuse a place that is a file or lies in a run's folder, or where no folder can be made.

    Args:
        path: The place.

    Raises:
        InputError: It is or does, or none can.
    """
    _refuse_inside_run(path)
    if path.exists() and not path.is_dir():
        raise InputError(
            f"The run folder {path} cannot be made",
            got="a file of that name",
            expected="a new or empty folder",
            change="Choose another `name=...`.",
        )
    if not path.exists():
        check_runs_dir(path.parent)


def check_runs_dir(path: Path) -> None:
    """Refuse a folder of runs in which no run folder can be made.

    Args:
        path: The folder; it need not be there.

    Raises:
        InputError: It is a file or lies below one, it is a run's folder or lies in one, or nothing may be written
            there.
    """
    _refuse_inside_run(path / "run")
    found = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not (found.is_dir() and os.access(found, os.W_OK | os.X_OK)):
        raise InputError(
            f"A run folder cannot be made in {path}",
            got=f"{found}, {'where nothing may be written' if found.is_dir() else 'which is no folder'}",
            expected="a folder that you may write to, or a place where one can be made",
            change="Change `runtime.runs_dir`.",
        )


def _refuse_inside_run(path: Path) -> None:
    """Refuse a place in a run's folder: lists of runs look into none, and an archive of the run would hold both."""
    for place in path.absolute().parents:
        if (place / "run.json").is_file() and (place / "config.yaml").is_file():
            raise InputError(
                f"A run folder cannot be made in {path.parent}",
                got=f"the folder of the run {place}"
                if place == path.parent
                else f"a place in the run {place}",
                expected="a folder of run folders",
                change="Change `runtime.runs_dir`.",
            )


def check_empty(path: Path) -> None:
    """Refuse a folder that holds anything but a lock.

    Args:
        path: The folder.

    Raises:
        InputError: It does, and what.
    """
    if _entries(path):
        is_run = (path / "run.json").is_file()
        raise InputError(
            f"The folder {path} exists and is not empty",
            got=_run_words(path) if is_run else "a sweep" if _is_sweep(path) else _file_words(path),
            expected="a new or empty folder",
            change=f"Go on with that run by `{resume_line(path)}`, or give another `name=...`."
            if is_run
            else "Give another `name=...`.",
        )


def _entries(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name != lock.LOCK_NAME)


def _is_sweep(path: Path) -> bool:
    """Whether a folder is that of a sweep: it holds the state of Ray Tune or folders of a sweep's runs, and no run."""
    if (path / "run.json").exists():
        return False
    names = [name for name in _entries(path) if _OF_A_SWEEP.fullmatch(name) or name == "tune"]
    return any((path / name).is_dir() for name in names)


def _run_words(path: Path) -> str:
    try:
        info = read_info(path / "run.json")
        return f"a run in state `{info.get('state')}`, started {info.get('started_at')}"
    except (OSError, ValueError, RecursionError):
        return "a run whose run.json cannot be read"


def _file_words(path: Path) -> str:
    names = _entries(path)
    return f"other files: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def check_run_folder(path: Path) -> dict[str, Any]:
    """Make sure that a path is a run folder this version can read.

    Args:
        path: Where the run folder should be.

    Returns:
        What its `run.json` holds.

    Raises:
        InputError: Missing, foreign, damaged, or of a newer schema.
    """
    change = "Give the folder of a run made by `dfl-ray run`, for example `runs/<name>`."
    if not path.is_dir():
        raise InputError(f"There is no run folder {path}", got=_neighbours(path), change=change)
    try:
        info = read_info(path / "run.json")
        version = int(info["schema_version"])
        check_info(info)
    except FileNotFoundError:
        raise InputError(
            f"{path} is not a run folder", got="no run.json in it", expected="run.json", change=change
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path / 'run.json'} cannot be read, so that nothing is known of the run",
            got=f"no key {error}" if isinstance(error, KeyError) else str(error),
            expected="the file as the run wrote it",
            change="Restore it from a copy of the run.",
        ) from error
    if version > SCHEMA_VERSION:
        raise InputError(
            f"The run {path} was written by a newer dfl-ray",
            got=f"schema version {version}",
            expected=f"at most {SCHEMA_VERSION}",
            change="Read it with the version of dfl-ray that wrote it, or update this one.",
        )
    return info


def _neighbours(path: Path) -> str:
    """Name the runs beside a missing one, newest first."""
    if not path.parent.is_dir():
        return "nothing at that path"
    runs = sorted(path.parent.glob("*/run.json"), key=lambda file: -file.stat().st_mtime)
    return "runs there: " + ", ".join(run.parent.name for run in runs[:5]) if runs else "no runs beside it"
