"""Runs that belong together: those that differ in nothing but their seed, compared pair by pair of one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dfl_ray.records import Run
from dfl_ray.records.results import summary
from dfl_ray.views.accuracy import AXES, mean_curve, method_of
from dfl_ray.views.checked import Over
from dfl_ray.views.style import method_look

IGNORED = ("name", "seed", "runtime", "track", "checkpoint", "evaluate.every", "evaluate.rules")
"""Sections and keys of a configuration that change no result of a run's end but by chance."""

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Accuracies to which the cost is told."""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds.

    Attributes:
        label: The method, and what sets the group apart from others of the same method.
        method: Name of the method.
        runs: Its runs that are done, one a seed: those that means and differences are of.
        look: Number of its colour; see `style.method_look`.
        variant: Number among the groups of the same method, for line style and marker.
        repeats: Further runs of those seeds, which count nowhere: they are no independent samples.
        unfinished: Runs of other seeds that are not done, which count nowhere: their end is not that of the others.
    """

    label: str
    method: str
    runs: tuple[Run, ...]
    look: int
    variant: int
    repeats: tuple[Run, ...] = ()
    unfinished: tuple[Run, ...] = ()

    @property
    def drawn(self) -> tuple[Run, ...]:
        """Runs whose curves are drawn: those that are done, or where none is, the others."""
        return self.runs or self.unfinished

    @property
    def members(self) -> tuple[Run, ...]:
        """All its runs."""
        return (*self.runs, *self.unfinished, *self.repeats)

    @cached_property
    def summaries(self) -> tuple[dict[str, Any], ...]:
        """Final figures of each run, read when they are first asked for; see `records.results.summary`."""
        return tuple(summary(run) for run in self.runs)

    def values(self, key: str) -> list[float]:
        """Final figures of one kind, of the runs that have it."""
        return [float(found[key]) for found in self.summaries if found[key] is not None]


def find_groups(runs: Sequence[Run]) -> list[Group]:
    """Put runs together whose configurations differ in nothing but the seed and where they ran.

    Args:
        runs: The runs.

    Returns:
        Groups in the order in which their first runs are given. Of several runs of one seed the first that is done
        counts; runs that are not done count nowhere, and of them the one with the most rounds is named.
    """
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(flat_config(run).items())), []).append(run)
    members = list(found.values())
    varying = differing_keys([group[0] for group in members])
    siblings: dict[str, list[Run]] = {}
    for group in members:
        siblings.setdefault(method_of(group[0]), []).append(group[0])
    apart = {method: _varying_in(firsts, varying) for method, firsts in siblings.items()}
    seen = dict.fromkeys(siblings, 0)
    groups: list[Group] = []
    for group in members:
        method = method_of(group[0])
        alone = len(siblings[method]) == 1
        label = method if alone else f"{method} ({_told_apart(group[0], apart[method])})"
        variant = seen[method]
        seen[method] += 1
        best: dict[Any, Run] = {}
        for run in sorted(group, key=_whole, reverse=True):
            best.setdefault(run.config.get("seed"), run)
        of_seeds = tuple(run for run in group if best[run.config.get("seed")] is run)
        repeats = tuple(run for run in group if best[run.config.get("seed")] is not run)
        counted = tuple(run for run in of_seeds if run.info.get("state") == "done")
        unfinished = tuple(run for run in of_seeds if run.info.get("state") != "done")
        groups.append(Group(label, method, counted, method_look(method), variant, repeats, unfinished))
    return groups


def _whole(run: Run) -> tuple[bool, int]:
    """How whole a run is, to be compared: done, not ended by its caller on the way, and the rounds it has."""
    by_caller = "ended_early_after" in run.info and "stopped_by" not in run.info
    return run.info.get("state") == "done" and not by_caller, run.last_round


def left_out_lines(groups: Sequence[Group]) -> list[str]:
    """Say which runs do not count, since they are not done, or since another of their configuration and seed is there.

    Args:
        groups: The groups.

    Returns:
        A sentence a run.
    """
    unfinished = [
        f"Run {run.name} is not done and counts in no mean and no difference."
        for group in groups
        for run in group.unfinished
    ]
    of = {(group.label, run.config.get("seed")): run.name for group in groups for run in group.members[::-1]}
    return unfinished + [
        f"Run {run.name} is of the same configuration and seed as {of[group.label, run.config.get('seed')]} and does "
        "not count: repetitions of a seed are no independent samples."
        for group in groups
        for run in group.repeats
    ]


def _varying_in(runs: Sequence[Run], varying: Sequence[str]) -> list[str]:
    """Those of some dotted keys that differ between the configurations of runs."""
    configs = [flat_config(run) for run in runs]
    return [key for key in varying if len({str(config.get(key)) for config in configs}) > 1]


