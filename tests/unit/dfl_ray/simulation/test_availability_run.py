"""Whole small runs whose devices come and go: nobody acts while off, newcomers are served, planned, resumed alike."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.config.locations import with_absolute_paths
from dfl_ray.errors import InputError, Interrupted
from dfl_ray.network.availability import presence_of
from dfl_ray.records import load_run
from dfl_ray.simulation.driver import Driver
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.launch import launch, resume
from tests.conftest import SMALL_RUN, small_config
from tests.records import assert_asked_again_as_it_was, assert_same_records
from tests.unit.dfl_ray.simulation.test_local_run import stop_after

WORDS = ("runtime.backend=local", "rounds=8", "devices.count=6", "devices.area_m=[100,100]", "method.prune_start=0.1",
         "method.density=0.5", "evaluate.every=8", "method.replicas_every=2",
         "devices.class_figures={phone: {frequency_hz: 5e6}}")  # fmt: skip
"""Slow devices, so that a round takes about a second of virtual time."""
TRACE = """device,t_s,on,speed
0,0,1,0.5
1,1.2,0,1
1,3.9,1,1
3,0,0,1
3,2.5,1,1
4,4.6,0,1
"""
"""Device 0 is slow, 1 is off for a while (from the midst of a round), 3 joins late, and 4 leaves for good."""


def coming_and_going(folder):
    path = folder / "trace.csv"
    path.write_text(TRACE)
    return (*WORDS, f"devices.availability.path={path}")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    path = tmp_path_factory.mktemp("ran")
    return load_run(launch(small_config(path, "name=ran", *coming_and_going(path)), json=True).folder)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    path = tmp_path_factory.mktemp("planned")
    return dry_run(small_config(path, *coming_and_going(path))).played


def off(device, times):
    since = {1: (1.2, 3.9), 3: (0.0, 2.5), 4: (4.6, np.inf)}
    low, high = since.get(device, (np.inf, np.inf))
    return (low <= times) & (times < high)


def test_a_device_that_is_off_when_a_round_begins_takes_no_part(ran):
    starts = np.concatenate([[0.0], ran.rounds["simulated_s"].to_numpy()[:-1]])
    seen = set()
    for device, rows in ran.devices.groupby("device"):
        away = off(device, starts)
        assert (rows["on"].to_numpy() == ~away).all()
        out = rows[away]
        assert (
            out["loss"].isna().all()
            and (out[["compute_s", "compute_energy_j", "sent_bytes"]].to_numpy() == 0).all()
        )
        assert not out["late"].any()
        seen |= {(device, bool(a)) for a in away}
    assert {(1, True), (1, False), (3, True), (3, False), (4, True), (4, False)} <= seen
    assert (
        ran.rounds["off_devices"].tolist()
        == (~ran.devices["on"]).groupby(ran.devices["round"]).sum().tolist()
    )


def test_nothing_is_on_air_to_or_from_a_device_that_is_off(ran, planned):
    """The plan's transmissions, which are the run's, are on the virtual clock."""
    sent = pd.concat([played.plan.table for played in planned.values()])
    assert len(sent) == len(ran.attempts)
    for device in (1, 3, 4):
        mine = sent[sent["source"] == device]
        assert not off(device, mine["start_s"].to_numpy()).any()
        assert not off(device, np.nextafter(mine["end_s"].to_numpy(), 0)).any()
        heard = sent[(sent["destination"] == device) & sent["decoded"]]
        assert not (off(device, heard["start_s"].to_numpy()) | off(device, heard["end_s"].to_numpy())).any()
    assert "off" in set(ran.transfers["outcome"])


def test_a_round_waits_for_nobody_who_is_off_and_longer_for_the_slow(ran):
    first = ran.devices[ran.devices["round"] == 1].set_index("device")
    config = load_config(None, [*SMALL_RUN, *WORDS])
    plain = dry_run(config, rounds=1).played[1].cost.seconds
    np.testing.assert_allclose(first["compute_s"][0], 2 * plain[0])
    np.testing.assert_allclose(first["compute_s"][2], plain[2])
    assert ran.rounds["simulated_s"][0] < 2 * plain[0] + 0.5


def test_a_newcomer_gets_the_experts_it_lacks_and_they_are_charged(ran):
    joined = int(ran.devices[(ran.devices["device"] == 3) & ran.devices["on"]]["round"].min())
    mine = ran.transfers[(ran.transfers["receiver"] == 3) & (ran.transfers["kind"] == "expert")]
    assert len(mine) and (mine["round"] >= joined).all() and mine["delivered"].any()
    assert (mine[mine["delivered"]]["energy_j"] > 0).all()
    last = ran.experts[(ran.experts["device"] == 3) & (ran.experts["round"] == 8)]
    assert set(last["task"]) == {"topic", "agree"}


def test_the_graph_goes_round_those_who_are_off(ran):
    for r in range(1, 9):
        edges = ran.topology_at(r)[1]
        away = ran.devices[(ran.devices["round"] == r) & ~ran.devices["on"]]["device"]
        assert not np.isin(edges[["source", "destination"]].to_numpy(), away).any()


def test_a_topology_is_recorded_only_when_it_is_another(ran):
    recorded = sorted(ran.topology_nodes["round"].unique())
    assert recorded[0] == 1 and 1 < len(recorded) < ran.last_round
    edges = [ran.topology_at(r)[1].drop(columns="round").reset_index(drop=True) for r in recorded]
    assert not any(one.equals(other) for one, other in itertools.pairwise(edges))


def test_an_evaluation_asked_again_is_of_those_who_were_on(ran):
    assert_asked_again_as_it_was(ran)


def test_resumed_in_the_midst_of_it_equals_undisturbed(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(Driver, "_evaluate_base", stop_after(Driver._evaluate_base, 3))
    with pytest.raises(Interrupted):
        launch(small_config(tmp_path, "name=cut", *coming_and_going(tmp_path)), json=True)
    monkeypatch.undo()
    resumed = load_run(resume(tmp_path / "cut", json=True).folder)
    assert_same_records(ran, resumed, exact=True)
    for table in ("topology_nodes", "topology_edges"):
        pd.testing.assert_frame_equal(getattr(ran, table), getattr(resumed, table), check_exact=True)


def test_the_plan_is_the_runs(ran, planned):
    columns = ["source", "destination", "payload_bytes"]
    for r, played in planned.items():
        mine = ran.transfers[ran.transfers["round"] == r]
        hops = played.hops.transfers
        planned = np.stack([hops.source, hops.destination, hops.payload_bytes], axis=1)
        assert sorted(map(tuple, mine[columns].to_numpy().tolist())) == sorted(map(tuple, planned.tolist()))
        np.testing.assert_allclose(played.plan.end_s, ran.rounds["simulated_s"][r - 1])


def test_a_run_ends_when_nobody_ever_comes_back_and_waits_while_all_are_off(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("device,t_s,on\n" + "".join(f"{d},0,0\n{d},7,1\n{d},7.2,0\n" for d in range(4)))
    words = ("runtime.backend=local", f"devices.availability.path={path}", WORDS[-1])
    found = load_run(launch(small_config(tmp_path, "name=end", *words), json=True).folder)
    rounds = found.rounds
    assert "ever on again" in found.info["stopped_by"]
    assert rounds["simulated_s"][0] == 7.0 and rounds["off_devices"][0] == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [("device,time\n0,1\n", "columns"), ("device,t_s,on\n0,1,x\n", "line 2"), ("device,t_s,on\n99,1,0\n", "device 99"),
     ("device,t_s\n", "no row")],
)  # fmt: skip
def test_what_is_no_trace_is_refused(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match="no trace") as caught:
        dry_run(small_config(tmp_path, f"devices.availability.path={tmp_path / 't.csv'}"))
    assert words in str(caught.value)


def test_parquet_and_csv_are_read_alike_and_paths_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coming_and_going(tmp_path)
    pd.read_csv("trace.csv").to_parquet("trace.parquet")
    sections = [load_config(None, [f"devices.availability.path=trace.{end}"]) for end in ("csv", "parquet")]
    one, two = (presence_of(c.devices.availability, 6) for c in sections)
    assert all(np.array_equal(getattr(one, n), getattr(two, n)) for n in ("device", "t_s", "on", "speed"))
    assert with_absolute_paths(sections[0]).devices.availability.path == str(tmp_path / "trace.csv")
