"""Whether a run folder can be made at a place, or read from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dfl_ray.errors import InputError
from dfl_ray.records import lock
from dfl_ray.records.info import read_info
from dfl_ray.records.run_info import check_info
from dfl_ray.records.schema import SCHEMA_VERSION


def check_free(path: Path) -> None:
    """Refuse a place where no run folder can be made: soon, since a run has much to set up before it makes its own.

    Args:
        path: Where it is to be.

    Raises:
        InputError: It is a file or lies below one, another run writes there, or it is a folder that is not empty.
    """
    check_folder(path)
    if path.is_dir() and _entries(path):
        lock.acquire(path).release()  # names the process that writes there
        check_empty(path)


def check_folder(path: Path) -> None:
    """Refuse a place that is a file, or where no folder can be made.

    Args:
        path: The place.

    Raises:
        InputError: It is, or none can.
    """
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
        InputError: It is a file or lies below one, or nothing may be written there.
    """
    found = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not (found.is_dir() and os.access(found, os.W_OK | os.X_OK)):
        raise InputError(
            f"A run folder cannot be made in {path}",
            got=f"{found}, {'where nothing may be written' if found.is_dir() else 'which is no folder'}",
            expected="a folder that you may write to, or a place where one can be made",
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
        raise InputError(
            f"The run folder {path} exists and is not empty",
            got=_holds(path),
            expected="a new or empty folder",
            change=f"Go on with that run by `dfl-ray resume {path}`, or give this one another `name=...`.",
        )


def _entries(path: Path) -> bool:
    return any(entry.name != lock.LOCK_NAME for entry in path.iterdir())


def _holds(path: Path) -> str:
    try:
        info = read_info(path / "run.json")
        return f"a run in state `{info.get('state')}`, started {info.get('started_at')}"
    except (OSError, ValueError):
        return "other files"


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
    except (OSError, ValueError, KeyError, TypeError) as error:
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
