"""From the reports of one round to rows of the record tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dfl_ray.devices.records import EvaluationReport, ExchangeReport, TrainReport
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.masks import collision_rates
from dfl_ray.network.traffic import TransferRequests
from dfl_ray.simulation.experiment import Experiment
from dfl_ray.wire.message import Kind

if TYPE_CHECKING:
    from channels.energy import ComputeCost
    from channels.transfers import RoundPlan, Transfers


@dataclass(frozen=True)
class Hops:
    """The wanted transfers as single radio hops.

    Attributes:
        transfers: What the channel is asked to carry.
        owner: (hops,) index of the wanted transfer each hop belongs to.
    """

    transfers: Transfers
    owner: np.ndarray

    def arrived(self, delivered: np.ndarray, wanted: int) -> np.ndarray:
        """(wanted,) whether every hop of each wanted transfer was delivered."""
        lost = np.bincount(self.owner[~delivered], minlength=wanted)
        return lost == 0


def expand_hops(wanted: TransferRequests, relays: Mapping[tuple[int, int], tuple[int, ...]]) -> Hops:
    """Replace transfers over relayed links by one hop after the other, each charged.

    Args:
        wanted: What devices want sent.
        relays: (a, b) -> devices on the way, both ends included.
    """
    from channels.transfers import Transfers

    if not relays:
        columns = (wanted.source, wanted.destination, wanted.payload_bytes, wanted.message)
        return Hops(Transfers.build(*columns), np.arange(len(wanted)))
    rows: list[tuple[int, int, int, int, int]] = []
    forwarded: dict[tuple[int, int, int], int] = {}
    first_free = int(wanted.message.max(initial=0)) + 1
    for i in range(len(wanted)):
        source, to, message = int(wanted.source[i]), int(wanted.destination[i]), int(wanted.message[i])
        path = relays.get((source, to), (source, to))
        for a, b in pairwise(path):
            number = message
            if a != source:
                number = forwarded.setdefault((a, source, message), first_free + len(forwarded))
            rows.append((a, b, int(wanted.payload_bytes[i]), number, i))
    table = np.array(rows, np.int64).reshape(-1, 5)
    return Hops(Transfers.build(*(table[:, k] for k in range(4))), table[:, 4])


def transfer_table(
    plan: RoundPlan, hops: Hops, wanted: TransferRequests, tasks: Sequence[str]
) -> pd.DataFrame:
    """One row a hop: when it ran, at what SINR, whether it arrived."""
    t, tries = hops.transfers, plan.table
    number = tries["transfer"].to_numpy()
    order = np.argsort(number, kind="stable")  # the tries of a transfer stay in the order of time
    tried, starts, counts = np.unique(number[order], return_index=True, return_counts=True)
    first, last = order[starts], order[starts + counts - 1]
    index = pd.RangeIndex(len(t), name="transfer")

    def over_all(column: str, rows: np.ndarray) -> pd.Series:
        return pd.Series(tries[column].to_numpy()[rows], index=tried).reindex(index)

    energy = np.bincount(tries["transfer"], weights=tries["energy_j"], minlength=len(t))
    task = wanted.task[hops.owner]
    kinds = {int(k): k.name.lower() for k in Kind}
    begin = float(plan.table["start_s"].min()) if len(plan.table) else 0.0
    return pd.DataFrame(
        {
            "transfer": index,
            "slot": over_all("slot", last).astype("Int64"),
            "source": t.source,
            "destination": t.destination,
            "kind": [kinds[int(k)] for k in wanted.kind[hops.owner]],
            "task": [None if k < 0 else tasks[k] for k in task],
            "sinr_db": over_all("sinr_db", last),
            "rate_bps": over_all("rate_bps", last),
            "start_s": over_all("start_s", first) - begin,
            "end_s": over_all("end_s", last) - begin,
            "payload_bytes": t.payload_bytes,
            "attempts": np.asarray(plan.attempts),
            "delivered": plan.delivered,
            "energy_j": energy,
        }
    )


def bytes_on_air(plan: RoundPlan) -> int:
    """Bytes put on air: every attempt counted, a broadcast once."""
    return int(plan.table.drop_duplicates("transmission")["payload_bytes"].sum()) if len(plan.table) else 0


def device_table(
    experiment: Experiment,
    trained: Sequence[TrainReport],
    taken: Sequence[ExchangeReport],
    plan: RoundPlan,
    hops: Hops,
    compute: ComputeCost,
    actor_of: Mapping[int, str],
) -> pd.DataFrame:
    """One row a device."""
    from dfl_ray.records.topology import held_tasks

    count = len(plan.alive)
    sent = np.bincount(
        hops.transfers.source,
        weights=hops.transfers.payload_bytes * np.asarray(plan.attempts),
        minlength=count,
    )
    radio_j, computing_j = split_energy_j(plan, np.asarray(compute.energy_j))
    names = [t.name for t in experiment.setup.tasks]
    positions = experiment.channel.positions_m
    return pd.DataFrame(
        {
            "device": np.arange(count),
            **_trained_columns(trained, count),
            "compute_s": compute.seconds,
            "energy_j": plan.energy_j,
            "radio_energy_j": radio_j,
            "compute_energy_j": computing_j,
            "sent_bytes": sent.astype(np.int64),
            **_taken_columns(taken, count),
            "alive": plan.alive,
            "x_m": positions[:, 0],
            "y_m": positions[:, 1],
            "tasks": held_tasks(experiment.topology.mixture, names),
            "actor": [actor_of[d] for d in range(count)],
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
    """One row a (device, task, rule), in that order."""
    names = list(reports[0].rows)
    joined = {n: [v for r in reports for v in r.rows[n]] for n in names}
    table = pd.DataFrame(joined).astype({"device": int, "task": int, "right": int, "asked": int})
    table = table.sort_values(["rule", "device", "task"], kind="stable", ignore_index=True)
    tasks = experiment.setup.tasks
    return pd.DataFrame(
        {
            "device": table["device"],
            "task": [tasks[t].name for t in table["task"]],
            "rule": table["rule"],
            "accuracy": table["right"] / table["asked"],
            "rows": table["asked"],
            "chance": [tasks[t].chance for t in table["task"]],
            "routed_right": table["routed_right"].astype(float),
        }
    )


@dataclass
class AccuracyHistory:
    """Best accuracy of each task so far: what forgetting is measured against.

    Attributes:
        best: Task name -> best mean accuracy over devices so far.
    """

    best: dict[str, float]

    def update(self, by_task: Mapping[str, float]) -> float:
        """Take in new accuracies; returns mean over tasks of (best so far - now), >= 0."""
        for task, value in by_task.items():
            self.best[task] = max(value, self.best.get(task, 0.0))
        return float(np.mean([self.best[t] - v for t, v in by_task.items()]))


def accuracy_metrics(table: pd.DataFrame, rule: str, history: AccuracyHistory) -> dict[str, Any]:
    """The accuracy columns of a `rounds` row, and `accuracy_by_task`."""
    mine = table[table["rule"] == rule]
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
    """Consensus distance, collisions, density and staleness of a `rounds` row.

    Consensus distance of one task: sum_i |B_i - mean B|^2 / (n |mean B|^2) over its n holders; the mean over
    tasks that two or more devices hold is reported.
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
    masks = {t: m for r in reports for t, m in r.masks.items()}
    in_b, in_w = collision_rates(list(masks.values()), layout) if masks else (None, None)
    density = [v for r in reports for v in r.density.values()]
    staleness = [v for r in reports for v in r.staleness.values()]
    return {
        "consensus_distance": float(np.mean(distances)) if distances else None,
        "collision_b": in_b,
        "collision_delta_w": in_w,
        "density": float(np.mean(density)) if density else None,
        "replica_staleness_rounds": float(np.mean(staleness)) if staleness else None,
    }


