"""Counters and gauges in Ray's own metrics, so that Ray's dashboard, Prometheus and Grafana see a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dfl_ray.records import RunFolder
from dfl_ray.tracking.guard import Guard
from dfl_ray.tracking.tally import number_or_none
from dfl_ray.tracking.tracker import Tracker, Trackers

GAUGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "dfl_ray_round": ("round", "last complete round"),
        "dfl_ray_accuracy_mean": ("accuracy_mean", "mean accuracy at the last evaluation, share"),
        "dfl_ray_train_loss": ("train_loss", "training loss of the last round, nats a token"),
        "dfl_ray_delivered_fraction": ("delivered_fraction", "delivered transfers of the last round, share"),
        "dfl_ray_sinr_db_p50": ("sinr_db_p50", "median SINR of the last round, dB"),
        "dfl_ray_alive_devices": ("alive_devices", "devices with charge left"),
        "dfl_ray_simulated_seconds": ("simulated_s", "simulated clock, s"),
        "dfl_ray_round_wall_seconds": ("wall_s", "real time of the last round, s"),
        "dfl_ray_overhead_fraction": ("overhead_fraction", "share of it outside training and evaluation"),
        "dfl_ray_object_store_bytes": (
            "object_store_bytes",
            "bytes put into the object store in the last round",
        ),
    }
)
"""Gauge -> column of `rounds` and meaning."""

COUNTERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "dfl_ray_sent_bytes": ("payload_bytes", "bytes put on air"),
        "dfl_ray_airtime_seconds": ("airtime_s", "time on air, s"),
        "dfl_ray_energy_joules": ("energy_j", "energy of radio and computing, J"),
        "dfl_ray_transfers": ("transfers", "transfers wanted"),
        "dfl_ray_lost_transfers": ("lost", "transfers that did not arrive"),
    }
)
"""Counter -> column of `rounds` that is added and meaning; Ray exports it with `_total` behind its name."""

SIZES: Mapping[str, str] = MappingProxyType(
    {
        "dfl_ray_rounds": "rounds of the whole run",
        "dfl_ray_devices": "devices",
        "dfl_ray_actors": "device actors",
    }
)
"""Gauges that do not come from `rounds` and their meaning."""


def with_ray_metrics(tracker: Tracker, name: str, say: Callable[[str], None]) -> Tracker:
    """Let Ray's metrics follow a run too.

    Args:
        tracker: Who follows it already.
        name: Name of the run.
        say: Prints one line to the user.

    Returns:
        Both as one.
    """
    return Trackers([tracker, RayMetrics(name, say)])


class RayMetrics:
    """Sets `GAUGES`, `SIZES` and `COUNTERS` in the driver, each with the tag `run`.

    Args:
        name: Value of the tag; None = the folder's name.
        say: Prints one line to the user.
    """

    def __init__(self, name: str | None, say: Callable[[str], None]) -> None:
        self._name = name
        self._guard = Guard("Ray's metrics", say)
        self._made: dict[str, Any] = {}

    def start(self, run_folder: RunFolder, config: Mapping[str, Any], resume_id: str | None = None) -> None:
        """Make the metrics where this process is joined to Ray; elsewhere do nothing."""
        del resume_id
        with self._guard("could not be made"):
            import ray
            from ray.util.metrics import Counter, Gauge

            if not ray.is_initialized():
                return
            meanings = {name: meaning for name, (_, meaning) in (*GAUGES.items(), *COUNTERS.items())} | dict(
                SIZES
            )
            for name, meaning in meanings.items():
                kind = Counter if name in COUNTERS else Gauge
                self._made[name] = kind(name, description=meaning, tag_keys=("run",))
                self._made[name].set_default_tags({"run": self._name or run_folder.path.name})
            self._made["dfl_ray_rounds"].set(config["rounds"])
            self._made["dfl_ray_devices"].set(config["devices"]["count"])

    def log_round(self, row: Mapping[str, Any], extras: Mapping[str, Any] | None = None) -> None:
        """Set the gauges and add to the counters; what was not measured keeps its value."""
        if not self._made:
            return
        with self._guard("did not take a round's numbers"):
            for name, (column, _) in GAUGES.items():
                value = number_or_none(row.get(column))
                if value is not None:
                    self._made[name].set(value)
            for name, (column, _) in COUNTERS.items():
                value = number_or_none(row.get(column))
                if value is not None and value > 0:
                    self._made[name].inc(value)
            if extras and extras.get("actors") is not None:
                self._made["dfl_ray_actors"].set(extras["actors"])

    def save_adapters(self, path: Path) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """Do nothing: the metrics end with the process."""
