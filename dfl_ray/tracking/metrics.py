"""Names of what trackers log: a round's numbers by the names W&B groups its charts by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

METRIC_OF_COLUMN: dict[str, str] = {
    "round": "round",
    "simulated_s": "time/simulated_s",
    "wall_s": "time/round_wall_s",
    "overhead_fraction": "time/overhead_fraction",
    "accuracy_mean": "accuracy/mean",
    "accuracy_worst_task": "accuracy/worst_task",
    "forgetting_mean": "forgetting/mean",
    "interference_gap": "interference_gap",
    "train_loss": "train/loss",
    "payload_bytes": "comm/bytes",
    "airtime_s": "comm/airtime_s",
    "energy_j": "comm/energy_j",
    "delivered_fraction": "comm/delivered_fraction",
    "sinr_db_p05": "comm/sinr_db/p05",
    "sinr_db_p50": "comm/sinr_db/p50",
    "sinr_db_p95": "comm/sinr_db/p95",
    "consensus_distance": "consensus/distance",
    "collision_b": "collision/b",
    "collision_delta_w": "collision/delta_w",
    "object_store_bytes": "ray/object_store_bytes",
}
"""W&B metric name of each `rounds` column that is logged."""

HISTOGRAM_OF_EXTRA: dict[str, str] = {
    "sinr_db": "comm/sinr_db/histogram",
    "device_accuracy": "accuracy/devices",
}
"""W&B name of each array among the extras."""


def scalar_metrics(row: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, float | int]:
    """Metric names and values of a round's numbers; what is None or not a number is left out.

    Args:
        row: One row of `rounds`.
        extras: As in `Tracker.log_round`; arrays are left to the histograms.

    Returns:
        Metric name -> plain number, in the units of the column or extra.
    """
    found: dict[str, Any] = {metric: row.get(column) for column, metric in METRIC_OF_COLUMN.items()}
    for name, value in extras.items():
        if name == "accuracy_by_task":
            found |= {f"accuracy/task/{task}": accuracy for task, accuracy in value.items()}
        elif name == "actors":
            found["ray/actors"] = value
        elif name not in HISTOGRAM_OF_EXTRA:
            found[name] = value
    return {name: _plain(value) for name, value in found.items() if _is_number(value)}


METRIC_OF_SUMMARY: dict[str, str] = {
    "accuracy_mean": "accuracy/mean",
    "accuracy_worst_task": "accuracy/worst_task",
    "accuracy_before": "accuracy/before_tuning",
    "payload_bytes": "comm/total_bytes",
    "airtime_s": "comm/total_airtime_s",
    "energy_j": "comm/total_energy_j",
    "delivered_fraction": "comm/total_delivered_fraction",
    "simulated_s": "time/simulated_s",
    "wall_s": "time/total_wall_s",
}
"""Metric name of each final figure of a run; what is summed over rounds has a name of its own."""


def summary_metrics(summary: Mapping[str, Any]) -> dict[str, float | int]:
    """Metric names and values of a run's final figures, no figure under two names.

    Args:
        summary: As of `records.results.summary`; a name with a `/` in it is taken as it is, others that are not in
            `METRIC_OF_SUMMARY` are left out.

    Returns:
        Metric name -> plain number.
    """
    named = {METRIC_OF_SUMMARY.get(name, name): value for name, value in summary.items()}
    return {name: _plain(value) for name, value in named.items() if "/" in name and _is_number(value)}


def _plain(value: Any) -> float | int:
    return value.item() if hasattr(value, "item") else value


def _is_number(value: Any) -> bool:
    try:
        return value is not None and not isinstance(value, str) and not math.isnan(value)
    except TypeError:
        return False
