"""Device classes from tables: what a table says is what devices compute, send and hold with."""

from __future__ import annotations

import numpy as np
import pytest

from channels.device_mixes import HARDWARE
from channels.energy import DeviceClass, compute_cost, draw_classes
from dfl_ray.config.check import check_inputs
from dfl_ray.config.class_table import classes_of
from dfl_ray.config.load import load_config
from dfl_ray.config.locations import with_absolute_paths
from dfl_ray.errors import InputError
from dfl_ray.network.deployment import build_deployment

CSV = "name,flops_per_s,watts,tx_power_dbm,battery_j,share\nfast,4e9,2,20,500,1\nslow,1e9,,,,3\n"
YAML = "fast: {flops_per_s: 4e9, watts: 2, tx_power_dbm: 20, battery_j: 500}\nslow: {flops_per_s: 1e9, share: 3}\n"


@pytest.mark.parametrize(("name", "text"), [("own.csv", CSV), ("own.yaml", YAML)])
def test_a_table_gives_the_classes_it_holds(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    fast, slow = classes_of(str(path))
    assert (fast.name, fast.share, fast.tx_power_dbm, fast.battery_j) == ("fast", 1.0, 20.0, 500.0)
    assert (slow.name, slow.share, slow.tx_power_dbm, slow.battery_j) == ("slow", 3.0, None, float("inf"))
    cost = compute_cost(draw_classes([fast], 1, seed=0), 8e9)
    np.testing.assert_allclose([cost.seconds[0], cost.energy_j[0]], [2.0, 4.0], rtol=1e-12)
    # An energy that a table leaves out is the default class's, 0.25 nJ for each operation.
    np.testing.assert_allclose(compute_cost(draw_classes([slow], 1, seed=0), 4e9).energy_j, 1.0)


def test_a_run_takes_its_classes_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "own.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)
    config = load_config(None, ["devices.classes=own.csv", "devices.count=40"])
    check_inputs(config)
    classes = build_deployment(config, 6).channel.classes
    assert classes.names == ("fast", "slow") and 0 < (classes.index == 0).sum() < 20
    assert with_absolute_paths(config).devices.classes == str(tmp_path / "own.csv")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "name,flops\nx,1e9\n", "flops_per_s"),
        ("a.csv", "flops_per_s\n1e9\n", "column `name`"),
        ("a.csv", "name,flops_per_s\nx,1e9\nx,2e9\n", "twice"),
        ("a.csv", "name,flops_per_s\nx,fast\n", "line 2, flops_per_s"),
        ("a.csv", "name\n", "no class"),
        ("a.csv", "name,flops_per_s\n ,1e9\n", "no name"),
        ("a.yaml", "'': {flops_per_s: 1e9}", "no name"),
        ("a.yaml", "[1, 2]", "mapping"),
        ("a.yaml", "x: {watts: 1, joules_per_flop: 1e-9}", "one of joules_per_flop and watts"),
        ("a.yaml", "x: {flops_per_s: 1e9, frequency_hz: 1e9}", "frequency_hz"),
        ("a.yaml", "x: {flops_per_s: 0}", "flops_per_s"),
    ],
)
def test_what_is_no_table_is_refused_when_the_configuration_is_read(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"devices\.classes") as caught:
        load_config(None, [f"devices.classes={tmp_path / name}"])
    assert words in str(caught.value)


def test_a_table_that_does_not_exist_is_refused_before_anything_starts():
    with pytest.raises(InputError, match=r"devices\.classes` does not exist"):
        check_inputs(load_config(None, ["devices.classes=nowhere.csv"]))


def test_steps_take_time_beyond_their_operations_at_the_processors_power():
    made = draw_classes(
        [DeviceClass().at({"flops_per_s": 1e9, "watts": 3, "step_overhead_s": 0.5})], 3, seed=0
    )
    cost = compute_cost(made, [2e9, 2e9, 0.0], [1, 4, 4])
    np.testing.assert_allclose(cost.seconds, [2.5, 4.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(cost.energy_j, [7.5, 12.0, 0.0], rtol=1e-12)


def test_shipped_hardware_is_in_the_order_of_its_products():
    speed = {kind.name: kind.frequency_hz / kind.cycles_per_flop for kind in HARDWARE}
    assert list(speed) == ["phone", "tablet", "laptop", "jetson", "raspberry_pi", "sensor"]
    assert speed["laptop"] > speed["tablet"] > speed["phone"] > speed["raspberry_pi"] > speed["sensor"]
    assert sum(kind.share for kind in HARDWARE) == pytest.approx(1.0)
