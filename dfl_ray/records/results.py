"""What a run came to: accuracy per task by the method's rule, and its cost on air."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from dfl_ray.records.loading import Run
from dfl_ray.records.schema import CONTROL_COLUMNS

Sum = TypeVar("Sum")


def _once(make: Callable[[Run], Sum]) -> Callable[[Run], Sum]:
    """Have a run's sum made once: its tables are those of the moment when it was opened. Nobody may change the sum."""

    @wraps(make)
    def kept(run: Run) -> Sum:
        if make.__name__ not in run.sums:
            run.sums[make.__name__] = make(run)
        return run.sums[make.__name__]

    return kept


@_once
def method_rule(run: Run) -> str | None:
    """The inference rule whose accuracy counts as the method's.

    It is `method.rule` of the config when there is one and rows speak of it; else the rule of the regular
    evaluations, that is, the one seen in most rounds (the closing comparison of rules is one round only).

    Args:
        run: The run.

    Returns:
        Name of the rule; None when nothing was evaluated after round 0.
    """
    rows = run.accuracy_means
    tuned = rows[rows["round"] > 0]
    rules = list(dict.fromkeys(tuned["rule"]))
    wanted = run.config.get("method", {}).get("rule")
    if wanted in rules:
        return str(wanted)
    rounds = tuned.groupby("rule")["round"].nunique()
    return max(rules, key=lambda rule: int(rounds[rule])) if rules else None


@_once
def method_means(run: Run) -> pd.DataFrame:
    """Mean accuracy over devices of each task and evaluated round, by the method's rule.

    Args:
        run: The run.

    Returns:
        Rows of `Run.accuracy_means`; those of round 0 by the first rule recorded there when the method's is not among
        them.
    """
    rows = run.accuracy_means
    rule = method_rule(run)
    before = rows[rows["round"] == 0]
    same = before[before["rule"] == rule]
    first = same if len(same) else before[before["rule"] == before["rule"].iloc[0]] if len(before) else before
    return pd.concat([first, rows[(rows["round"] > 0) & (rows["rule"] == rule)]])


def last_evaluation(run: Run) -> pd.DataFrame:
    """Pick the rows of the last evaluation by the method's rule.

    Args:
        run: The run.

    Returns:
        Rows of `evaluation`; none when nothing was evaluated after round 0.
    """
    means = method_means(run)
    last = int(means["round"].max()) if len(means) else 0
    rows = run.table("evaluation", rounds=(last, last))
    # Nothing was tuned in round 0.
    return rows[(rows["rule"] == method_rule(run)) & (rows["round"] > 0)]


def accuracy_round(run: Run) -> int | None:
    """The round after which the accuracies were measured that a run is summed up by; None where none was."""
    return int(max(method_means(run)["round"], default=0)) or None


def evaluated_words(run: Run) -> str:
    """Say of which round the accuracies of a run are, where they are not of its last: beside figures of all rounds.

    Args:
        run: The run, complete or not.

    Returns:
        ` after round 4 of 5`, to go behind a title; empty where the last round was evaluated, or none.
    """
    last = accuracy_round(run) or 0
    return f" after round {last} of {run.last_round}" if 0 < last < run.last_round else ""