def _told_apart(run: Run, keys: Sequence[str]) -> str:
    """What sets a run apart from the others of its method, in a few words; its name where nothing short does."""
    told = ", ".join(f"{key.split('.')[-1]}={flat_config(run).get(key)}" for key in keys[:3])
    return told if keys and len(told) <= 60 else run.name


def flat_config(run: Run) -> dict[str, str]:
    """Give the configuration as dotted keys and texts, without what changes no result.

    Args:
        run: The run.

    Returns:
        Key -> value as text; made once a run, so that nobody may change it.
    """
    if "flat_config" not in run.sums:
        told = {key: value for key, value in _flat(run.config) if not _ignored(key)}
        run.sums["flat_config"] = told
    return run.sums["flat_config"]


def _ignored(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in IGNORED)


def _flat(section: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, str(value)


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Find what differs between the configurations of runs.

    Args:
        runs: The runs.

    Returns:
        Dotted keys, in the order of the first configuration that has them.
    """
    configs = [flat_config(run) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Give the mean of independent values and the half-width of its 95 % confidence interval.

    half-width = t_{0.975, n-1} · s / sqrt(n), s the sample standard deviation, by Student's t distribution.

    Args:
        values: n values, for example of one method's seeds.

    Returns:
        Mean and half-width, in the values' unit; the half-width is None for fewer than two values, the mean NaN for
        none.
    """
    if not values:
        return float("nan"), None
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, None
    from scipy.stats import t

    deviation = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return mean, float(t.ppf(0.975, len(values) - 1)) * deviation


def paired(one: Group, other: Group, key: str) -> list[float]:
    """Give the differences of a final figure between runs of the same seed.

    Args:
        one: A group.
        other: The group it is compared with.
        key: Key of `records.results.summary`.

    Returns:
        Value of `one` less that of `other`, one a seed that both have, in the order of `one`.
    """
    sides = [{found["seed"]: found[key] for found in g.summaries} for g in (one, other)]
    pairs = [(sides[0][seed], sides[1][seed]) for seed in sides[0] if seed in sides[1]]
    return [float(a) - float(b) for a, b in pairs if a is not None and b is not None]


@dataclass(frozen=True)
class Curve:
    """Mean accuracy of a group's runs against a cost.

    Attributes:
        x: (points,) cost, mean over runs.
        mean: (points,) accuracy, mean over runs.
        half: (points,) half-width of the 95 % interval; NaN where there is one run only.
    """

    x: np.ndarray
    mean: np.ndarray
    half: np.ndarray


def group_curve(group: Group, over: Over) -> Curve:
    """Average the accuracy curves of a group at the rounds that all its runs that are drawn evaluated.

    Args:
        group: The group.
        over: Which cost.

    Returns:
        The curve; empty where the runs share no evaluated round.
    """
    curves = [(dict(zip(mean_curve(run, "round")[0], zip(*mean_curve(run, over), strict=True), strict=True)))
              for run in group.drawn]  # fmt: skip
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    points = np.array([[curve[number] for number in shared] for curve in curves]).reshape(
        len(curves), len(shared), 2
    )
    spread = [interval(points[:, place, 1].tolist())[1] for place in range(len(shared))]
    half = np.array([np.nan if width is None else width for width in spread])
    return Curve(points[:, :, 0].mean(axis=0), points[:, :, 1].mean(axis=0), half)


def cost_to_target(run: Run, target: float) -> dict[Over, float] | None:
    """Give what a run had spent when its mean accuracy first was at least a target.

    Args:
        run: The run.
        target: Accuracy, a share in [0, 1].

    Returns:
        Cost of each kind at that evaluation; None where the target was not reached.
    """
    reached = next((place for place, y in enumerate(mean_curve(run, "round")[1]) if y >= target), None)
    if reached is None:
        return None
    return {over: mean_curve(run, over)[0][reached] for over in AXES}


def targets_worth_telling(groups: Sequence[Group]) -> list[float]:
    """Choose accuracies that at least one run reached and none had before tuning.

    Args:
        groups: The groups.

    Returns:
        At most three of `TARGETS`, the highest ones.
    """
    finals = [value for group in groups for value in group.values("accuracy_mean")]
    before = [value for group in groups for value in group.values("accuracy_before")]
    fit = [t for t in TARGETS if t <= max(finals, default=0) and t > max(before, default=0)]
    return fit[-3:]


def spread_text(values: Sequence[float], write: Callable[[float], str]) -> str:
    """Write a mean and its interval.

    Args:
        values: The values.
        write: Writes one number with its unit.

    Returns:
        `mean ± half-width`, the mean alone for one value, a dash for none.
    """
    mean, half = interval(values)
    if not values:
        return "–"
    return write(mean) if half is None else f"{write(mean)} ± {write(half)}"
