"""Every preset that needs the hub is planned whole, with the embedded model and tasks in place of what lies there."""

from __future__ import annotations

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.config.presets import preset_names, preset_text
from dfl_ray.simulation.estimate import plan

HUB = [name for name in preset_names() if "source: hub" in preset_text(name)]


def embedded(name: str, method_rank: int) -> list[str]:
    """Overrides that leave devices, graph, radio and method as they are."""
    tasks = load_config(name).tasks.names or ()
    suite = ["topic", "review", "lookup", "add", "agree", "largest", "clan_asked"][: len(tasks)]
    tasks_words = f"tasks={{source: synthetic, names: {suite}, train_rows: 200, test_rows: 20}}"
    words = ["model={name: embedded}", tasks_words, "rounds=1"]
    # The embedded model's layers have room for six tasks of rank 8, a hub model's for far more.
    return [*words, "runtime.gpus_per_actor=0", f"method.rank={method_rank}", "evaluate.score=auto"]


@pytest.mark.parametrize("name", HUB)
def test_a_preset_of_hub_data_is_planned(name: str) -> None:
    wanted = load_config(name)
    config = load_config(name, embedded(name, min(wanted.method.rank, 8)))
    assert config.devices == wanted.devices and config.topology == wanted.topology
    figures = plan(config)
    assert figures["run"]["payload_bytes"] > 0 and figures["run"]["airtime_s"] > 0


def test_presets_of_suites_are_among_them() -> None:
    assert {"glue-dfl", "fedsa-glue", "openfedllm", "flowertune", "hub-text"} <= set(HUB)


@pytest.mark.parametrize("name", ["mmwave-indoor", "nr-sidelink", "wifi-direct"])
def test_presets_of_radios_are_planned(name: str) -> None:
    figures = plan(load_config(name, ["rounds=1", "devices.count=9"]))
    run, one = figures["run"], figures["typical_round"]
    assert run["payload_bytes"] > 0 and run["delivered_fraction"] > 0.9
    assert one["latency_s_p99"] <= one["latency_s_max"] <= one["round_s"] and 0 < one["fairness"] <= 1


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("skew-")])
def test_presets_of_uneven_data_are_planned(name: str) -> None:
    """A plan deals the rows, so that it also finds out where a setting cannot be dealt."""
    config = load_config(name, ["rounds=1", "method=dlora", "tasks.train_rows=60", "tasks.test_rows=6"])
    figures = plan(config)
    assert figures["devices"] == config.devices.count == (18 if name == "skew-one-task" else 10)
    assert figures["run"]["payload_bytes"] > 0 and figures["run"]["delivered_fraction"] > 0.8