def holders(run: Run) -> set[tuple[int, str]]:
    """Find which device holds which task, from the last topology or else the devices table.

    Args:
        run: The run.

    Returns:
        Pairs (device, task).
    """
    last = run.last_round
    nodes = run.nodes_at(last)
    if not len(nodes):
        nodes = run.table("devices", columns=["device", "tasks"], rounds=(last, last))
    return {
        (int(device), task)
        for device, tasks in zip(nodes["device"].tolist(), nodes["tasks"].fillna("").tolist(), strict=True)
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


@_once
def task_lines(run: Run) -> list[TaskLine]:
    """Sum up the accuracy of every task at the last evaluation.

    Args:
        run: The run.

    Returns:
        One line a task, in the order in which they were recorded; none when nothing was evaluated after round 0.
    """
    rows = last_evaluation(run)
    every = method_means(run)
    before = every[every["round"] == 0].set_index("task")["accuracy"]
    held = holders(run) if len(rows) else set()
    # Lists first: to go through a column of Arrow texts one by one takes ten times as long.
    own = [pair in held for pair in zip(rows["device"].tolist(), rows["task"].tolist(), strict=True)]
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


SCORE_WORDS = {
    "choice": "likelihood",
    "exact_match": "exact match",
    "generated_match": "generated",
    "f1": "F1",
    "rouge_l": "ROUGE-L",
    None: "–",
}
"""What a table says of a task's score."""


def summary(run: Run) -> dict[str, Any]:
    """Final figures of a run, ready for JSON: accuracy, cost on air, time, state.

    Bytes, airtime, energy and wall time are sums over rounds; `delivered_fraction` is weighted by the transfers of
    each round.

    Args:
        run: The run, complete or not.

    Returns:
        Keys `name`, `method`, `seed`, `state`, `rounds`, `rule`, `accuracy_round` (when the accuracies were measured),
        `accuracy_mean`, `accuracy_worst_task`, `accuracy_before`, `accuracy_by_task`, `holders_accuracy_by_task`,
        `payload_bytes`, `airtime_s`, `energy_j`, `simulated_s`, `delivered_fraction`, `wall_s`, `transfers`, `lost`,
        `refused`, those of `schema.CONTROL_COLUMNS` where control was charged, `rules` (mean accuracy of every rule at
        the last evaluated round) and `inside_nodes_fraction`. What was not measured is None.
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
        "accuracy_round": accuracy_round(run),
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
        **{n: float(rounds[n].sum()) for n in CONTROL_COLUMNS if rounds[n].notna().any()},
        "rules": rule_means(run),
        "inside_nodes_fraction": inside_nodes(run),
    }


def inside_nodes(run: Run) -> float | None:
    """Share of the delivered message bytes whose sender and receiver lay on one node.

    1 - sum of `node_crossing_bytes` / sum of `message_bytes`, over all rounds.

    Args:
        run: The run.

    Returns:
        The share in [0, 1]; None when nothing was delivered.
    """
    rounds = run.rounds
    total = float(rounds["message_bytes"].sum())
    if not total:
        return None
    return 1.0 - float(rounds["node_crossing_bytes"].sum()) / total


def receptions(run: Run, columns: Sequence[str], rounds: tuple[int, int] | None = None) -> pd.DataFrame:
    """Read some columns of what the radio did: one row an attempt and receiver.

    Runs of schema version 1 kept no attempts; of those the last attempt of each transfer stands for all of its own.

    Args:
        run: The run.
        columns: Columns of `attempts` that `transfers` has too, or `decoded`.
        rounds: First and last round wanted; none = all.

    Returns:
        The rows, those without any signal (SINR null or minus infinity) left out.
    """
    wanted = list(dict.fromkeys([*columns, "sinr_db"]))
    rows = run.table("attempts", columns=wanted, rounds=rounds)
    if not len(rows):
        older = ["delivered" if name == "decoded" else name for name in wanted]
        rows = run.table("transfers", columns=older, rounds=rounds).set_axis(wanted, axis=1)
    return rows[np.isfinite(rows["sinr_db"])][list(columns)]


def rule_means(run: Run) -> dict[str, float]:
    """Mean accuracy of every rule measured at the last evaluated round: over devices, then over tasks.

    Args:
        run: The run.

    Returns:
        Rule -> mean accuracy in [0, 1]; empty when nothing was evaluated after round 0.
    """
    rows = run.accuracy_means
    rows = rows[rows["round"] > 0]
    last = rows[rows["round"] == rows["round"].max()] if len(rows) else rows
    means = last.groupby("rule", sort=False)["accuracy"].mean()
    return {str(rule): float(mean) for rule, mean in means.items()}


def mean_of(values: Sequence[float | None]) -> float | None:
    """Give the mean of the values that are known; None when none is.

    Args:
        values: Numbers; None is left out.

    Returns:
        Their unweighted mean, in their unit.
    """
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None  # rounded once, in whatever order they come


def _weighted(values: pd.Series, weights: pd.Series) -> float | None:
    known = values.notna() & (weights > 0)
    total = float(weights[known].sum())
    return float((values[known] * weights[known]).sum()) / total if total else None
