"""Whole small runs whose devices move: recorded, resumed bit for bit, told of partitions, and planned alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dfl_ray.errors import Interrupted
from dfl_ray.records import load_run
from dfl_ray.simulation.driver import Driver
from dfl_ray.simulation.launch import launch, resume
from tests.conftest import small_config
from tests.records import assert_same_records, assert_same_traffic
from tests.unit.dfl_ray.simulation.test_local_run import stop_after

WORDS = ("runtime.backend=local", "rounds=8", "devices.count=6", "devices.area_m=[3000,100]", "method.prune_start=0.1",
         "method.density=0.5", "evaluate.every=8", "method.replicas_every=2",
         "devices.class_figures={phone: {frequency_hz: 5e6}}")  # fmt: skip
"""Slow devices, so that a round takes about a second of virtual time."""


def moving(folder):
    """A trace in which three of six devices drive 2.5 km away after two seconds and are back after six."""
    lines = ["device,t_s,x_m,y_m"]
    for device in range(6):
        y = 10 + 15 * device
        lines += [f"{device},0,{100 + device},{y}", f"{device},1000,{130 + device},{y}"]
        if device % 2:
            lines += [f"{device},{t},{x},{y}" for t, x in ((2, 105), (2.5, 2600), (5.5, 2600), (6, 105))]
    path = folder / "trace.csv"
    path.write_text("\n".join(lines) + "\n")
    return (*WORDS, "devices.mobility=trace", f"devices.mobility.path={path}")


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    path = tmp_path_factory.mktemp("moved")
    return load_run(launch(small_config(path, "name=moved", *moving(path)), json=True).folder)


def test_the_requests_over_the_runs_own_radio_give_the_runs_figures(moved):
    assert_same_traffic(moved)


def test_positions_and_links_of_every_round_are_recorded(moved):
    nodes = moved.topology_nodes
    assert sorted(nodes["round"].unique()) == list(range(1, 9))
    starts = np.concatenate([[0.0], moved.rounds["simulated_s"].to_numpy()[:-1]])
    for r, start in enumerate(starts, 1):
        place = moved.topology_at(r)[0]["x_m"].to_numpy()
        slow = 100 + np.arange(6) + start * 0.03
        np.testing.assert_allclose(place[::2], slow[::2])
        fast = [
            np.interp(start, [0, 2, 2.5, 5.5, 6, 1000], [100 + d, 105, 2600, 2600, 105, 130 + d])
            for d in (1, 3, 5)
        ]
        np.testing.assert_allclose(place[1::2], fast)
        rows = moved.devices[moved.devices["round"] == r].sort_values("device")
        np.testing.assert_allclose(rows["x_m"], place)


def test_what_is_sent_goes_over_links_of_its_round(moved):
    sets = {}
    for r in range(1, 9):
        edges = moved.topology_at(r)[1]
        sets[r] = set(zip(edges["source"], edges["destination"], strict=True))
    assert len({frozenset(links) for links in sets.values()}) > 2
    hops = moved.transfers
    for r, a, b in zip(hops["round"], hops["source"], hops["destination"], strict=True):
        assert (min(a, b), max(a, b)) in sets[r]


def test_a_partition_is_told_and_healed(moved):
    log = (moved.path / "log.txt").read_text()
    assert "parts that cannot reach each other" in log
    assert "the graph is whole again" in log


def test_after_a_partition_the_holders_agree_on_masks_again(moved):
    """The two parts have chosen masks of their own; whatever is refused for that ends once a new one is in force."""
    refused = moved.rounds["refused"].to_numpy()
    assert refused[-1] == 0
    late = moved.transfers[(moved.transfers["round"] == 8) & (moved.transfers["kind"] == "adapter")]
    assert len(late) > 0 and late["delivered"].all()


def test_resumed_in_the_midst_of_movement_equals_undisturbed(moved, tmp_path, monkeypatch):
    monkeypatch.setattr(Driver, "_evaluate_base", stop_after(Driver._evaluate_base, 5))
    with pytest.raises(Interrupted):
        launch(small_config(tmp_path, "name=cut", *moving(tmp_path)), json=True)
    monkeypatch.undo()
    resumed = load_run(resume(tmp_path / "cut", json=True).folder)
    assert_same_records(moved, resumed, exact=True)
    for table in ("topology_nodes", "topology_edges"):
        pd.testing.assert_frame_equal(getattr(moved, table), getattr(resumed, table), check_exact=True)


def test_the_plan_is_the_runs(moved, tmp_path):
    from dfl_ray.simulation.dry_run import dry_run

    found = dry_run(small_config(tmp_path, *moving(tmp_path)))
    for r, played in found.played.items():
        mine = moved.transfers[moved.transfers["round"] == r]
        assert sorted(zip(mine["source"], mine["destination"], mine["payload_bytes"], strict=True)) == sorted(
            zip(
                played.hops.transfers.source,
                played.hops.transfers.destination,
                played.hops.transfers.payload_bytes,
                strict=True,
            )
        )


def test_standing_still_by_a_model_is_standing_still(tmp_path):
    """The whole machinery of movement with nobody moving gives the records of a static run."""
    words = ("runtime.backend=local", "rounds=2")
    still = load_run(launch(small_config(tmp_path, "name=still", *words), json=True).folder)
    slow = (
        *words,
        "devices.mobility=gauss_markov",
        "devices.mobility.mean_speed_mps=0",
        "devices.mobility.sigma_mps=0",
    )
    assert_same_records(
        still, load_run(launch(small_config(tmp_path, "name=slow", *slow), json=True).folder), exact=True
    )


def test_vehicles_that_come_round_keep_their_velocity_in_the_run_and_over_its_requests(tmp_path):
    # Rounds of about a second on a road that takes half a second: what the way would tell is wrong.
    words = ("devices.mobility=highway", "devices.mobility.speed_max_mps=39", "radio.doppler=velocity",
             "radio.speed_mps=0", "devices.area_m=[30,20]", "rounds=3", "radio.fading=rayleigh")  # fmt: skip
    config = small_config(
        tmp_path, "name=road", *(w for w in WORDS if not w.startswith(("devices.area", "rounds"))), *words
    )
    run = load_run(launch(config, json=True).folder)
    assert_same_traffic(run)
