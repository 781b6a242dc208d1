"""Planning a round without a model: its bytes equal those of the real run."""

from __future__ import annotations

import json

import pytest

from dfl_ray.cli import main
from dfl_ray.config.load import load_config
from dfl_ray.models.paths import embedded_path
from dfl_ray.models.shapes import linear_layers
from dfl_ray.simulation.estimate import plan


def test_shapes_equal_the_loaded_models(base):
    from dfl_ray.lora.inject import find_targets
    from dfl_ray.models.build import build_model

    layers, parameters = linear_layers(embedded_path(), "all-linear")
    model = build_model(base)
    assert set(layers) == set(find_targets(model, "all-linear"))
    assert parameters == sum(p.numel() for p in model.parameters())
    some, _ = linear_layers(embedded_path(), ["q_proj", "down_proj"])
    assert {s.name.rsplit(".", 1)[-1] for s in some} == {"q_proj", "down_proj"}


def test_plan_loads_no_model_and_prints_json(capsys):
    assert main(["plan", "devices.count=40", "rounds=11", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (figures["devices"], figures["rounds"], figures["planned_rounds"]) == (40, 11, 11)
    run, one = figures["run"], figures["typical_round"]
    assert 0 < one["payload_bytes"] < run["payload_bytes"]
    assert 0 < one["delivered_fraction"] <= 1
    assert one["latency_s_p50"] <= one["latency_s_p95"] <= one["latency_s_p99"] <= one["round_s"]
    assert run["energy_j"] == pytest.approx(run["radio_energy_j"] + run["compute_energy_j"])
    assert figures["start_up"]["total_s"] == pytest.approx(
        sum(v for k, v in figures["start_up"].items() if k != "total_s")
    )
    assert figures["memory"]["peak_mb"] > figures["memory"]["actor_mb"]


def test_a_plan_in_words_tells_the_whole_run(capsys):
    assert main(["plan", "devices.count=12", "rounds=3", "method=local"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line[:27].strip(): line[27:].strip() for line in lines if len(line) > 27}
    assert told["bytes on air, whole run"] == "0 B"
    assert told["rounds planned"] == "3 of 3"


@pytest.mark.parametrize("devices", [20, 200])
def test_plan_grows_with_devices(devices):
    figures = plan(load_config(None, [f"devices.count={devices}", "devices.area_m=[900,900]", "rounds=2"]))
    assert figures["devices"] == devices
    assert figures["links"] >= devices - 1
    assert figures["actors"] <= max(16, 4 * figures["cpus"], figures["cpus"]) or devices <= 16


def test_too_few_rows_for_the_holders_are_told_not_refused():
    figures = plan(load_config(None, ["devices.count=30", "tasks.train_rows=5", "rounds=1"]))
    assert any("mean row lengths" in note for note in figures["notes"])


def test_a_plan_of_empty_batteries_says_so(capsys):
    assert main(["plan", "devices.battery_j=1e-6", "rounds=3"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "no round was planned" in told
    assert "empty batteries in round 1" in told
