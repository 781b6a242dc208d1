"""`dfl-ray replay`: a bundled run once more, and where it first differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.load import load_config, override_texts
from dfl_ray.config.locations import PLACES, says_where
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError
from dfl_ray.records import Run
from dfl_ray.records.loading import comparable
from dfl_ray.records.schema import TABLES
from dfl_ray.simulation.fingerprint import KEY
from dfl_ray.simulation.resuming import packages_named

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-3
"""Largest difference of a figure, relative to the larger of 1 and its size, that another machine may make."""
ROWS = 2
"""Answers of one device, task and rule by which accuracies may differ on another machine."""


@dataclass(frozen=True)
class Replayed:
    """What came of a replay.

    Attributes:
        verdict: "equal": bit for bit; "close": within `TOLERANCE` and `ROWS`; "different".
        first: Where the first difference is, in words; empty where there is none.
        worst: The largest difference of a figure, as `TOLERANCE` measures it.
        circumstances: What of code, versions, processor, rows and weights is not as it was.
    """

    verdict: str
    first: str
    worst: float
    circumstances: tuple[str, ...]


def replay_config(folder: Path, overrides: Sequence[str], runs_dir: Path, *, report: bool = True) -> Config:
    """The configuration of a replay: the run's own, without trackers, in another folder.

    Args:
        folder: The unpacked archive.
        overrides: `key=value`, how it is carried out (`runtime`), and where things lie here (`says_where`).
        runs_dir: Folder for the new run.
        report: Write a report as the run did; False for a folder that nobody will see.

    Returns:
        The configuration.

    Raises:
        InputError: An override would make it another run.
    """
    for word in overrides:
        if not word.startswith("runtime.") and not says_where(word):
            raise InputError(
                "A replay runs what was run",
                got=word,
                expected=f"only runtime.*, {', '.join(PLACES)}, and where the files of devices and graph lie "
                "(devices.partition.path and the like)",
                change="`dfl-ray run` takes the bundle's config.yaml with any change.",
            )
    quiet = ["track=none", *override_texts({"runtime.runs_dir": runs_dir})]
    if not report and not any(word.startswith("runtime.report=") for word in overrides):
        quiet.append("runtime.report=false")
    with packages_named(folder):
        return load_config(folder / "config.yaml", [*quiet, *overrides])


def compare(was: Run, now: Run) -> Replayed:
    """Compare all records of two runs, some rounds at a time.

    Columns of the machine (wall times, actors) are left out.

    Args:
        was: The bundled run.
        now: The run that was made of it.

    Returns:
        The verdict.
    """
    first, worst, beyond = "", 0.0, False
    for name in TABLES:
        for span in _spans(was, now, name):
            pair = (comparable(run.table(name, rounds=span)) for run in (was, now))
            found, size, over = _compare_table(name, *pair)
            first, worst, beyond = first or found, max(worst, size), beyond or over
    if not was.partition.equals(now.partition):
        first, beyond = "partition: other rows on some device", True
    verdict = "equal" if not first else "different" if beyond else "close"
    return Replayed(verdict, first, worst, tuple(_circumstances(was.info, now.info)))


def _spans(was: Run, now: Run, name: str) -> Iterator[tuple[int, int]]:
    """Spans of rounds to compare a table by, with those that only one of the runs has."""
    yield from max(was, now, key=lambda run: run.last_round).blocks([name])


def _compare_table(name: str, was: pd.DataFrame, now: pd.DataFrame) -> tuple[str, float, bool]:
    """The first difference in words, the largest, and whether one is beyond the tolerance."""
    if len(was) != len(now):
        return f"{name}: {len(now):,} rows in place of {len(was):,}", np.inf, True
    places: list[tuple[int, str]] = []
    worst, beyond = 0.0, False
    for column in was.columns:
        x, y = was[column].to_numpy(), now[column].to_numpy()
        if x.dtype.kind != "f":
            unequal = ~((was[column] == now[column]) | (was[column].isna() & now[column].isna())).to_numpy(
                bool
            )
            size = np.where(unequal, np.inf, 0.0)
        else:
            unequal = ~((x == y) | (np.isnan(x) & np.isnan(y)))
            size = np.abs(np.nan_to_num(x) - np.nan_to_num(y)) / np.maximum(1.0, np.abs(np.nan_to_num(x)))
            # A figure that is there in one run only is as far off as can be.
            size = np.where(unequal, np.where(np.isnan(x) ^ np.isnan(y), np.inf, size), 0.0)
        if not unequal.any():
            continue
        place = int(np.argmax(unequal))
        round_text = f"round {was['round'].iloc[place]}, " if "round" in was else ""
        places.append((place, f"{name}: {round_text}{column}: {y[place]} in place of {x[place]}"))
        worst = max(worst, float(size.max()))
        beyond |= bool((size > _allowed(name, column, was)).any())
    return (min(places)[1] if places else ""), worst, beyond


def _allowed(name: str, column: str, table: pd.DataFrame) -> Any:
    if name == "evaluation" and column in ("accuracy", "routed_right"):
        return ROWS / table["rows"].to_numpy(float) + 1e-9
    return ROWS / 10 if column.startswith("accuracy_") else TOLERANCE


def _circumstances(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was, each in words."""
    told = [*_ends(was), *(f"the run was changed on its way: {change}" for change in was.get("changes", ()))]
    before, here = was.get(KEY, {}), now.get(KEY, {})
    for name in ("rows", "weights", "warm_start", *(["files"] if "files" in before else []), "code"):
        if before.get(name) != here.get(name):
            told.append(f"other {name}")
    old, new = was.get("versions", {}), now.get("versions", {})
    told += [f"{name} {new.get(name)} in place of {old[name]}" for name in old if old[name] != new.get(name)]
    for name in ("system", "machine", "cpus"):
        before, here = was.get("host", {}).get(name), now.get("host", {}).get(name)
        if before != here:
            told.append(f"{name} {here} in place of {before}")
    return told


def _ends(was: dict[str, Any]) -> Iterator[str]:
    """Ends of a run that it would not have in one go, as its `run.json` notes them, each in words."""
    alone = "is not done there when it is run in one go"
    ended, early = was.get("ended_after", []), was.get("early_ends", [])
    if ended:
        yield (
            f"the run ended after round {_listed(ended)} and was lengthened; what an end does (the last exchange, an "
            f"evaluation by all rules) {alone}"
        )
    if planned := [r for r in was.get("lengthened", []) if r not in ended]:
        yield f"the run was to end after round {_listed(planned)} and was given other `rounds` on its way"
    if early:
        yield (
            f"the run ended early, after round {_listed(early)}, and was gone on with; what such an end does (an "
            f"evaluation by all rules) {alone}"
        )
    if (last := was.get("ended_early_after")) is not None and "stopped_by" not in was:
        yield f"the run was ended after round {last} by its caller (`on_round_end`); run again it goes on"


def _listed(rounds: Sequence[int]) -> str:
    return ", ".join(map(str, rounds))
