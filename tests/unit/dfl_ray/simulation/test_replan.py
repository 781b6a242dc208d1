"""A run's recorded requests over its own radio give its own records, and over another one its figures."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from dfl_ray.__main__ import main
from dfl_ray.config.check import task_names
from dfl_ray.config.load import load_config
from dfl_ray.config.yamlio import dump
from dfl_ray.errors import InputError
from dfl_ray.network.traffic import TransferRequests
from dfl_ray.records import RunFolder, load_run, topology_tables
from dfl_ray.records.conforming import conform
from dfl_ray.records.schema import STATE_ENERGY_COLUMNS, TABLES
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.radio_tables import attempt_table, expand_hops, radio_metrics, transfer_table
from dfl_ray.simulation.recorded_requests import COLUMNS, recorded_requests
from dfl_ray.simulation.replan import replan, replan_config, replanned_rounds

WORDS = ("name=one", "method=dlora", "devices.count=9", "rounds=3", "topology=ring", "topology.order=random",
         "topology.reach=relay", "devices.area_m=[500,500]", "devices.classes=mixed", "devices.battery_j=0.55",
         "radio.max_attempts=1", "radio.deadline_s=0.5", "method.local_steps=1", "seed=2")  # fmt: skip
"""Relays, losses, a deadline, and batteries that run empty."""
DEVICE_COLUMNS = ("energy_j", "radio_energy_j", "compute_energy_j", "idle_energy_j", "alive", "late")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The records of a run, but for what training would add: its rounds are played without a model."""
    config = load_config(None, list(WORDS))
    found = dry_run(config)
    folder = RunFolder.create(tmp_path_factory.mktemp("replan"), "one", dump(config.model_dump(mode="json")))
    names = task_names(config)
    folder.write_topology(*topology_tables(found.outline.deployment.topology, names))
    for r, done in found.played.items():
        plan = done.plan
        devices = {name: getattr(plan, name) for name in DEVICE_COLUMNS}
        folder.append(
            {
                "devices": pd.DataFrame({"device": np.arange(9), "compute_s": done.cost.seconds, **devices}),
                "transfers": transfer_table(plan, done.hops, done.requests, names),
                "attempts": attempt_table(plan),
            },
            round=r,
        )
        row = {"round": r, "wall_s": 0.0, **radio_metrics(plan, done.arrived)}
        folder.append({"rounds": {name: [value] for name, value in row.items()}}, round=r)
    folder.finish("done")
    return load_run(folder.path)


def test_the_runs_own_radio_gives_its_own_records_bit_for_bit(run):
    assert run.transfers["hop"].max() > 1 and not run.transfers["delivered"].all()
    assert set(run.transfers["outcome"]) >= {"delivered", "failed", "upstream"}
    for one in replanned_rounds(run, replan_config(run.path, [])):
        r, asked = one.round_index, one.requests
        for name, made in (
            ("transfers", transfer_table(one.plan, asked.hops, asked.wanted, asked.tasks)),
            ("attempts", attempt_table(one.plan)),
        ):
            made = conform(made.assign(round=r), TABLES[name]).to_pandas()
            was = run.table(name, rounds=(r, r))
            pd.testing.assert_frame_equal(made[was.columns], was, check_exact=True)
        devices = run.table("devices", rounds=(r, r))
        for name in DEVICE_COLUMNS:
            assert np.array_equal(getattr(one.plan, name), devices[name].to_numpy()), name
    found = replan(run.path, [])
    columns = list(found.recorded.columns)
    pd.testing.assert_frame_equal(found.rounds[columns], found.recorded, check_exact=True, check_dtype=False)
    assert columns[0] == "round" and {"starved_fraction", "sinr_db_p05", "airtime_s", "delivered"} <= set(
        columns
    )
    assert found.notes == ("Every request fares as in the run: the devices would have learned the same.",)


def test_another_radio_is_told_from_the_first_round_in_which_other_messages_arrive(run, capsys, tmp_path):
    table = tmp_path / "rounds.csv"
    words = ["radio.max_attempts=4", "radio.deadline_s=null"]
    assert main(["replan", str(run.path), *words, "-o", str(table), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    delivered, wanted = told["totals"]["delivered"], told["totals"]["transfers"]
    assert delivered["replanned"] > delivered["run"] and wanted["run"] == wanted["replanned"]
    assert told["totals"]["compute_energy_j"]["run"] > 0
    rows = pd.read_csv(table)
    other = rows[rows["newly_delivered"] + rows["newly_lost"] > 0]
    assert told["notes"][0].startswith(f"From round {other['round'].iloc[0]} of 3 on")
    gained = rows["newly_delivered"].sum() - rows["newly_lost"].sum()
    assert delivered["replanned"] - delivered["run"] == gained


def test_energy_by_state_of_a_run_that_did_not_record_it(run, capsys):
    assert main(["replan", str(run.path), "radio.energy=states", "--json"]) == 0
    told = capsys.readouterr()
    totals = json.loads(told.out)["totals"]
    parts = {name: totals[name] for name in STATE_ENERGY_COLUMNS}
    assert all(one["run"] is None and one["replanned"] >= 0 for one in parts.values())
    radio = totals["radio_energy_j"]["replanned"]
    assert sum(one["replanned"] for one in parts.values()) == pytest.approx(radio, rel=1e-12)
    assert totals["delivered"]["run"] > 0 and totals["receive_energy_j"]["replanned"] > 0


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("rounds=2", "radio.key=value"),
        ("radio.schedulr=tdma", "schedulr"),
        ("radio.deadline_s=-1", "deadline_s"),
        ("radio.priority=information", "size of the change"),
    ],
)
def test_what_is_not_the_radios_is_refused(run, word, names):
    with pytest.raises(InputError, match=names):
        replan(run.path, [word])


