"""Comparing methods over seeds: accuracy at equal rounds, bytes and airtime, paired differences, cost of a target.

Everything here is a function of finished runs; `benchmarks.methods` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

AXES = ("payload_bytes", "airtime_s", "radio_energy_j")
STATE = ("interference_gap", "collision_b", "collision_delta_w", "consensus_distance", "spectral_gap",
         "replica_staleness_rounds")  # fmt: skip
"""Figures of the last evaluation that some methods have and others lack (NaN)."""

FRACTIONS = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Curve:
    """What one run came to, and how it got there.

    Attributes:
        label: Method and settings.
        seed: Seed of the run.
        points: One row an evaluation, the bare base model first: `round`, the cumulative `AXES`, `energy_j` (radio and
            computing) and `simulated_s`, `accuracy` (mean over devices and tasks by the method's rule), `worst_task`.
        figures: Final figures by name.
        rules: Inference rule -> final accuracy.
        tasks: Task -> final accuracy by the method's rule, mean over devices.
        base_tasks: Task -> accuracy of the bare base model.
    """

    label: str
    seed: int
    points: pd.DataFrame
    figures: Mapping[str, float]
    rules: Mapping[str, float]
    tasks: Mapping[str, float] = field(default_factory=dict)
    base_tasks: Mapping[str, float] = field(default_factory=dict)

    def at(self, axis: str, budget: float) -> float:
        """Accuracy when so much of an axis is spent: linear between evaluations, the last one beyond the end."""
        return float(np.interp(budget, self.points[axis], self.points["accuracy"]))

    def total(self, axis: str) -> float:
        """What the whole run spent on an axis."""
        return float(self.points[axis].iloc[-1])

    def cost_of(self, axis: str, accuracy: float) -> float:
        """What is spent when an accuracy is first reached, linear between evaluations; inf if it never is."""
        reached = np.flatnonzero(self.points["accuracy"].to_numpy() >= accuracy)
        if not len(reached):
            return float("inf")
        k = int(reached[0])
        if k == 0:
            return 0.0
        ends = self.points.iloc[k - 1 : k + 1]
        return float(np.interp(accuracy, ends["accuracy"], ends[axis]))


def curve_of(path: Path, label: str) -> Curve:
    """Read a finished run.

    Args:
        path: The run folder.
        label: What to call it.
    """
    from dfl_ray.records import load_run
    from dfl_ray.records.results import holders, last_evaluation

    run = load_run(path)
    rounds = run.rounds.sort_values("round")
    before = run.evaluation[run.evaluation["round"] == 0]
    points = _points(rounds, before)
    last = last_evaluation(run)
    own = holders(run)
    held = [(d, t) in own for d, t in zip(last["device"], last["task"], strict=True)]
    final = run.evaluation[run.evaluation["round"] == rounds["round"].max()]
    routed = last["routed_right"].dropna()
    figures = _totals(rounds) | {
        "accuracy": float(points["accuracy"].iloc[-1]),
        "worst_task": float(points["worst_task"].iloc[-1]),
        "own_tasks": float(last.loc[held, "accuracy"].mean()),
        "foreign_tasks": float(last.loc[~np.asarray(held), "accuracy"].mean()),
        "forgetting": float(rounds["forgetting_mean"].dropna().iloc[-1]),
        "routed_right": float(routed.mean()) if len(routed) else float("nan"),
        "tasks": float(last["task"].nunique()),
        **{f: float(rounds[f].dropna().iloc[-1]) if rounds[f].notna().any() else float("nan") for f in STATE},
    }
    rules, tasks, base = (
        dict(table.groupby(by)["accuracy"].mean())
        for table, by in ((final, "rule"), (last, "task"), (before, "task"))
    )
    return Curve(label, int(run.config["seed"]), points, figures, rules, tasks, base)


def _points(rounds: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Cumulative costs and accuracy at every evaluation; `before` holds the bare base model's."""
    spent = rounds[["round", *AXES, "energy_j", "simulated_s"]].copy()
    spent[[*AXES, "energy_j"]] = spent[[*AXES, "energy_j"]].cumsum()
    measured = rounds.loc[rounds["accuracy_mean"].notna(), ["round", "accuracy_mean", "accuracy_worst_task"]]
    first = {
        "round": 0,
        **dict.fromkeys((*AXES, "energy_j", "simulated_s"), 0.0),
        "accuracy_mean": float(before["accuracy"].mean()),
        "accuracy_worst_task": float(before.groupby("task")["accuracy"].mean().min()),
    }
    points = pd.concat([pd.DataFrame([first]), spent.merge(measured, on="round")], ignore_index=True)
    return points.rename(columns={"accuracy_mean": "accuracy", "accuracy_worst_task": "worst_task"})


def _totals(rounds: pd.DataFrame) -> dict[str, float]:
    wanted = float(rounds["transfers"].sum())
    columns = (*AXES, "compute_energy_j", "energy_j", "wall_s")
    delivered = float(rounds["delivered"].sum()) / wanted if wanted else float("nan")
    return {**{c: float(rounds[c].sum()) for c in columns}, "delivered": delivered}


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % confidence half-width (Student's t; NaN for one seed)."""

    mean: float
    half_width: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Mean and half-width t_{0.975, n-1} s / sqrt(n); of infinite or missing values only the mean is kept."""
        x = np.asarray(values, float)
        if len(x) < 2 or not np.isfinite(x).all():
            return cls(float(x.mean()) if len(x) else float("nan"), float("nan"), len(x))
        half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
        return cls(float(x.mean()), float(half), len(x))

    def text(self, scale: float = 1.0, digits: int = 1) -> str:
        """E.g. `83.1 ± 1.2`; the half-width is left out where there is none."""
        if np.isnan(self.mean):
            return "–"
        mean = f"{self.mean * scale:.{digits}f}"
        return mean if np.isnan(self.half_width) else f"{mean} ± {self.half_width * scale:.{digits}f}"


def over_bytes(runs: Mapping[int, Curve]) -> tuple[list[float], list[Interval]]:
    """Mean MB sent and accuracy at every evaluation, the base model left out.

    A run that has ended before others keeps its last values; rounds before the latest first evaluation are left out.
    """
    points = [c.points[c.points["round"] > 0].set_index("round") for c in runs.values()]
    rounds = sorted({r for p in points for r in p.index if r >= max(q.index[0] for q in points)})
    kept = [p.reindex(p.index.union(rounds)).ffill().loc[rounds] for p in points]
    spent = np.mean([p["payload_bytes"].to_numpy(float) for p in kept], axis=0) / 1e6
    accuracy = np.array([p["accuracy"].to_numpy(float) for p in kept]).T
    return spent.tolist(), [Interval.of(list(a)) for a in accuracy]


Curves = Mapping[str, Mapping[int, Curve]]
"""Label -> seed -> curve."""


def over_seeds(curves: Curves, value: Callable[[Curve], float]) -> dict[str, Interval]:
    """One figure of every method, over its seeds."""
    return {label: Interval.of([value(c) for c in runs.values()]) for label, runs in curves.items()}


def paired(curves: Curves, ours: str, value: Callable[[Curve], float]) -> dict[str, Interval]:
    """Ours minus theirs on the seeds both have."""
    out: dict[str, Interval] = {}
    for label, runs in curves.items():
        seeds = sorted(set(runs) & set(curves[ours]))
        if label != ours:
            out[label] = Interval.of([value(curves[ours][s]) - value(runs[s]) for s in seeds])
    return out


def common_budget(curves: Curves, axis: str) -> dict[int, float]:
    """Seed -> the smallest total of an axis over the methods that spend any of it."""
    seeds = sorted({s for runs in curves.values() for s in runs})
    totals = {s: [runs[s].total(axis) for runs in curves.values() if s in runs] for s in seeds}
    return {s: min((t for t in ts if t > 0), default=0.0) for s, ts in totals.items()}


def at_equal(curves: Curves, axis: str, reference: str) -> dict[str, dict[str, Interval]]:
    """Accuracy of every method at equal spending: the smallest common budget, and shares of the reference's total.

    A method that has spent its all keeps its last accuracy, so one that sends nothing has the same everywhere.

    Args:
        curves: All runs.
        axis: One of `AXES`.
        reference: The method whose total the shares are of.

    Returns:
        Column (`common`, `1%`, ...) -> label -> accuracy.
    """
    budgets = {"common": common_budget(curves, axis)}
    for share in FRACTIONS:
        budgets[f"{share:.0%}"] = {s: share * c.total(axis) for s, c in curves[reference].items()}
    return {
        column: {
            label: Interval.of([c.at(axis, budget[s]) for s, c in runs.items() if s in budget])
            for label, runs in curves.items()
        }
        for column, budget in budgets.items()
    }


def share_to_reach(curves: Curves, reference: str, axis: str) -> dict[str, Interval]:
    """What a method spends until it has the reference's final accuracy, as a share of the reference's total."""
    target = curves[reference]
    out: dict[str, Interval] = {}
    for label, runs in curves.items():
        shared = [s for s in runs if s in target and target[s].total(axis) > 0]
        out[label] = Interval.of(
            [runs[s].cost_of(axis, target[s].figures["accuracy"]) / target[s].total(axis) for s in shared]
        )
    return out


def headline(curves: Curves, ours: str, reference: str) -> dict[str, Any]:
    """The project's bar: >= 10 points over the reference at <= 10 % of its cost; its accuracy at <= 3 % of its bytes.

    Energy is the radio's: computing costs both methods the same. The total's share is given beside it.
    """
    gain = paired(curves, ours, lambda c: c.figures["accuracy"])[reference]
    seeds = sorted(set(curves[ours]) & set(curves[reference]))
    shares = {
        axis: Interval.of([curves[ours][s].figures[axis] / curves[reference][s].figures[axis] for s in seeds])
        for axis in (*AXES, "energy_j")
    }
    reach = share_to_reach({ours: curves[ours], reference: curves[reference]}, reference, "payload_bytes")[
        ours
    ]
    met = {
        "ten_points_better": gain.mean >= 0.10,
        **{f"a_tenth_of_{axis}": shares[axis].mean <= 0.10 for axis in AXES},
        "its_accuracy_at_3_percent_of_its_bytes": reach.mean <= 0.03,
    }
    return {
        "ours": ours,
        "reference": reference,
        "accuracy_gain": plain(gain),
        "share_of_reference": {axis: plain(i) for axis, i in shares.items()},
        "bytes_share_to_reach_reference": plain(reach),
        "met": {name: bool(value) for name, value in met.items()},
    }


def plain(value: Any) -> Any:
    """JSON-able: intervals as [mean, half-width], NaN and infinity as null, and so on down."""
    if isinstance(value, Interval):
        return [plain(value.mean), plain(value.half_width)]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
