"""Planning a round without a model: its bytes equal those of the real run."""

from __future__ import annotations

import json

import pytest

from dfl_ray.cli import main
from dfl_ray.config.load import load_config
from dfl_ray.models.paths import embedded_path
from dfl_ray.models.shapes import linear_layers
from dfl_ray.simulation.estimate import plan
from tests.conftest import small_config


def test_shapes_equal_the_loaded_models(base):
    from dfl_ray.lora.inject import find_targets
    from dfl_ray.models.build import build_model

    layers, parameters = linear_layers(embedded_path(), "all-linear")
    model = build_model(base)
    assert set(layers) == set(find_targets(model, "all-linear"))
    assert parameters == sum(p.numel() for p in model.parameters())
    some, _ = linear_layers(embedded_path(), ["q_proj", "down_proj"])
    assert {s.name.rsplit(".", 1)[-1] for s in some} == {"q_proj", "down_proj"}


def test_planned_adapter_bytes_equal_a_dense_rounds(tmp_path):
    from dfl_ray.records import load_run
    from dfl_ray.simulation.launch import launch

    words = ("method=dlora", "runtime.backend=local", "rounds=1")
    run = load_run(launch(small_config(tmp_path, "name=x", *words), json=True).folder)
    figures = plan(small_config(tmp_path, *words))
    assert figures["transfers"] == run.rounds["transfers"][0]
    sizes = set(run.transfers["payload_bytes"])
    assert len(sizes) == 1
    assert figures["payload_bytes"] % sizes.pop() == 0


def test_plan_loads_no_model_and_prints_json(capsys):
    assert main(["plan", "devices.count=40", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert figures["devices"] == 40
    assert figures["payload_bytes"] > 0
    assert 0 < figures["delivered_fraction"] <= 1
    assert (
        figures["latency_s_p50"] <= figures["latency_s_p95"] <= figures["latency_s_p99"] <= figures["round_s"]
    )


@pytest.mark.parametrize("devices", [20, 200])
def test_plan_grows_with_devices(devices):
    figures = plan(load_config(None, [f"devices.count={devices}", "devices.area_m=[900,900]"]))
    assert figures["devices"] == devices
    assert figures["links"] >= devices - 1
    assert figures["actors"] <= max(16, 4 * figures["cpus"], figures["cpus"]) or devices <= 16
