"""A sweep as a list of runs: every point of a grid for every seed, and what they came to, seed by seed."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dfl_ray.config.overrides import parse_override
from dfl_ray.errors import InputError
from dfl_ray.records.words import share

LONGEST = 116
"""Letters of a point in the name of its run folders; of longer ones the end is cut."""
DIGITS = 8
"""Hexadecimal digits, in place of the cut end, of the SHA-256 of the whole point."""

_ONE_RAY = "one Ray serves all runs of a sweep"
OF_THE_SWEEP = {
    "name": "it names the sweep, whose runs are named after point and seed",
    "track": "it says who follows the runs, and changes no result",
    "runtime.runs_dir": "all runs of a sweep lie in its folder",
    "runtime.backend": "every run of a sweep is one process, and no result depends on it",
    "runtime.address": _ONE_RAY,
    "runtime.object_store_mb": _ONE_RAY,
    "runtime.ray_dashboard": _ONE_RAY,
}
"""Keys and sections that all runs of a sweep share, and why."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        point: The values of the swept keys, as overrides; the same for all seeds of a point.
        seed: The run's seed.
        name: Name of its run folder inside the sweep's.
    """

    point: tuple[str, ...]
    seed: int
    name: str


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]], dict[str, int]]:
    """Tell overrides of all runs from swept keys and from the sweep's own words.

    `key=a,b,c` is swept: commas inside brackets, braces and quotes belong to a value. `seeds=N` and `samples=N` are the
    sweep's own.

    Args:
        words: Texts `key=value`.

    Returns:
        Overrides of all runs; key -> values; `seeds` and `samples` as far as given.

    Raises:
        InputError: `seeds` or `samples` is no whole number from 1, a value is named twice, seeds in two ways, or a key
            is swept that all runs share.
    """
    fixed: list[str] = []
    grid: dict[str, list[str]] = {}
    own: dict[str, int] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in ("seeds", "samples"):
            if not value.isdecimal() or int(value) < 1:
                raise InputError(f"`{key}` has a wrong value", got=value, expected="a whole number from 1")
            own[key] = int(value)
            continue
        values = _values(value)
        if len(values) > 1:
            _refuse_shared(key.strip(), word)
        if len(set(values)) < len(values):
            raise InputError(f"`{key}` names a value twice", got=word, change="Name each value once.")
        if len(values) > 1:
            grid[key] = values
        else:
            fixed.append(word)
    if "seed" in grid and "seeds" in own:
        raise InputError(
            "`seed` and `seeds` both say which seeds are run",
            got=f"seed={','.join(grid['seed'])} and seeds={own['seeds']}",
            change="Leave one of them out.",
        )
    return fixed, grid, own


def _refuse_shared(key: str, word: str) -> None:
    why = next((why for name, why in OF_THE_SWEEP.items() if key == name or key.startswith(f"{name}.")), None)
    if why is not None:
        raise InputError(
            f"`{key}` cannot be swept, since {why}",
            got=word,
            expected="one value",
            change="Give one; a list is written in brackets, and a text with a comma in quotes.",
        )


def _values(text: str) -> list[str]:
    """Split at the commas that stand in no brackets, braces or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def make_trials(
    grid: Mapping[str, Sequence[str]], *, seeds: int = 1, samples: int | None = None, first_seed: int = 0
) -> list[Trial]:
    """List the runs of a sweep.

    Args:
        grid: Swept key -> values. A swept `seed` takes the place of `seeds`.
        seeds: Runs of each point, with seeds from `first_seed` on.
        samples: So many points drawn without replacement instead of all; the draw is always the same.
        first_seed: The first seed.

    Returns:
        The runs, all seeds of a point together.

    Raises:
        InputError: Nothing is swept, or a seed is no whole number.
    """
    wanted = [str(first_seed + k) for k in range(seeds)] if "seed" not in grid else list(grid["seed"])
    keys = [key for key in grid if key != "seed"]
    points = [
        tuple(f"{k}={v}" for k, v in zip(keys, p, strict=True)) for p in product(*(grid[k] for k in keys))
    ]
    if len(points) * len(wanted) < 2:
        raise InputError(
            "Nothing is swept", expected="key=a,b,c or seeds=N", change="`dfl-ray run` makes one run."
        )
    if not all(seed.isdecimal() for seed in wanted):
        raise InputError("`seed` has a wrong value", got=",".join(wanted), expected="whole numbers")
    if samples is not None and samples < len(points):
        chosen = np.sort(np.random.default_rng(first_seed).choice(len(points), samples, replace=False))
        points = [points[i] for i in chosen.tolist()]
    return [Trial(p, int(seed), _name(i, p, seed)) for i, p in enumerate(points) for seed in wanted]


def _name(index: int, point: Sequence[str], seed: str) -> str:
    """Name a run's folder: what was cut off a long point is told by a digest, and the seed is never cut."""
    said = _letters("-".join(word.rsplit(".", 1)[-1] for word in point))
    if len(said) > LONGEST:
        digest = hashlib.sha256("\0".join(point).encode()).hexdigest()[:DIGITS]
        said = f"{said[: LONGEST - DIGITS - 1]}-{digest}"
    return "-".join([f"{index:03d}", *([said] if said else []), f"s{seed}"])