def split_energy_j(plan: RoundPlan, compute_j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(radio, computing) energy of each device in a round; both 0 for a device whose battery was empty before it.

    Args:
        plan: What the radio did; its `energy_j` is the sum of both.
        compute_j: (devices,) energy of the round's training, as it was handed to the channel.
    """
    radio = np.maximum(plan.energy_j - compute_j, 0.0)
    return radio, plan.energy_j - radio


def radio_metrics(
    plan: RoundPlan, transfers: pd.DataFrame, delivered: np.ndarray, compute_j: np.ndarray
) -> dict[str, Any]:
    """The radio columns of a `rounds` row."""
    radio_j, computing_j = split_energy_j(plan, compute_j)
    sinr = transfers["sinr_db"].dropna().to_numpy(float)
    low, middle, high = np.percentile(sinr, [5, 50, 95]) if len(sinr) else (None, None, None)
    wanted = len(delivered)
    return {
        "simulated_s": plan.end_s,
        "payload_bytes": bytes_on_air(plan),
        "airtime_s": plan.airtime_s,
        "energy_j": float(plan.energy_j.sum()),
        "radio_energy_j": float(radio_j.sum()),
        "compute_energy_j": float(computing_j.sum()),
        "delivered_fraction": float(delivered.mean()) if wanted else None,
        "sinr_db_p05": low,
        "sinr_db_p50": middle,
        "sinr_db_p95": high,
        "transfers": wanted,
        "delivered": int(delivered.sum()),
        "lost": int((~delivered).sum()),
        "alive_devices": int(plan.alive.sum()),
    }