def test_a_run_whose_times_follow_from_the_radio_is_refused(tmp_path):
    config = load_config(None, ["schedule=async", "method=dlora"])
    RunFolder.create(tmp_path, "late", config.model_dump(mode="json")).finish("done")
    with pytest.raises(InputError, match="schedule: async"):
        replan_config(tmp_path / "late", [])


def asked(*rows):
    """Requests (source, destination, message) in the order given."""
    source, to, message = np.array(rows).T
    tasks = np.where(source == 3, 0, -1)
    alike, change = np.ones(len(rows), np.int64), to / 8
    return TransferRequests(source, to, message, 40 * alike, alike, tasks, change)


def recorded(wanted, way, delivered):
    """The hops' rows of `transfers`."""
    t, owner = way.transfers, way.owner
    return pd.DataFrame(
        {
            "round": 1, "transfer": np.arange(len(owner)), "source": t.source, "destination": t.destination,
            "kind": "adapter", "task": [None if k < 0 else "agree" for k in wanted.task[owner]],
            "payload_bytes": t.payload_bytes, "message": wanted.message[owner], "hop": way.hop,
            "origin": wanted.source[owner], "receiver": wanted.destination[owner], "delivered": delivered,
            "change": t.change,
        }
    )[list(COLUMNS)]  # fmt: skip


LINKS = {(True, "", 0, 1), (True, "", 0, 2), (True, "agree", 0, 3), (False, "", 0, 3)}


def fates(wanted, arrived):
    return {
        (int(a), int(b)): bool(c) for a, b, c in zip(wanted.source, wanted.destination, arrived, strict=True)
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_requests_are_read_back_from_hops_that_several_ways_share(order):
    """0 sends one message to 1, which relays it to 2 and 3: whenever 1 asks, the hop to it is its row.

    What is new to 2 and 3 is worth as much on the hop to 1, where 3's counts, as the larger.
    """
    rows = [(0, 1, 0), (0, 2, 0), (0, 3, 0)]
    wanted = asked(*(rows[k] for k in order), (3, 0, 1))
    way = expand_hops(wanted, {(0, 2): (0, 1, 2), (0, 3): (0, 1, 3)})
    delivered = np.array([True, False, True, False])
    found = recorded_requests(recorded(wanted, way, delivered), len(wanted))
    for name in ("source", "destination", "payload_bytes", "message", "after", "change"):
        assert np.array_equal(getattr(found.hops.transfers, name), getattr(way.transfers, name)), name
    assert fates(found.wanted, found.arrived) == fates(wanted, way.arrived(delivered, len(wanted)))
    assert found.unknown == 0 and set(recorded(wanted, way, delivered)["receiver"]) == {0, 1, 2, 3}
    t = way.transfers
    assert t.change[(t.source == 0) & (t.destination == 1)].tolist() == [3 / 8]


def test_a_request_that_the_records_do_not_tell_is_counted():
    """On the way 0-3-1-2 either 3 or 1 wanted the message too: who is linked with 0 tells, if it is known.

    So in records of before 29 November 2026, which had a row under the first request that goes over it.
    """
    wanted = asked((0, 2, 0), (0, 1, 0))
    way = expand_hops(wanted, {(0, 2): (0, 3, 1, 2), (0, 1): (0, 3, 1)})
    assert recorded_requests(recorded(wanted, way, True), len(wanted)).unknown == 0
    old = recorded(wanted, way, True).assign(receiver=2)
    found = recorded_requests(old, len(wanted), lambda: LINKS)
    assert found.unknown == 0 and fates(found.wanted, found.arrived) == {(0, 1): True, (0, 2): True}
    found = recorded_requests(old, len(wanted))
    assert found.unknown == 1 and fates(found.wanted, found.arrived) == {(0, 2): True}
    assert found.hops.transfers.after.tolist() == [-1, 0, 1]
