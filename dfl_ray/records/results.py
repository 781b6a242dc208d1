"""What a run came to: accuracy per task by the method's rule, and its cost on air."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dfl_ray.records.loading import Run


def method_rule(run: Run, evaluation: pd.DataFrame | None = None) -> str | None:
    """The inference rule whose accuracy counts as the method's.

    It is `method.rule` of the config when there is one and rows speak of it; else the rule of the regular
    evaluations, that is, the one seen in most rounds (the closing comparison of rules is one round only).
    """
    rows = run.evaluation if evaluation is None else evaluation
    tuned = rows[rows["round"] > 0]
    rules = list(dict.fromkeys(tuned["rule"]))
    wanted = run.config.get("method", {}).get("rule")
    if wanted in rules:
        return str(wanted)
    rounds = tuned.groupby("rule")["round"].nunique()
    return max(rules, key=lambda rule: int(rounds[rule])) if rules else None


def method_evaluation(run: Run) -> pd.DataFrame:
    """Evaluation rows by the method's rule, all rounds; of round 0 by any when it is not there."""
    rows = run.evaluation
    rule = method_rule(run, rows)
    before = rows[rows["round"] == 0]
    same = before[before["rule"] == rule]
    first = same if len(same) else before[before["rule"] == before["rule"].iloc[0]] if len(before) else before
    return pd.concat([first, rows[(rows["round"] > 0) & (rows["rule"] == rule)]])


def last_evaluation(run: Run) -> pd.DataFrame:
    """Rows of the last evaluation by the method's rule; no rows when nothing was evaluated after round 0."""
    rows = method_evaluation(run)
    rows = rows[rows["round"] > 0]
    return rows[rows["round"] == rows["round"].max()] if len(rows) else rows


def holders(run: Run) -> set[tuple[int, str]]:
    """Pairs (device, task) of the tasks each device holds, from the topology or else the devices table."""
    nodes = run.topology_nodes
    if not len(nodes):
        nodes = run.table("devices", columns=["round", "device", "tasks"])
    nodes = nodes[nodes["round"] == nodes["round"].max()]
    return {
        (int(device), task)
        for device, tasks in zip(nodes["device"], nodes["tasks"].fillna(""), strict=True)
        for task in tasks.split(",")
        if task
    }


@dataclass(frozen=True)
class TaskLine:
    """Accuracy of one task; None where it was not measured.

    Attributes:
        task: Its name.
        accuracy: Mean over all devices, by the method's rule.
        holders_accuracy: Mean over the devices that hold the task.
        before: Mean over all devices before tuning.
        chance: Accuracy of guessing.
        score: How answers are scored, `choice` (label likelihood) or `exact_match`; None where it is not recorded.
    """

    task: str
    accuracy: float
    holders_accuracy: float | None
    before: float | None
    chance: float | None
    score: str | None = None


def task_lines(run: Run) -> list[TaskLine]:
    """Accuracy of every task at the last evaluation, in the order in which they were recorded."""
    rows = last_evaluation(run)
    every = method_evaluation(run)
    before = every[every["round"] == 0].groupby("task")["accuracy"].mean()
    held = holders(run) if len(rows) else set()
    own = [(int(d), t) in held for d, t in zip(rows["device"], rows["task"], strict=True)]
    own_mean = rows[pd.Series(own, index=rows.index, dtype=bool)].groupby("task")["accuracy"].mean()
    chance = rows.groupby("task")["chance"].mean()
    means = rows.groupby("task", sort=False)["accuracy"].mean()
    scores = run.info.get("scores", {})
    return [
        TaskLine(
            str(task),
            float(mean),
            _at(own_mean, task),
            _at(before, task),
            _at(chance, task),
            scores.get(task, {}).get("score"),
        )
        for task, mean in means.items()
    ]


def _at(values: pd.Series, key: Any) -> float | None:
    value = values.get(key)
    return None if value is None or pd.isna(value) else float(value)


SCORE_WORDS = {"choice": "likelihood", "exact_match": "exact match", None: "–"}
"""What a table says of a task's score."""


def summary(run: Run) -> dict[str, Any]:
    """Final figures of a run, ready for JSON: accuracy, cost on air, time, state.

    Returns:
        Keys `name`, `method`, `seed`, `state`, `rounds`, `rule`, `accuracy_mean`, `accuracy_worst_task`,
        `accuracy_before`, `accuracy_by_task`, `holders_accuracy_by_task`, `payload_bytes`, `airtime_s`,
        `energy_j`, `simulated_s`, `delivered_fraction`, `wall_s`, `transfers`, `lost`, `refused`,
        `rules` (mean accuracy of every rule at the last evaluated round) and `inside_nodes_fraction`. What was not
        measured is None.
    """
    rounds, lines = run.rounds, task_lines(run)
    weights = rounds["transfers"].fillna(1)
    return {
        "name": run.name,
        "method": run.config.get("method", {}).get("type"),
        "seed": run.config.get("seed"),
        "state": run.info.get("state"),
        "rounds": run.last_round,
        "rule": method_rule(run),
        "accuracy_mean": mean_of([line.accuracy for line in lines]),
        "accuracy_worst_task": min((line.accuracy for line in lines), default=None),
        "accuracy_before": mean_of([line.before for line in lines]),
        "accuracy_by_task": {line.task: line.accuracy for line in lines},
        "holders_accuracy_by_task": {line.task: line.holders_accuracy for line in lines},
        "payload_bytes": int(rounds["payload_bytes"].sum()),
        "airtime_s": float(rounds["airtime_s"].sum()),
        "energy_j": float(rounds["energy_j"].sum()),
        "simulated_s": float(rounds["simulated_s"].max()) if len(rounds) else 0.0,
        "delivered_fraction": _weighted(rounds["delivered_fraction"], weights),
        "wall_s": float(rounds["wall_s"].sum()),
        "transfers": int(rounds["transfers"].sum()),
        "lost": int(rounds["lost"].sum()),
        "refused": int(rounds["refused"].sum()),
        "rules": rule_means(run),
        "inside_nodes_fraction": inside_nodes(run),
    }


def inside_nodes(run: Run) -> float | None:
    """Share of the delivered message bytes whose sender and receiver lay on one node; None when nothing is known."""
    rounds = run.rounds
    if "node_crossing_bytes" not in rounds or not (total := float(rounds["message_bytes"].sum())):
        return None
    return 1.0 - float(rounds["node_crossing_bytes"].sum()) / total


def rule_means(run: Run) -> dict[str, float]:
    """Mean accuracy over devices and tasks of every rule measured at the last evaluated round."""
    rows = run.evaluation
    rows = rows[rows["round"] > 0]
    last = rows[rows["round"] == rows["round"].max()] if len(rows) else rows
    by_task = last.groupby(["rule", "task"], sort=False)["accuracy"].mean()
    return {str(rule): float(mean) for rule, mean in by_task.groupby(level=0, sort=False).mean().items()}


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are known; None when none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _weighted(values: pd.Series, weights: pd.Series) -> float | None:
    known = values.notna() & (weights > 0)
    total = float(weights[known].sum())
    return float((values[known] * weights[known]).sum()) / total if total else None


def share(value: float | None) -> str:
    """A share in [0, 1] as a percentage with one decimal; a dash for None and NaN."""
    return "–" if value is None or value != value else f"{100 * value:.1f} %"


def size(count: float) -> str:
    """A number of bytes in decimal units, three significant digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
