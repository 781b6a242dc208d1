"""The metrics of a run as Ray exports them, read with Prometheus's own parser; slow, so not a part of every round."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest

from dfl_ray.records import RunFolder, load_run
from dfl_ray.tracking.ray_metrics import COUNTERS, GAUGES, SIZES, RayMetrics
from tests.fake_run import Fake, write_fake_run

pytestmark = [pytest.mark.ray, pytest.mark.exhaustive]


def exported(port: int, wanted: set[str]) -> dict[str, float]:
    """Values by name at a node's metrics port, once all that is wanted is there; Ray sends them every few seconds."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    for _ in range(60):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            text = ""
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        found = {sample.name: sample.value for sample in samples if sample.labels.get("run") == "tried"}
        if wanted <= set(found):
            break
        time.sleep(1)
    return found


def test_ray_exports_every_metric_that_grafana_asks_for_with_the_values_of_the_records(tmp_path: Path):
    import ray

    run = load_run(write_fake_run(tmp_path, fake=Fake(rounds=3, every=1)))
    wanted = {f"ray_{name}" for name in (*GAUGES, *SIZES)} | {f"ray_{name}_total" for name in COUNTERS}
    wanted.remove("ray_dfl_ray_object_store_bytes")  # the made-up run has no object store
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        metrics = RayMetrics("tried", print)
        metrics.start(RunFolder.create(tmp_path, "x", {}), run.config)
        for row in run.rounds.to_dict("records"):
            metrics.log_round(row, {"actors": 10})
        found = exported(ray.nodes()[0]["MetricsExportPort"], wanted)
    finally:
        ray.shutdown()
    assert wanted == set(found)
    for name, (column, _) in GAUGES.items():
        if f"ray_{name}" in found:
            assert found[f"ray_{name}"] == pytest.approx(run.rounds[column].iloc[-1])
    for name, (column, _) in COUNTERS.items():
        assert found[f"ray_{name}_total"] == pytest.approx(run.rounds[column].sum())
