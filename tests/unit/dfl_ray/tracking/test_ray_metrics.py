"""Ray's metrics of a run: what is set and added; Grafana's panels ask for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dfl_ray.records import RunFolder
from dfl_ray.records.schema import ROUNDS
from dfl_ray.tracking.ray_metrics import COUNTERS, GAUGES, SIZES, RayMetrics

DASHBOARD = Path(__file__).resolve().parents[4] / "docs/grafana/dfl-ray.json"


class Noted:
    """Stands for Counter and Gauge: notes its value."""

    values: dict[tuple[str, str], float]

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] = ()) -> None:
        assert description and tag_keys == ("run",)
        self.name, self.run = name, ""

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.run = tags["run"]

    def set(self, value: float) -> None:
        self.values[self.name, self.run] = value

    def inc(self, value: float) -> None:
        self.values[self.name, self.run] = self.values.get((self.name, self.run), 0.0) + value


@pytest.fixture
def values(monkeypatch) -> dict[tuple[str, str], float]:
    import ray
    import ray.util.metrics

    Noted.values = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray.util.metrics, "Gauge", Noted)
    monkeypatch.setattr(ray.util.metrics, "Counter", Noted)
    return Noted.values


def test_gauges_hold_the_last_value_and_counters_the_sum(values, tmp_path: Path):
    metrics = RayMetrics(None, print)
    metrics.start(RunFolder.create(tmp_path, "x", {}), {"rounds": 9, "devices": {"count": 4}})
    metrics.log_round({"round": 1, "accuracy_mean": 0.5, "payload_bytes": 10, "lost": 0}, {"actors": 2})
    metrics.log_round({"round": 2, "accuracy_mean": None, "payload_bytes": 5, "lost": 3})
    metrics.finish()
    found = {name.removeprefix("dfl_ray_"): value for (name, run), value in values.items() if run == "x"}
    assert found == {
        "rounds": 9, "devices": 4, "round": 2, "accuracy_mean": 0.5, "sent_bytes": 15, "lost_transfers": 3, "actors": 2,
    }  # fmt: skip


def test_without_ray_nothing_is_made_and_a_failure_is_said_once(monkeypatch, tmp_path: Path):
    import ray

    lines: list[str] = []
    folder = RunFolder.create(tmp_path, "x", {})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    metrics = RayMetrics(None, lines.append)
    metrics.start(folder, {})
    metrics.log_round({"round": 1})
    assert lines == []
    monkeypatch.setattr(ray, "is_initialized", lambda: 1 / 0)
    metrics.start(folder, {})
    metrics.start(folder, {})
    assert lines == [
        "Ray's metrics could not be made (division by zero); the run goes on, its records are on disk."
    ]


def test_every_metric_is_a_column_and_grafana_asks_for_what_is_exported():
    assert {column for column, _ in (*GAUGES.values(), *COUNTERS.values())} <= set(ROUNDS.names)
    asked = set(re.findall(r"ray_(dfl_ray_\w+)", DASHBOARD.read_text()))
    exported = {*GAUGES, *SIZES, *(f"{name}_total" for name in COUNTERS)}
    assert asked <= exported and len(asked) >= 15
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert all(panel["fieldConfig"]["defaults"]["unit"] and panel["targets"] for panel in panels)
