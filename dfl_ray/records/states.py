"""In which state runs are, from their folders alone: running, waiting, stopped, failed or finished."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Required

from pydantic import AwareDatetime, ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from dfl_ray.errors import InputError
from dfl_ray.records import parts
from dfl_ray.records.ending import end_words, first_sentence
from dfl_ray.records.folder_checks import check_run_folder
from dfl_ray.records.run_config import read_config
from dfl_ray.records.schema import TABLES

RunStateName = Literal["running", "waiting", "stopped", "failed", "finished", "unreadable"]

HEARTBEAT_NAME = "heartbeat.json"
DEAD_AFTER_S = 60.0
"""A run whose heartbeat is older than this has been killed; it beats every five seconds."""

WAITING_STEPS = ("Ray", "actors")
"""Steps in which a run waits for the resources of its cluster."""


@with_config(ConfigDict(allow_inf_nan=False))
class Heartbeat(TypedDict, total=False):
    """Keys of `heartbeat.json` that are read; `tracking.recorded` writes it."""

    at: Required[AwareDatetime]
    stage: str | None
    stage_s: float | None
    parts: int
    parts_done: int
    left_s: float | None


@lru_cache(maxsize=1)
def _form() -> TypeAdapter[Heartbeat]:
    return TypeAdapter(Heartbeat)


_ENDED: dict[str, RunStateName] = {"done": "finished", "interrupted": "stopped", "failed": "failed"}


@dataclass(frozen=True)
class RunState:
    """What is known of a run without its tables.

    Attributes:
        path: The run folder.
        name: Name of the run.
        state: `running`; `waiting` for the cluster's resources; `stopped` by the user or killed; `failed`;
            `finished`; or `unreadable`.
        note: What is going on or went wrong, empty when there is nothing to say.
        method: Name of the method.
        seed: Seed of the run.
        devices: Number of devices.
        round: Last complete round.
        rounds: Rounds of the whole run.
        accuracy: Last mean accuracy, a share in [0, 1]; None before the first evaluation.
        started_at: Start in UTC, ISO 8601.
        heartbeat_s: Age of the last sign of life in seconds; None for a run that has ended or never beat.
        left_s: Real time left in seconds; None where it is not known.
    """

    path: Path
    name: str
    state: RunStateName
    note: str = ""
    method: str = "?"
    seed: Any = None
    devices: int = 0
    round: int = 0
    rounds: int = 0
    accuracy: float | None = None
    started_at: str = ""
    heartbeat_s: float | None = None
    left_s: float | None = None


def find_runs(folder: Path) -> list[Path]:
    """Find run folders: the folder itself if it is one, else those inside it and inside its sweeps, newest first.

    Args:
        folder: A run folder, a folder of run folders, or one of sweeps, whose runs lie a level deeper.

    Returns:
        Paths of folders that hold a `run.json`; none where there is no folder. What is below a run folder is not
        looked at.
    """
    if _is_run(folder):
        return [folder]
    found: list[tuple[float, Path]] = []
    for child in _folders(folder):
        for path in [child] if _is_run(child) else _folders(child):
            try:
                found.append(((path / "run.json").stat().st_mtime, path))
            except OSError:
                continue  # no run, or one that has been removed meanwhile
    return [path for _, path in sorted(found, key=lambda item: (-item[0], item[1]))]


def _is_run(folder: Path) -> bool:
    """Whether a folder holds a `run.json`; one that may not be looked into does not."""
    try:
        return (folder / "run.json").is_file()
    except OSError:
        return False


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (folder / entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return


def run_state(path: Path, now: datetime | None = None) -> RunState:
    """Read the state of one run.

    Args:
        path: The run folder.
        now: The present in UTC; None asks the clock.

    Returns:
        The state; `unreadable` with the reason in `note` for a folder that cannot be read.
    """
    try:
        return _read_state(path, now or datetime.now(UTC))
    except Exception as error:  # a damaged folder must not take all others off the list
        told = str(error) if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {error}"
        return RunState(path, path.name, "unreadable", told.partition("\n")[0])


def _read_state(path: Path, now: datetime) -> RunState:
    info, config = check_run_folder(path), _config_of(path)
    beat = read_heartbeat(path)
    table = parts.read(
        path / "rounds.parquet", TABLES["rounds"], columns=["round", "accuracy_mean", "wall_s"]
    )
    rows = sorted(table.to_pylist(), key=lambda row: row["round"])
    measured = [row["accuracy_mean"] for row in rows if row["accuracy_mean"] is not None]
    done = rows[-1]["round"] if rows else 0
    state, note, age_s = _judge(path, info, beat, now)
    left_s = None
    if state in ("running", "waiting"):
        left_s = beat.get("left_s") if beat else None
        if left_s is None and rows and config["rounds"]:
            left_s = (config["rounds"] - done) * sum(row["wall_s"] for row in rows) / len(rows)
    return RunState(
        path=path,
        name=str(info.get("name", path.name)),
        state=state,
        note=note,
        method=config["method"],
        seed=config["seed"],
        devices=config["devices"],
        round=int(done),
        rounds=config["rounds"],
        accuracy=measured[-1] if measured else None,
        started_at=str(info.get("started_at") or ""),
        heartbeat_s=age_s,
        left_s=left_s,
    )


def _judge(
    path: Path, info: dict[str, Any], beat: Heartbeat | None, now: datetime
) -> tuple[RunStateName, str, float | None]:
    """State, note and age of the heartbeat in seconds."""
    recorded = str(info.get("state"))
    if recorded in _ENDED:
        return _ENDED[recorded], first_sentence(end_words(info)), None
    if beat is None:
        # Recorded before there were heartbeats: the newest record is the last sign of life.
        files = [file.stat().st_mtime for file in (path / "rounds.parquet").glob("*.parquet")]
        age_s = max(0.0, now.timestamp() - max(files)) if files else None
        alive = age_s is not None and age_s < 15 * DEAD_AFTER_S
        return ("running", "", age_s) if alive else ("stopped", "it has left no heartbeat", age_s)
    age_s = (now - beat["at"]).total_seconds()
    if (
        age_s < -DEAD_AFTER_S
    ):  # written by a clock that was ahead: the file's own time is that of where it lies
        age_s = now.timestamp() - (path / HEARTBEAT_NAME).stat().st_mtime
    age_s = max(0.0, age_s)
    stage = beat.get("stage")
    if age_s > DEAD_AFTER_S:
        return "stopped", f"it ended without a word{f' during: {stage}' if stage else ''}", age_s
    note = f"{stage}, {beat.get('stage_s') or 0:.0f} s so far" if stage else ""
    if beat.get("parts", 0) > 1:
        note += f", {beat.get('parts_done', 0)} of {beat.get('parts', 0)} parts done"
    return ("waiting" if stage in WAITING_STEPS else "running"), note, age_s


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Read the heartbeat of a run.

    Args:
        path: The run folder.

    Returns:
        What of `heartbeat.json` is read; None where there is none, or it is half written or no heartbeat.
    """
    try:
        return _form().validate_json((path / HEARTBEAT_NAME).read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


def _config_of(path: Path) -> dict[str, Any]:
    """The sections of `config.yaml` that a list of runs shows; see `read_config`."""
    file = path / "config.yaml"
    status = file.stat() if file.is_file() else None
    return _facts(path, *((0, 0) if status is None else (status.st_mtime_ns, status.st_size)))


@lru_cache(maxsize=1_024)
def _facts(path: Path, _written_ns: int, _size: int) -> dict[str, Any]:
    """The facts of one file, read once while its time and size stay the same: a running run is asked for often."""
    config = read_config(path)
    return {
        "method": config.get("method", {}).get("type", "?"),
        "devices": config.get("devices", {}).get("count", 0),
        "rounds": config.get("rounds", 0),
        "seed": config.get("seed"),
    }


def states_of(folders: list[Path]) -> Iterator[RunState]:
    """The states of all runs in some folders.

    Args:
        folders: Run folders, or folders of run folders.

    Yields:
        One state a run, newest first inside a folder. The name of a run of a sweep has that of the sweep before it.
    """
    for folder in folders:
        for path in find_runs(folder):
            state = run_state(path)
            inside = path.parent not in (folder, folder.parent)
            yield replace(state, name=f"{path.parent.name}/{state.name}") if inside else state
