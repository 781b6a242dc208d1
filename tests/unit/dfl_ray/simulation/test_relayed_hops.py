"""Relayed transfers as hops the channel carries one after the other."""

import numpy as np

from channels.channel import Channel
from channels.settings import RadioSettings
from dfl_ray.config.load import load_config
from dfl_ray.network.traffic import TransferRequests
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.radio_tables import expand_hops


def wanted(*rows):
    source, destination, message = np.array(rows).T
    size = np.full(len(rows), 4000)
    return TransferRequests(
        source, destination, message, size, np.zeros(len(rows), int), -np.ones(len(rows), int)
    )


def test_a_hop_waits_for_the_one_before_and_a_relay_gets_a_message_once():
    # 0 sends one message to 2 and to 3, both over 1, and another to 2.
    asked = wanted((0, 2, 0), (0, 3, 0), (0, 2, 1), (3, 1, 0))
    hops = expand_hops(asked, {(0, 2): (0, 1, 2), (0, 3): (0, 1, 3)})
    t = hops.transfers
    assert list(zip(t.source, t.destination, t.after, strict=True)) == [
        (0, 1, -1), (1, 2, 0), (1, 3, 0), (0, 1, -1), (1, 2, 3), (3, 1, -1)
    ]  # fmt: skip
    assert hops.last.tolist() == [1, 2, 4, 5]
    # The two forwarded copies of one message are one message of the relay, told apart from the other.
    assert t.message[1] == t.message[2] != t.message[4]
    got = np.array([True, True, False, False, False, True])
    assert hops.arrived(got, 4).tolist() == [True, False, False, True]


def test_no_hop_is_on_air_before_its_source_has_the_message():
    place = [[0.0, 0.0], [50.0, 0.0], [100.0, 0.0]]
    channel = Channel(RadioSettings(), place, seed=0)
    hops = expand_hops(wanted((0, 2, 0)), {(0, 2): (0, 1, 2)})
    for number in range(12):
        plan = channel.plan_round(number, hops.transfers, ready_s=[5.0, 0.0, 0.0])
        second = plan.table[plan.table.source == 1]
        assert (second.start_s >= plan.finished_s[0]).all() and len(second) > 0


def test_relays_asked_for_in_the_configuration_are_charged_for_every_hop():
    """A ring laid out freely over a sparse area: what is out of reach goes over other devices, hop by hop."""
    words = ("topology=ring", "topology.order=random", "topology.reach=relay", "devices.count=16",
             "devices.area_m=[500,500]", "method=dlora", "rounds=1", "seed=3", "tasks.train_rows=200")  # fmt: skip
    config = load_config(None, list(words))
    played, outline = (found := dry_run(config)).played[1], found.outline
    relays, hops = outline.graph.relays, played.hops
    assert relays and hops.hop.max() > 1
    reach = {tuple(pair) for pair in outline.deployment.topology.edges.tolist()}
    ends = np.stack([hops.transfers.source, hops.transfers.destination], axis=1)
    assert {tuple(pair) for pair in np.sort(ends, axis=1).tolist()} <= reach
    for request in np.flatnonzero(played.arrived).tolist():
        a, b = int(played.requests.source[request]), int(played.requests.destination[request])
        way, place = [int(hops.last[request])], int(hops.transfers.after[hops.last[request]])
        while place >= 0:
            way.append(place)
            place = int(hops.transfers.after[place])
        assert len(way) == len(relays.get((a, b), (a, b))) - 1
        assert played.plan.delivered[way].all()
        sent = played.plan.table[played.plan.table["transfer"].isin(way) & played.plan.table["delivered"]]
        assert len(sent) == len(way) and (sent["energy_j"] > 0).all()
        assert (hops.transfers.payload_bytes[way] == played.requests.payload_bytes[request]).all()
