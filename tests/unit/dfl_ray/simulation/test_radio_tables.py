"""Hops, transfers, attempts, bytes and energy of a round: against a hand-made plan and against plans of the channel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from channels.channel import Channel
from channels.energy import DeviceClass, draw_classes
from channels.settings import RadioSettings
from channels.transfers import DELIVERED, FAILED, OUTCOMES, TABLE_COLUMNS, UNSERVED, RoundPlan
from dfl_ray.network.traffic import TransferRequests
from dfl_ray.records import ATTEMPTS, TRANSFERS
from dfl_ray.records.schema import conform
from dfl_ray.simulation.radio_tables import (
    attempt_sinr_db,
    attempt_table,
    bytes_on_air,
    expand_hops,
    radio_metrics,
    sent_bytes,
    transfer_table,
)
from dfl_ray.wire.message import Kind


def requests(rows: list[tuple[int, int, int, int]], *, task: int = 0) -> TransferRequests:
    """Requests from (source, destination, message, bytes)."""
    table = np.array(rows, np.int64).reshape(-1, 4)
    kind = np.full(len(table), int(Kind.ADAPTER))
    return TransferRequests(
        table[:, 0], table[:, 1], table[:, 2], table[:, 3], kind, np.full(len(table), task)
    )


def test_without_relays_every_request_is_one_hop():
    wanted = requests([(0, 1, 4, 10), (0, 2, 4, 10), (3, 0, 9, 7)])
    hops = expand_hops(wanted, {})
    for name in ("source", "destination", "message", "payload_bytes"):
        np.testing.assert_array_equal(getattr(hops.transfers, name), getattr(wanted, name))
    assert hops.owner.tolist() == [0, 1, 2] and hops.hop.tolist() == [1, 1, 1]
    assert len(expand_hops(requests([]), {}).transfers) == 0
    assert len(expand_hops(requests([]), {(0, 1): (0, 2, 1)}).transfers) == 0


def test_relayed_requests_become_a_path_of_hops_each_charged_in_full():
    wanted = requests([(0, 1, 4, 10), (0, 3, 4, 10), (5, 3, 6, 7)])
    hops = expand_hops(wanted, {(0, 3): (0, 7, 8, 3), (3, 0): (3, 8, 7, 0)})
    t = hops.transfers
    assert list(zip(t.source.tolist(), t.destination.tolist(), strict=True)) == [
        (0, 1), (0, 7), (7, 8), (8, 3), (5, 3)
    ]  # fmt: skip
    assert t.payload_bytes.tolist() == [10, 10, 10, 10, 7]
    assert hops.owner.tolist() == [0, 1, 1, 1, 2] and hops.hop.tolist() == [1, 1, 2, 3, 1]
    assert t.message.tolist()[:2] == [4, 4] and t.message.tolist()[4] == 6
    assert min(t.message.tolist()[2:4]) > 6  # above all numbers in use


def test_a_relay_gives_one_number_to_one_message_and_different_ones_to_different():
    """Relay 9 forwards message 1 of device 0 to two receivers, message 2 of 0 and message 1 of 4 to one each."""
    relays = {(0, 2): (0, 9, 2), (0, 3): (0, 9, 3), (4, 2): (4, 9, 2)}
    wanted = requests([(0, 2, 1, 5), (0, 3, 1, 5), (0, 2, 2, 6), (4, 2, 1, 8), (9, 2, 1, 3)])
    t = expand_hops(wanted, relays).transfers
    forwarded = {}
    for source, to, size, number in zip(t.source, t.destination, t.payload_bytes, t.message, strict=True):
        if source == 9:
            forwarded.setdefault(int(number), []).append((int(to), int(size)))
    assert sorted(forwarded.values()) == [[(2, 3)], [(2, 5), (3, 5)], [(2, 6)], [(2, 8)]]


def test_random_relays_against_a_derivation_by_dictionaries():
    rng = np.random.default_rng(5)
    relays, rows = {}, []
    for _ in range(60):
        path = rng.permutation(12)[: rng.integers(2, 6)].tolist()
        if len(path) > 2:
            relays[path[0], path[-1]] = tuple(path)
        rows.append((path[0], path[-1], int(rng.integers(0, 4)), 100 + path[0]))
    wanted = requests(rows)
    hops = expand_hops(wanted, relays)
    t, names, used = hops.transfers, {}, {}
    for i, (source, to, message, size) in enumerate(rows):
        chain = [int(hops.last[i])]
        while t.after[chain[0]] >= 0:
            chain.insert(0, int(t.after[chain[0]]))
        way = list(pairwise(relays.get((source, to), (source, to))))
        assert [(int(t.source[k]), int(t.destination[k])) for k in chain] == way
        assert hops.hop[chain].tolist() == list(range(1, len(way) + 1))
        assert (t.payload_bytes[chain] == size).all()
        for k, ends in zip(chain, way, strict=True):
            content = (source, message)
            assert names.setdefault((ends[0], int(t.message[k])), content) == content
            # Requests of one message share the way, whose hop belongs to the one that it ends at, else to the first.
            prefix = (content, tuple(way[: hops.hop[k]]))
            used.setdefault(prefix, (k, []))[1].append((k != chain[-1], i))
    assert sorted(k for k, _ in used.values()) == list(range(len(t)))
    assert all(hops.owner[k] == min(needed)[1] for k, needed in used.values())
    sent = {(sender, content) for (sender, _), content in names.items()}
    assert len(sent) == len(names)  # a sender has one number for each content


def test_a_request_arrives_if_all_its_hops_do():
    wanted = requests([(0, 1, 4, 10), (0, 3, 4, 10), (5, 3, 6, 7)])
    hops = expand_hops(wanted, {(0, 3): (0, 7, 8, 3)})
    assert hops.arrived(np.array([True] * 5), 3).tolist() == [True, True, True]
    # A hop is only sent, and so only delivered, if the one before it was.
    assert hops.transfers.after.tolist() == [-1, -1, 1, 2, -1]
    assert hops.arrived(np.array([True, True, False, False, True]), 3).tolist() == [True, False, True]
    assert hops.arrived(np.array([False, True, True, True, False]), 3).tolist() == [False, True, False]


WANTED = requests([(0, 1, 0, 800), (0, 3, 0, 800), (2, 1, 0, 400), (4, 0, 0, 100)], task=1)
RELAYS = {(0, 3): (0, 2, 3)}


def hand_made_plan() -> RoundPlan:
    """Five hops of `WANTED`: 0→1 and 0→2 by one broadcast, 2→3 once cut, 2→1 fails twice, 4→0 never runs.

    The broadcast is lost to 2 at first and repeated for it alone. All numbers are sums of powers of two.
    """
    rows = [
        # slot source to sinr rate start end bytes attempts delivered energy transfer transmission band power decoded
        (0, 0, 1, 8.0, 2.0, 16.0, 16.5, 800, 1, True, 0.5, 0, 0, 0, 0.25, True),
        (0, 0, 2, -2.0, 2.0, 16.0, 16.5, 800, 1, False, 0.5, 1, 0, 0, 0.25, False),
        (1, 0, 2, 4.0, 1.0, 16.5, 17.5, 800, 2, True, 1.0, 1, 1, 0, 0.25, True),
        (1, 2, 1, -8.0, 1.0, 16.5, 17.0, 400, 1, False, 0.25, 3, 2, 1, 0.5, False),
        (2, 2, 3, 6.0, 4.0, 17.5, 17.75, 300, 1, False, 0.125, 2, 3, 0, 0.5, False),
        (3, 2, 3, 6.5, 4.0, 17.75, 18.0, 500, 1, True, 0.125, 2, 4, 0, 0.5, True),
        (4, 2, 1, -9.0, 1.0, 18.0, 18.5, 400, 2, False, 0.25, 3, 5, 0, 0.5, False),
    ]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
    return RoundPlan(
        table=table,
        delivered=np.array([True, True, True, False, False]),
        finished_s=np.array([16.5, 17.5, 18.0, np.nan, np.nan]),
        attempts=np.array([1, 2, 1, 2, 0]),
        outcome=np.array([DELIVERED, DELIVERED, DELIVERED, FAILED, UNSERVED]),
        start_s=15.0,
        end_s=20.0,
        airtime_s=3.0,
        occupied_s=2.5,
        radio_energy_j=np.array([1.5, 0.5, 0.5, 0.25, 0.0]),
        compute_energy_j=np.array([4.0, 2.0, 8.0, 0.0, 1.0]),
        alive=np.array([True, True, True, False, True]),
        idle_energy_j=np.array([0.0, 0.0, 0.25, 0.0, 0.0]),
        late=np.array([False, False, False, False, True]),
        starved_fraction=0.5,
    )


def test_transfers_of_a_hand_made_plan():
    hops = expand_hops(WANTED, RELAYS)
    table = transfer_table(hand_made_plan(), hops, WANTED, ["a", "b"])
    expected = pd.DataFrame(
        {
            "transfer": range(5),
            "slot": [0, 1, 3, 4, None],
            "source": [0, 0, 2, 2, 4],
            "destination": [1, 2, 3, 1, 0],
            "kind": "adapter",
            "task": "b",
            "sinr_db": [8.0, 4.0, 6.5, -9.0, None],
            "rate_bps": [2.0, 1.0, 4.0, 1.0, None],
            "start_s": [0.0, 0.0, 1.5, 0.5, None],
            "end_s": [0.5, 1.5, 2.0, 2.5, None],
            "payload_bytes": [800, 800, 800, 400, 100],
            "attempts": [1, 2, 2, 2, 0],
            "delivered": [True, True, True, False, False],
            "energy_j": [0.5, 1.5, 0.25, 0.5, 0.0],
            "message": 0,
            "hop": [1, 1, 2, 1, 1],
            "origin": [0, 0, 0, 2, 4],
            "receiver": [1, 3, 3, 1, 0],
            "outcome": ["delivered", "delivered", "delivered", "failed", "unserved"],
        }
    )
    assert list(table.columns) == TRANSFERS.names[1:]
    assert conform(table, TRANSFERS, round=1).equals(conform(expected, TRANSFERS, round=1))


def test_attempts_of_a_hand_made_plan_are_its_rows():
    plan = hand_made_plan()
    table = attempt_table(plan)
    assert set(table.columns) == set(ATTEMPTS.names) - {"round"}
    assert table["attempt"].tolist() == [1, 1, 2, 1, 1, 2, 2]
    assert table["start_s"].tolist() == [0.0, 0.0, 0.5, 0.5, 1.5, 1.75, 2.0]
    assert table["end_s"].tolist() == [0.5, 0.5, 1.5, 1.0, 1.75, 2.0, 2.5]
    as_it_was = ["slot", "source", "destination", "sinr_db", "rate_bps", "payload_bytes", "delivered", "energy_j",
                 "transfer", "transmission", "subchannel", "power_w", "decoded"]  # fmt: skip
    pd.testing.assert_frame_equal(table[as_it_was], plan.table[as_it_was])
    assert plan.table["start_s"].min() == 16.0  # the plan itself is left alone
    assert conform(table, ATTEMPTS, round=1).num_rows == 7


def test_bytes_and_energy_of_a_hand_made_plan():
    plan = hand_made_plan()
    # 0: broadcast once and its repetition; 2: two failed attempts and the two of 2→3.
    assert sent_bytes(plan, 5).tolist() == [1600, 0, 1600, 0, 0]
    assert bytes_on_air(plan) == 3200
    row = radio_metrics(plan, np.array([True, True, False, False]))
    assert row["payload_bytes"] == 3200 and row["airtime_s"] == 3.0 and row["simulated_s"] == 20.0
    assert (row["radio_energy_j"], row["compute_energy_j"], row["energy_j"]) == (2.75, 15.0, 17.75)
    assert attempt_table(plan)["energy_j"].sum() == row["radio_energy_j"]
    assert (row["idle_energy_j"], row["starved_fraction"]) == (0.25, 0.5)
    assert (row["transfers"], row["delivered"], row["lost"], row["delivered_fraction"]) == (4, 2, 2, 0.5)
    assert row["alive_devices"] == 4
    # Percentiles by hand over all seven attempts, sorted: -9 -8 -2 4 6 6.5 8.
    assert row["sinr_db_p50"] == 4.0
    assert row["sinr_db_p05"] == pytest.approx(-9 + 0.3 * 1) and row["sinr_db_p95"] == pytest.approx(
        8 - 0.3 * 1.5
    )


def test_attempts_without_a_signal_do_not_count_in_the_percentiles():
    plan = hand_made_plan()
    plan.table.loc[6, "sinr_db"] = -np.inf
    assert attempt_sinr_db(plan).tolist() == [8.0, -2.0, 4.0, -8.0, 6.0, 6.5]


def test_a_round_in_which_nothing_is_sent():
    channel = Channel(RadioSettings(), np.array([[0.0, 0.0], [9.0, 0.0]]), seed=0)
    wanted = requests([])
    hops = expand_hops(wanted, {})
    plan = channel.plan_round(1, hops.transfers, compute_energy_j=np.array([0.5, 0.25]))
    row = radio_metrics(plan, hops.arrived(plan.delivered, 0))
    assert (row["payload_bytes"], row["transfers"], row["radio_energy_j"]) == (0, 0, 0.0)
    assert row["energy_j"] == row["compute_energy_j"] == 0.75
    assert row["delivered_fraction"] is row["sinr_db_p50"] is None
    assert len(transfer_table(plan, hops, wanted, ["a"])) == len(attempt_table(plan)) == 0
    assert conform(attempt_table(plan), ATTEMPTS, round=1).num_rows == 0
    assert sent_bytes(plan, 2).tolist() == [0, 0]


def planned(scheduler: str, **more) -> tuple[RoundPlan, pd.DataFrame, pd.DataFrame]:
    """Plan, transfers and attempts of 14 devices that send one message to three neighbours each, one relayed."""
    positions = np.random.default_rng(2).uniform(0, 400, (14, 2))
    settings = RadioSettings(scheduler=scheduler, **more)
    channel = Channel(settings, positions, seed=3)
    near = np.argsort(np.linalg.norm(positions[:, None] - positions[None], axis=2), axis=1)
    wanted = requests([(i, int(j), 0, 3000 + 10 * i) for i in range(14) for j in near[i, 1:4]])
    far = int(near[0, 3])
    hops = expand_hops(wanted, {(0, far): (0, int(near[0, 1]), far)})
    plan = channel.plan_round(1, hops.transfers, compute_energy_j=np.linspace(0.1, 0.3, 14))
    return plan, transfer_table(plan, hops, wanted, ["a"]), attempt_table(plan)


@pytest.mark.parametrize("scheduler", ["greedy_sinr", "broadcast", "proportional_fair", "aloha"])
def test_records_of_a_planned_round_agree(scheduler: str):
    plan, transfers, attempts = planned(scheduler)
    on_air: dict[int, tuple[int, int]] = {}
    for row in attempts.itertuples():
        seen = on_air.setdefault(int(row.transmission), (int(row.source), int(row.payload_bytes)))
        assert seen == (row.source, row.payload_bytes)  # the rows of one transmission agree
    by_sender = [sum(size for sender, size in on_air.values() if sender == d) for d in range(14)]
    assert sent_bytes(plan, 14).tolist() == by_sender
    assert bytes_on_air(plan) == sum(by_sender) > 0
    if scheduler == "broadcast":
        assert len(on_air) < len(attempts)
        per_receiver = (transfers["payload_bytes"] * transfers["attempts"]).groupby(transfers["source"]).sum()
        assert sum(by_sender) < per_receiver.sum()
    on_air_j = plan.radio_energy_j.sum() - plan.idle_energy_j.sum()
    assert on_air_j == pytest.approx(attempts["energy_j"].sum(), rel=1e-12)
    np.testing.assert_allclose(
        transfers["energy_j"],
        attempts.groupby("transfer")["energy_j"].sum().reindex(range(len(transfers)), fill_value=0),
        rtol=1e-12,
    )
    for transfer, rows in attempts.groupby("transfer"):
        hop = transfers.iloc[transfer]
        assert rows["attempt"].tolist() == list(range(1, hop["attempts"] + 1))
        assert (hop["start_s"], hop["end_s"]) == (rows["start_s"].iloc[0], rows["end_s"].iloc[-1])
        assert rows["delivered"].sum() == hop["delivered"]
        assert rows.loc[rows["decoded"], "payload_bytes"].sum() == hop["payload_bytes"] * hop[
            "delivered"
        ] or (not hop["delivered"])
        assert (hop["outcome"] == "delivered") == hop["delivered"] and hop["outcome"] in OUTCOMES
    assert not (attempts["delivered"] & ~attempts["decoded"]).any()


def test_energy_is_booked_once_and_not_by_a_device_without_charge():
    """Device 1 computes its battery empty in round 1, and books nothing in round 2; the others go on."""
    positions = np.array([[0.0, 0.0], [20.0, 0.0], [40.0, 0.0]])
    classes = draw_classes([DeviceClass(battery_j=2.0)], 3, seed=0)
    channel = Channel(RadioSettings(), positions, seed=0, device_classes=classes)
    hops = expand_hops(requests([(0, 2, 0, 500), (1, 2, 0, 500), (2, 0, 0, 500)]), {})
    compute = np.array([0.1, 3.0, 0.2])
    left = np.full(3, 2.0)
    # A battery of 2 J gives no 3 J.
    for round_index, training in ((1, [0.1, 2.0, 0.2]), (2, [0.1, 0.0, 0.2])):
        plan = channel.plan_round(round_index, hops.transfers, compute_energy_j=compute)
        assert plan.compute_energy_j.tolist() == training
        assert plan.radio_energy_j[1] == 0.0 and (plan.radio_energy_j[[0, 2]] > 0).all()
        np.testing.assert_array_equal(plan.energy_j, plan.compute_energy_j + plan.radio_energy_j)
        left = np.maximum(left - plan.energy_j, 0.0)
        np.testing.assert_allclose(channel.battery_j, left, rtol=1e-12)
        assert plan.alive.tolist() == [True, False, True]
    assert plan.energy_j[1] == 0.0
