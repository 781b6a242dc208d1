"""What the driver asks of a tracker; the names and shapes of what it logs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from dfl_ray.records import RunFolder

Mode = Literal["auto", "online", "offline", "disabled"]

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


class Tracker(Protocol):
    """Follows one run from start to finish; no call of it may stop or delay the run."""

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """Begin to follow a run.

        Args:
            run_folder: The run's folder, open for writing.
            config: The resolved configuration.
            resume_id: Identity the tracker gave this run before (`run.json`, `wandb.id`), to continue it.
        """
        ...

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """Log one round.

        Args:
            row: One row of `rounds`; columns that are None or NaN are left out.
            extras: `accuracy_by_task` (task to mean accuracy), `sinr_db` (array, one value a transfer),
                `device_accuracy` (array, one value a device), `actors` (count); any further number goes under
                its own name.
        """
        ...

    def save_adapters(self, path: Path) -> None:
        """Keep the final adapters (a file or a folder)."""
        ...

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """End: final figures, tables and pictures.

        Args:
            summary: Final numbers, by name.
            failed: The run ended with an error or was interrupted.
        """
        ...


class NullTracker:
    """Tracks nothing (`track.wandb.mode: disabled`)."""

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """Do nothing."""

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""

    def save_adapters(self, path: Path) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """Do nothing."""


def make_tracker(
    settings: Any, *, name: str | None = None, say: Callable[[str], None] = print, verbose: bool = False
) -> Tracker:
    """Tracker for the section `track.wandb`.

    Args:
        settings: `dfl_ray.config.schema.WandbConfig`.
        name: Name shown for the run; none = that of its folder.
        say: Prints one line to the user.
        verbose: Let W&B speak for itself.
    """
    mode, asked_by = wandb_mode(settings.mode, os.environ)
    if mode == "disabled":
        if asked_by:
            say(f"W&B is off ({asked_by}).")
        return NullTracker()
    from dfl_ray.tracking.wandb_tracker import WandbTracker

    return WandbTracker(settings, mode=mode, name=name, say=say, verbose=verbose)


def wandb_mode(mode: Mode, environment: Mapping[str, str]) -> tuple[Mode, str]:
    """The mode in which W&B is used, and the environment variable that decides it, or an empty text.

    `WANDB_DISABLED=true` and `WANDB_MODE=disabled` turn W&B off whatever the configuration says, as they do
    wherever W&B is used; other values of `WANDB_MODE` decide where the configuration says `auto`.

    Args:
        mode: `track.wandb.mode`.
        environment: The environment's variables.
    """
    if mode == "disabled":
        return mode, ""
    off, asked = environment.get("WANDB_DISABLED", ""), environment.get("WANDB_MODE", "").strip().lower()
    if off.strip().lower() in ("true", "1", "yes", "on", "y", "t"):
        return "disabled", f"WANDB_DISABLED={off}"
    if asked == "disabled":
        return "disabled", f"WANDB_MODE={asked}"
    known: Mapping[str, Mode] = {"online": "online", "offline": "offline", "dryrun": "offline"}
    if mode == "auto" and asked in known:
        return known[asked], f"WANDB_MODE={asked}"
    return mode, ""


def scalar_metrics(row: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, float | int]:
    """Metric names and values of a round's numbers; what is None or not a number is left out.

    Args:
        row: One row of `rounds`.
        extras: As in `Tracker.log_round`; arrays are left to the histograms.
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


def _plain(value: Any) -> float | int:
    return value.item() if hasattr(value, "item") else value


def _is_number(value: Any) -> bool:
    try:
        return value is not None and not isinstance(value, str) and not math.isnan(value)
    except TypeError:
        return False
