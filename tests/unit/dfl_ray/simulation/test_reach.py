"""What is told of devices out of reach is right to a tenth of a dB: the power told joins all, a tenth less does not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.network.deployment import build_deployment
from dfl_ray.network.notes import graph_notes, movement_notes, undecodable_notes
from dfl_ray.simulation.dry_run import dry_run

SPARSE = ("devices.count=10", "devices.area_m=[900,900]")


def deployed(*words, tasks=6):
    config = load_config(None, list(words))
    made = build_deployment(config, tasks)
    return config, made, graph_notes(config.topology, made.topology, made.channel)


def parts(*words):
    return int(deployed(*words)[1].topology.components.max()) + 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", ["uniform", "mixed"])
def test_the_power_and_the_snr_told_join_all_and_a_tenth_less_does_not(seed, classes):
    words = (*SPARSE, f"seed={seed}", f"devices.classes={classes}")
    _, made, notes = deployed(*words)
    (note,) = [n for n in notes if "cannot reach" in n or "No device has a link" in n]
    told = dict(re.findall(r"`(radio\.tx_power_dbm|topology\.min_snr_db)=(-?[\d.]+)`", note))
    assert told or "classes of devices" in note
    for key, value in told.items():
        step = -0.1 if key == "radio.tx_power_dbm" else 0.1
        assert parts(*words, f"{key}={value}") == 1
        assert parts(*words, f"{key}={float(value) + step:.1f}") > 1
    own = bool(np.isfinite(made.channel.classes.tx_power_dbm).any())
    assert ("radio.tx_power_dbm" in told) or own
    away = re.search(r"range of (\d+) m", note)
    assert away and int(away.group(1)) > 100


def test_devices_out_of_reach_are_named(tmp_path):
    """Three in a corner and one far away: the far one is named, with the pair that comes closest."""
    (tmp_path / "p.csv").write_text("x_m,y_m\n10,10\n40,10\n10,40\n3000,3000\n")
    few = ("devices.count=4", "devices.min_holders=1", "tasks.names=[topic,agree]")
    words = (*few, "devices.area_m=[3000,3000]", "radio.shadowing_sigma_db=0", "devices.placement=file",
             f"devices.placement.path={tmp_path / 'p.csv'}")  # fmt: skip
    (note,) = [n for n in deployed(*words, tasks=2)[2] if "cannot reach" in n]
    assert "Out of the others' reach: devices 3. " in note
    pair = re.search(r"are (\d) and 3 \((\d+) m", note)
    assert pair and abs(float(pair.group(2)) - np.hypot(2960, 2990)) < 60
    assert not deployed(*few, "devices.area_m=[50,50]", tasks=2)[2]


@pytest.mark.parametrize("rate", ["shannon", "cqi"])
def test_links_that_never_decode_part_the_graph_by_the_threshold_and_no_note_says_otherwise(rate):
    words = ("devices.count=10", "devices.area_m=[400,400]", "seed=1", f"radio.rate={rate}")
    assert parts(*words) == 1
    config, made, notes = deployed(*words, "radio.sinr_min_db=30")
    assert made.undecodable and made.topology.components.max() > 0
    (note,) = [n for n in notes if "cannot reach" in n or "No device has a link" in n]
    (other,) = undecodable_notes(config.topology, made.undecodable, parted=True)
    assert (
        "topology.min_snr_db=" not in note
        and "Raise `topology" not in other
        and "Lower `topology" not in other
    )
    told = dict(re.findall(r"`(radio\.tx_power_dbm|radio\.sinr_min_db)=(-?[\d.]+)`", note))
    assert set(told) == {"radio.tx_power_dbm", "radio.sinr_min_db"}
    assert parts(*words, f"radio.sinr_min_db={told['radio.sinr_min_db']}") == 1
    assert parts(*words, "radio.sinr_min_db=30", f"radio.tx_power_dbm={told['radio.tx_power_dbm']}") == 1
    lower = float(told["radio.tx_power_dbm"]) - 0.2
    assert parts(*words, "radio.sinr_min_db=30", f"radio.tx_power_dbm={lower:.1f}") > 1


def test_no_power_beyond_what_is_accepted_is_told():
    words = ("devices.count=10", "devices.area_m=[1000000,1000000]", "seed=0", "radio.path_loss=log_distance")
    (note,) = [n for n in deployed(*words)[2] if "cannot reach" in n or "No device has a link" in n]
    assert "radio.tx_power_dbm" not in note and "a range of" in note


def test_settings_of_movement_are_told_to_have_no_effect_where_nobody_moves():
    def told(*words):
        found = movement_notes(load_config(None, list(words)).devices)
        return [re.findall(r"`devices\.mobility\.(\w+)`", note) for note in found]

    both = ("devices.mobility.hysteresis_db=6", "devices.mobility.rebuild_share=0.5")
    assert told(*both) == [["hysteresis_db"], ["rebuild_share"]] and not told()
    assert not told("devices.mobility.type=random_waypoint", *both)


LINKS = "source,target\n1,2\n2,3\n3,4\n4,5\n"


def in_parts(tmp_path, *words):
    """The note on six devices of which 1 to 5 lie on a line, by a file, and 0 is linked to nobody."""
    (tmp_path / "links.csv").write_text(LINKS)
    config = load_config(
        None,
        ["devices.count=6", "devices.min_holders=1", "tasks.names=[topic,agree]", "rounds=4", "topology.type=file",
         f"topology.path={tmp_path / 'links.csv'}", *words],
    )  # fmt: skip
    return config, "".join(n for n in dry_run(config).notes if "ut of its reach" in n or "cannot reach" in n)


@pytest.mark.parametrize(("method", "server"), [("fedavg_star", 0), ("flasc", 3)])
def test_whom_a_server_does_not_reach_is_told_from_its_side(tmp_path, method, server):
    config, note = in_parts(tmp_path, f"method={method}", f"method.server={server}")
    star = dry_run(config).outline.graph.star
    reached, alone = len(star) - 1, sorted(set(range(6)) - set(star))
    assert (
        f"The server, device {server}, reaches {reached} of 5 other devices: the others train alone" in note
    )
    assert f"Out of its reach: devices {', '.join(map(str, alone))}. " in note
    assert ("set `method.server` to a device of the largest part, such as 1" in note) == (server == 0)
    assert "tx_power_dbm" not in note and "add links between the parts to the file" in note


def test_whom_a_walk_does_not_reach_is_told(tmp_path):
    _, note = in_parts(tmp_path, "method=random_walk")
    assert "begins at device 0, which reaches 0 of 5 other devices: the others never train" in note
    assert "tx_power_dbm" not in note and "devices 1, 2, 3, 4, 5. " in note


def test_power_is_advised_where_the_radio_lacks_it_alone(tmp_path):
    _, near = in_parts(tmp_path, "method=dlora")
    assert "Out of the others' reach: devices 0. The radio could join them" in near and "_dbm" not in near
    _, far = in_parts(tmp_path, "method=dlora", "devices.area_m=[5000,5000]", "topology.reach=ignore")
    assert "`radio.tx_power_dbm=" in far and "has to list links between the parts too" in far
    few = (
        "devices.count=6",
        "devices.min_holders=1",
        "tasks.names=[topic,agree]",
        "topology.type=erdos_renyi",
    )
    made = dry_run(load_config(None, [*few, "topology.probability=0.05", "rounds=2"]))
    (drawn,) = [n for n in made.notes if "cannot reach" in n or "No device has a link" in n]
    assert "the keys of `topology`" in drawn and "_dbm" not in drawn


def test_a_server_out_of_the_radios_reach_is_told_what_joins_it(tmp_path):
    (tmp_path / "p.csv").write_text("x_m,y_m\n3000,3000\n10,10\n40,10\n10,40\n")
    words = ("devices.count=4", "devices.min_holders=1", "tasks.names=[topic,agree]", "devices.area_m=[3000,3000]",
             "radio.shadowing_sigma_db=0", "devices.placement=file", f"devices.placement.path={tmp_path / 'p.csv'}",
             "method=fedavg_star")  # fmt: skip
    config = load_config(None, list(words))
    (note,) = [n for n in dry_run(config).notes if "ut of its reach" in n]
    assert "reaches 0 of 3" in note and "are 0 and " in note and "such as 1" in note