def of_same_words(names: Iterable[str], trial: Trial) -> list[str]:
    """Names of run folders with the point and the seed of a trial, whatever their numbers.

    A grid of other points numbers them otherwise. Different words may give one name: whether it is the same experiment
    is for its configuration to say.

    Args:
        names: The folders of a sweep.
        trial: The trial.

    Returns:
        Those of its words, its own name first.
    """
    words = trial.name.partition("-")[2]
    found = [name for name in sorted(names) if re.fullmatch(rf"\d{{3,}}-{re.escape(words)}", name)]
    return sorted(found, key=lambda name: name != trial.name)


def point_lines(trials: Sequence[Trial]) -> list[str]:
    """What a sweep runs, in words, for its beginning.

    Args:
        trials: Its runs, at least one.

    Returns:
        How many points and seeds there are; the values of each swept key, and of those that are bare text with blanks
        how one text with a comma is written.
    """
    points, seeds = ({getattr(t, name): None for t in trials} for name in ("point", "seed"))
    values: dict[str, dict[str, None]] = {}
    for key, _, value in (word.partition("=") for point in points for word in point):
        values.setdefault(key, {})[value] = None
    many = f"{len(points)} point{'s' * (len(points) > 1)}"
    lines = [f"{many}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"]
    for key, of in values.items():
        lines.append(f"{key}: {len(of)} values: {', '.join(f'`{value}`' for value in of)}")
        if any(_is_bare_text(key, value) for value in of):
            whole = json.dumps(",".join(of), ensure_ascii=False)
            lines[-1] += f". One text with commas is written in quotes: {shlex.quote(f'{key}={whole}')}"
    return lines


def _is_bare_text(key: str, value: str) -> bool:
    """Whether a value is text of several words without quotes, which a comma may have cut."""
    return (
        " " in value
        and value.strip()[:1] not in ("'", '"')
        and isinstance(parse_override(f"{key}={value}")[1], str)
    )


def _letters(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=+-]+", "_", text)


def summary_rows(trials: Sequence[Trial], found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each point came to, with 95 % intervals over seeds, and its difference from the first point seed by seed.

    Both points of a pair share the seed, and with it data, graph and radio, so the interval is that of the differences
    (Student's t).

    Args:
        trials: All runs.
        found: Name of a run -> its summary, for those that are done.

    Returns:
        One row a point: `point`, `runs`, `accuracy`, `interval`, `difference` from the first point, its
        `difference_interval`, `payload_bytes` and `energy_j`; None where there is nothing to say.
    """
    from dfl_ray.views.groups import interval

    points = list(dict.fromkeys(trial.point for trial in trials))
    by_seed = {p: {t.seed: found[t.name] for t in trials if t.point == p and t.name in found} for p in points}
    rows: list[dict[str, Any]] = []
    for point in points:
        mine, first = by_seed[point], by_seed[points[0]]
        row: dict[str, Any] = {"point": " ".join(point) or "all", "runs": len(mine)}
        accuracies = [f["accuracy_mean"] for f in mine.values() if f["accuracy_mean"] is not None]
        row["accuracy"], row["interval"] = interval(accuracies) if accuracies else (None, None)
        pairs = [(mine[s]["accuracy_mean"], first[s]["accuracy_mean"]) for s in mine if s in first]
        paired = [a - b for a, b in pairs if a is not None and b is not None]
        told = point != points[0] and bool(paired)
        row["difference"], row["difference_interval"] = interval(paired) if told else (None, None)
        for name in ("payload_bytes", "energy_j"):
            row[name] = float(np.mean([f[name] for f in mine.values()])) if mine else None
        rows.append(row)
    return rows


def summary_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows in words, for a terminal.

    Args:
        rows: One a point, at least one: its name, runs, accuracy and difference as shares, each with the half width of
            its interval or None.

    Returns:
        One line a point; accuracies in percent, differences in percentage points.
    """
    width = max(len(row["point"]) for row in rows) + 2
    lines: list[str] = []
    for row in rows:
        text = f"{row['point'].ljust(width)}{row['runs']} runs, {share(row['accuracy'])}"
        if row["interval"] is not None:
            text += f" ± {100 * row['interval']:.1f}"
        if row["difference"] is not None:
            text += f", {100 * row['difference']:+.1f}"
            if row["difference_interval"] is not None:
                text += f" ± {100 * row['difference_interval']:.1f}"
            text += " points from the first"
        lines.append(text)
    return lines


def is_done(folder: Path, rounds: int) -> bool:
    """Whether a run of a sweep is done and has all rounds that are wanted.

    Args:
        folder: Its run folder, which need not be there.
        rounds: The rounds.
    """
    from dfl_ray.records.info import read_info
    from dfl_ray.simulation.resuming import own_config

    if not (folder / "run.json").is_file() or read_info(folder / "run.json").get("state") != "done":
        return False
    return own_config(folder).rounds >= rounds


def done_summaries(folder: Path, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Summaries of the runs of a sweep that are done.

    Args:
        folder: The sweep's folder.
        trials: Its runs.

    Returns:
        Name -> `dfl_ray.records.results.summary`.
    """
    from dfl_ray.records import load_run
    from dfl_ray.records.results import summary

    # One after the other: each run keeps the tables that its summary is made from.
    runs = (load_run(folder / t.name) for t in trials if (folder / t.name / "run.json").is_file())
    return {run.path.name: summary(run) for run in runs if run.info["state"] == "done"}
