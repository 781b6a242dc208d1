"""Knobs of radio, graph and devices do what they say, and say so where they cannot."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from channels.energy import DeviceClass
from channels.settings import RadioSettings
from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.network.deployment import build_deployment
from dfl_ray.network.notes import graph_notes, late_note, radio_notes
from dfl_ray.simulation.dry_run import dry_run
from topology.links import link_cost, make_links


def deployed(*words):
    config = load_config(None, ["devices.count=24", "devices.area_m=[350,350]", *words])
    return config, build_deployment(config, 4)


def test_every_setting_of_the_radio_is_a_key():
    radio = load_config(None, []).radio
    assert set(type(radio).model_fields) == {f.name for f in dataclasses.fields(RadioSettings)}


def test_the_energy_weight_changes_the_graph_where_devices_differ():
    words = ("devices.classes=mixed", "topology.min_gap=0", "topology.max_degree=23")
    graphs = [deployed(*words, f"topology.energy_weight={w}")[1].topology for w in (0, 50)]
    assert graphs[0].edges.tolist() != graphs[1].edges.tolist()
    airtime, energy = ([float(np.sum(getattr(g, name))) for g in graphs]
                       for name in ("airtime_s_per_mb", "energy_j_per_mb"))  # fmt: skip
    assert airtime[0] < airtime[1] and energy[1] < energy[0]


def test_energy_of_a_link_is_its_airtime_at_the_mean_power_of_both_ends():
    _, made = deployed("devices.classes=mixed")
    channel, classes = made.channel.make(), made.channel.classes
    watt = 10 ** (np.where(np.isnan(classes.tx_power_dbm), 23.0, classes.tx_power_dbm) / 10 - 3)
    a, b = np.triu_indices(24, 1)
    drawn = (watt[a] + watt[b]) / 2 / 0.35 + 0.1 + 0.1
    airtime = channel.airtime_s_per_mb(a, b)
    np.testing.assert_allclose(channel.energy_j_per_mb(a, b), airtime * drawn, rtol=1e-12)
    assert len(set(watt.tolist())) == 2


def test_a_weight_on_unknown_energy_is_refused():
    place = np.array([[0.0, 0.0], [10.0, 0.0]])
    links = make_links(place, [[0, 1]], mean_snr_db=[9.0], airtime_s_per_mb=[1.0])
    with pytest.raises(ValueError, match="energy_weight is 50"):
        link_cost(place, links, energy_weight=50.0)


def test_a_bound_on_neighbours_that_cannot_be_kept_is_told():
    config, made = deployed("topology.max_degree=1")
    (note,) = [n for n in graph_notes(config.topology, made.topology) if "max_degree" in n]
    over = int((made.topology.degree > 1).sum())
    assert note.startswith(f"{over} devices") and f"at most {made.topology.degree.max()}" in note and over
    config, made = deployed("topology.max_degree=23")
    assert not any("max_degree" in n for n in graph_notes(config.topology, made.topology))


def test_links_used_out_of_reach_are_told():
    words = ("topology.type=complete", "devices.area_m=[3000,3000]")
    config, made = deployed(*words, "topology.reach=ignore")
    (note,) = [n for n in graph_notes(config.topology, made.topology) if "reach" in n]
    assert note.startswith(f"{int(np.isnan(made.topology.mean_snr_db).sum())} of 276 links")
    config, made = deployed(*words, "topology.reach=respect")
    assert not any("topology.reach" in n for n in graph_notes(config.topology, made.topology))


def test_a_radio_outside_its_models_range_is_told():
    """The command line silences Python's warnings, so that what they say must be among its notes."""
    _, made = deployed(
        "radio.carrier_hz=28e9", "radio.tx_height_m=30", "devices.placement.min_separation_m=4"
    )
    notes = radio_notes(made.channel, made.topology)
    assert [note.split("`")[1] for note in notes] == ["radio.carrier_hz", "radio.tx_height_m"]
    assert (
        "`radio.carrier_hz` is 2.8e+10; the path-loss model d2d_outdoor holds from 7e+08 to 6e+09" in notes[0]
    )
    _, made = deployed("devices.area_m=[3,3]")
    (note,) = radio_notes(made.channel, made.topology)
    assert f"of {len(made.topology.edges)} links are outside the 3-5000 m range" in note
    config, made = deployed("devices.placement.min_separation_m=4")
    assert radio_notes(made.channel, made.topology) == ()
    assert config.radio.carrier_hz == 2e9


def test_training_longer_than_the_deadline_is_told():
    config = load_config(None, ["rounds=2", "radio.deadline_s=0.02"])
    (note,) = [n for n in dry_run(config).notes if "deadline_s" in n]
    assert note.startswith("In round 1 10 of 10 devices") and "0.02 s" in note and "takes up to 0.06" in note
    assert late_note(1, np.zeros(6, bool), np.ones(6), 0.02) is None


def test_a_bound_on_neighbours_is_refused_by_graphs_that_have_none():
    with pytest.raises(InputError, match="max_degree"):
        load_config(None, ["topology.type=geometric", "topology.max_degree=2"])


def test_figures_of_device_classes_are_set_and_classes_added():
    figures = "{sensor: {frequency_hz: 3e8, battery_j: 5, share: 1}, relay: {share: 2, tx_power_dbm: 30}}"
    _, made = deployed("devices.classes=mixed", f"devices.class_figures={figures}")
    classes = made.channel.classes
    assert classes.names == ("phone", "tablet", "sensor", "relay")
    sensor, relay = (classes.index == classes.names.index(name) for name in ("sensor", "relay"))
    assert (classes.frequency_hz[sensor] == 3e8).all() and (classes.battery_j[sensor] == 5).all()
    assert (classes.tx_power_dbm[relay] == 30).all() and sensor.any() and relay.any()
    assert (classes.frequency_hz[relay] == DeviceClass().frequency_hz).all()


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ("{sensr: {frequency_hz: 3e8}}", "sensor"),
        ("{sensor: {frequency: 3e8}}", "frequency_hz"),
        ("{phone: {battery_j: 0}}", "battery_j is 0"),
    ],
)
def test_figures_that_no_class_has_are_refused_when_read(figures, words):
    with pytest.raises(InputError, match=words):
        load_config(None, ["devices.classes=mixed", f"devices.class_figures={figures}"])


@pytest.mark.parametrize("scheduler", ["fplinq", "coloring", "max_weight", "proportional_fair"])
def test_what_compares_all_pairs_is_refused_for_many_devices_when_read(scheduler):
    with pytest.raises(InputError, match="dense_devices"):
        load_config(None, [f"radio.scheduler={scheduler}", "devices.count=6000"])
