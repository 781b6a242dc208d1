"""From the reports of one round to rows of `devices` and `evaluation` and the figures of learning.

What the radio did is in `radio_tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dfl_ray.devices.records import EvaluationReport, ExchangeReport, TrainReport
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.masks import collision_rates
from dfl_ray.records.results import mean_of
from dfl_ray.simulation.experiment import Experiment
from dfl_ray.simulation.radio_tables import sent_bytes, state_energy

if TYPE_CHECKING:
    from channels.transfers import RoundPlan
    from dfl_ray.network.local_rounds import LocalRounds


def device_table(
    experiment: Experiment,
    trained: Sequence[TrainReport],
    taken: Sequence[ExchangeReport],
    plan: RoundPlan,
    compute_s: np.ndarray,
    actor_of: Mapping[int, str],
    positions_m: np.ndarray,
) -> pd.DataFrame:
    """One row a device: training, energy, bytes sent and received, charge and place.

    Args:
        experiment: The run.
        trained: What each group did in the local steps.
        taken: What each group took in.
        plan: What the radio did; its energies are recorded as they are.
        compute_s: (devices,) virtual time of the training in s.
        actor_of: Device -> name of the actor that hosts it.
        positions_m: (devices, 2) where they are in the round, metres.

    Returns:
        The columns of `dfl_ray.records.DEVICES` but `round`, in the order of devices.
    """
    from dfl_ray.records.topology import held_tasks

    count = len(plan.alive)
    names = [t.name for t in experiment.setup.tasks]
    return pd.DataFrame(
        {
            "device": np.arange(count),
            **_trained_columns(trained, count),
            "compute_s": compute_s,
            "energy_j": plan.energy_j,
            "radio_energy_j": plan.radio_energy_j,
            "compute_energy_j": plan.compute_energy_j,
            "idle_energy_j": plan.idle_energy_j,
            **state_energy(plan),
            **({} if plan.control is None else {"control_energy_j": plan.control.energy_j}),
            "sent_bytes": sent_bytes(plan, count),
            **_taken_columns(taken, count),
            "alive": plan.alive,
            "late": plan.late,
            "on": plan.present,
            "x_m": positions_m[:, 0],
            "y_m": positions_m[:, 1],
            "tasks": held_tasks(experiment.topology.mixture, names),
            "actor": [actor_of[d] for d in range(count)],
        }
    )


def local_round_table(
    ended: LocalRounds, taken: Sequence[ExchangeReport], compute_s: np.ndarray
) -> pd.DataFrame:
    """One row a local round that ended in a window, where devices do not wait for each other.

    Args:
        ended: The local rounds.
        taken: What each group took in.
        compute_s: (devices,) virtual time of their training in s.

    Returns:
        The columns of `dfl_ray.records.LOCAL_ROUNDS` but `round`, in the order of devices.
    """
    messages, age = np.zeros(len(compute_s), np.int64), np.full(len(compute_s), np.nan)
    for report in taken:
        assert report.messages is not None and report.age_rounds is not None
        messages[report.devices], age[report.devices] = report.messages, report.age_rounds
    here = ended.devices
    return pd.DataFrame(
        {
            "device": here,
            "local_round": ended.number,
            "compute_s": compute_s[here],
            "end_s": ended.end_s,
            "messages": messages[here],
            "age_rounds": age[here],
        }
    )


def _trained_columns(trained: Sequence[TrainReport], count: int) -> dict[str, np.ndarray]:
    columns = {name: np.full(count, np.nan) for name in ("loss", "gradient_norm")}
    for report in trained:
        for name, column in columns.items():
            column[report.devices] = np.where(report.finite, getattr(report, name), np.nan)
    return columns


def _taken_columns(taken: Sequence[ExchangeReport], count: int) -> dict[str, np.ndarray]:
    columns = {name: np.zeros(count, np.int64) for name in ("received_bytes", "refused")}
    for report in taken:
        columns["received_bytes"][report.devices] = report.received_bytes
        columns["refused"][report.devices] = [sum(r.values()) for r in report.refused]
    return columns


def evaluation_table(reports: Sequence[EvaluationReport], experiment: Experiment) -> pd.DataFrame:
    """One row a (rule, device, task), sorted in that order.

    Args:
        reports: What the groups measured, at least one.
        experiment: The run; names the tasks and knows the accuracy of guessing.

    Returns:
        The columns of `dfl_ray.records.EVALUATION` but `round`.
    """
    names = list(reports[0].rows)
    joined = {n: [v for r in reports for v in r.rows[n]] for n in names}
    table = pd.DataFrame(joined).astype({"device": int, "task": int, "right": float, "asked": int})
    table = table.sort_values(["rule", "device", "task"], kind="stable", ignore_index=True)
    tasks = experiment.setup.tasks
    return pd.DataFrame(
        {
            "device": table["device"],
            "task": [tasks[t].name for t in table["task"]],
            "rule": table["rule"],
            "accuracy": table["right"] / table["asked"],
            "rows": table["asked"],
            "chance": pd.Series([tasks[t].chance for t in table["task"]], dtype=float),
            "routed_right": table["routed_right"].astype(float),
        }
    )


def expert_table(
    reports: Sequence[EvaluationReport], experiment: Experiment, round_index: int
) -> pd.DataFrame:
    """What each device answers each task with, sorted by device and task.

    Args:
        reports: What the groups measured, at least one.
        experiment: The run; names the tasks.
        round_index: The round.

    Returns:
        The columns of `dfl_ray.records.EXPERTS` but `round`; no row where no device was looked at (round 0).
    """
    table = _joined([r.experts for r in reports], ("device", "task", "author", "version"))
    table = table.astype(int).sort_values(["device", "task"], kind="stable", ignore_index=True)
    author, version = table["author"], table["version"]
    kind = np.where(author < 0, "none", np.where(version < 0, "own", "replica"))
    age = pd.Series(np.where(version < 0, 0, round_index - version), dtype="Int64").mask(author < 0)
    return pd.DataFrame(
        {
            "device": table["device"],
            "task": _names(table["task"], experiment),
            "holding": kind.astype(object),
            "author": author.astype("Int64").mask(author < 0),
            "version": version.astype("Int64").mask(version < 0),
            "age_rounds": age,
        }
    )


def routing_table(reports: Sequence[EvaluationReport], experiment: Experiment) -> pd.DataFrame:
    """Which experts the router chose, sorted by rule, device, task and choice.

    Args:
        reports: What the groups measured, at least one.
        experiment: The run; names the tasks.

    Returns:
        The columns of `dfl_ray.records.ROUTING` but `round`; no row for a method without a router.
    """
    table = _joined([r.routing for r in reports], ("device", "rule", "task", "chosen", "rows"))
    table = table.astype({"device": int, "task": int, "chosen": int, "rows": int})
    table = table.sort_values(["rule", "device", "task", "chosen"], kind="stable", ignore_index=True)
    names = {name: _names(table[name], experiment) for name in ("task", "chosen")}
    return table.assign(**names)[["device", "rule", "task", "chosen", "rows"]]


def _joined(parts: Sequence[Mapping[str, list[object]]], names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({name: [v for part in parts for v in part.get(name, ())] for name in names})


def _names(indices: pd.Series, experiment: Experiment) -> pd.Series:
    return pd.Series([experiment.setup.tasks[t].name for t in indices], dtype=object)


@dataclass
class AccuracyHistory:
    """Best accuracy of each task so far: what forgetting is measured against.

    Attributes:
        best: Task name -> best mean accuracy over devices so far.
    """

    best: dict[str, float]

    def update(self, by_task: Mapping[str, float]) -> float:
        """Take in new accuracies and measure forgetting.

        forgetting = 1/T · sum_t (max_{r' <= r} a_t(r') - a_t(r)), over the T tasks given.

        Args:
            by_task: Task name -> mean accuracy over devices in this round r, in [0, 1]; at least one.

        Returns:
            The forgetting, in [0, 1].

        Source:
            Chaudhry et al., Riemannian Walk for Incremental Learning (ECCV 2018), forgetting measure. Departure: the
            best accuracy so far includes this round's, so that the value is not negative.
        """
        for task, value in by_task.items():
            self.best[task] = max(value, self.best.get(task, 0.0))
        return float(np.mean([self.best[t] - v for t, v in by_task.items()]))


def accuracy_metrics(table: pd.DataFrame, rule: str, history: AccuracyHistory) -> dict[str, Any]:
    """Make the accuracy columns of a `rounds` row, and `accuracy_by_task`.

    Args:
        table: Rows of `evaluation_table`.
        rule: The method's own inference rule; rows of it must be there.
        history: Best accuracies so far; taken further.

    Returns:
        `accuracy_mean` (over devices and tasks), `accuracy_worst_task`, `forgetting_mean`, `interference_gap`
        (accuracy by the oracle rule less the method's; None when the oracle was not asked) and `accuracy_by_task`;
        nothing but an empty `accuracy_by_task` where no device was asked, since none is honest and there.
    """
    mine = table[table["rule"] == rule]
    if mine.empty:
        return {"accuracy_by_task": {}}
    by_task = {str(t): float(v) for t, v in mine.groupby("task", sort=False)["accuracy"].mean().items()}
    oracle = table[table["rule"] == "oracle"]["accuracy"]
    mean = float(mine["accuracy"].mean())
    return {
        "accuracy_mean": mean,
        "accuracy_worst_task": min(by_task.values()),
        "forgetting_mean": history.update(by_task),
        "interference_gap": float(oracle.mean()) - mean if len(oracle) else None,
        "accuracy_by_task": by_task,
    }


def state_metrics(reports: Sequence[EvaluationReport], layout: Layout) -> dict[str, Any]:
    """Make the columns consensus distance, collisions, density and staleness of a `rounds` row.

    Consensus distance of one task: sum_i |D_i - mean D|^2 / (n |mean D|^2) over its n holders, with the update D of all
    layers (`devices.consensus`); the mean over tasks that two or more devices hold is reported. The sum is taken as
    sum_i |D_i|^2 - n |mean D|^2, from sums that the groups report, and not below 0. Exact where no adapted layer has
    more than `consensus.WIDTH` inputs or outputs; else an estimate from folded updates.

    Args:
        reports: What the groups measured.
        layout: What one adapter holds; the shapes behind the masks.

    Returns:
        `consensus_distance` >= 0, `collision_b`, `collision_delta_w` and `density` in [0, 1], and
        `replica_staleness_rounds` >= 0; None where nothing was there to measure.

    Source:
        Kong et al., Consensus Control for Decentralized Deep Learning (ICML 2021), consensus distance. Departure:
        divided by |mean D|^2, so that it has no unit.
    """
    distances: list[float] = []
    for task in sorted({t for r in reports for t in r.sums}):
        parts = [r.sums[task] for r in reports if task in r.sums]
        count = sum(p[0] for p in parts)
        total = np.sum([p[1] for p in parts], axis=0)
        mean_square = float(total @ total) / count**2
        if count > 1 and mean_square > 0:
            spread = max(0.0, sum(p[2] for p in parts) - count * mean_square)
            distances.append(spread / (count * mean_square))
    masks: dict[int, tuple[int, np.ndarray]] = {}
    for task, (author, mask) in (item for r in reports for item in r.masks.items()):
        if task not in masks or author < masks[task][0]:
            masks[task] = author, mask
    in_b, in_w = collision_rates([masks[t][1] for t in sorted(masks)], layout) if masks else (None, None)
    density = [v for r in reports for v in r.density.values()]
    staleness = [v for r in reports for v in r.staleness.values()]
    return {
        "consensus_distance": float(np.mean(distances)) if distances else None,
        "collision_b": in_b,
        "collision_delta_w": in_w,
        "density": mean_of(density),
        "replica_staleness_rounds": mean_of(staleness),
    }
