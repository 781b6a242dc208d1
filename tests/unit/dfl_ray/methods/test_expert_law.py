"""The traffic law of methods with an expert a task, driven without a method, against the bytes a method makes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dfl_ray.config.methods import LocalPerTaskConfig, SparseOrthogonalConfig
from dfl_ray.methods.entries import make_method
from dfl_ray.methods.expert_law import AnnouncedMask, ExpertTraffic, TaskMasks
from dfl_ray.wire.message import Kind, Message, pack
from tests.network import HELD, make_context, make_devices

SET = {"rank": 4, "sketch_layers": 1}
SPARSE = {**SET, "exchange_every": 1, "prune_end": 0.6, "prune_steps": 5}
CASES = {
    "dense": SparseOrthogonalConfig(**SPARSE, density=1.0, a_exchange="send"),
    "pruned": SparseOrthogonalConfig(**SPARSE, density=0.25, precision="float16"),
    # More entries are asked for than the rows that a task owns hold.
    "disjoint": SparseOrthogonalConfig(**SPARSE, density=0.6, disjoint=True, precision="float16"),
    # A density that rounds to no entry keeps one a layer.
    "one a layer": SparseOrthogonalConfig(**SPARSE, density=1e-5),
    "one row a layer": SparseOrthogonalConfig(**SPARSE, density=1e-5, mask="row"),
    "one a layer, global": SparseOrthogonalConfig(**SPARSE, density=1e-5, budget="global"),
    "one row a layer, disjoint": SparseOrthogonalConfig(
        **SPARSE, density=1e-5, mask="row", budget="global", disjoint=True
    ),
    "by effective rank": SparseOrthogonalConfig(**SPARSE, density=0.25, budget="effective_rank"),
    "nothing averaged": LocalPerTaskConfig(**SET),
}


@pytest.mark.parametrize("name", CASES)
def test_the_law_alone_plans_the_messages_that_a_method_makes(name):
    """Their order, destinations, versions and lengths, over 20 rounds without losses."""
    method = make_method(make_context(CASES[name], HELD))
    devices = make_devices(method)
    law = make_method(make_context(CASES[name], HELD)).law
    states = {d: law.start(d) for d in HELD}
    for round_index in range(1, 21):
        for device in devices:
            method.begin(device, round_index)
            law.begin(device.index, states[device.index], round_index)
        made = {d.index: method.outgoing(d, round_index) for d in devices}
        planned = {d: law.messages(d, states[d], round_index) for d in HELD}
        for d, messages in planned.items():
            for out, message in zip(made[d], messages, strict=True):
                assert named(out.planned) == named(message)
                assert len(out.payload) == out.planned.payload_bytes
                assert not message.exact or message.payload_bytes == len(out.payload)
                if message.exact and message.kind in (Kind.MASK, Kind.ADAPTER):
                    assert message.kept == out.planned.kept
            assert not list(law.publications(d, states[d], round_index)), "each is published once a round"
        deliver(method, devices, round_index, made)
        for d, messages in planned.items():
            for message in messages:
                law.delivered(d, states[d], message, message.destinations)
                for to in message.destinations:
                    law.received(to, states[to], message)


def named(message):
    """What a message is and to whom it goes."""
    return message.kind, message.task, message.destinations, message.version, message.in_force


def deliver(method, devices, round_index, made):
    """Give every message to its destinations."""
    from dfl_ray.methods.base import Delivery

    for device in devices:
        received = [o.payload for out in made.values() for o in out if device.index in o.planned.destinations]
        sent = [Delivery(o.planned, o.planned.destinations) for o in made[device.index]]
        assert not method.incoming(device, round_index, received, sent)


def test_only_the_layers_scores_make_a_mask_unforeseeable():
    """The shares of the budget `effective_rank` depend on rows; all other masks keep a known number of entries."""
    for name, exact in (("pruned", True), ("disjoint", True), ("by effective rank", False)):
        law = make_method(make_context(CASES[name], HELD)).law
        assert law.exact_masks is exact, name
        (first, *_) = law.schedule
        state = law.start(0)
        for task in law.present(0) if name == "disjoint" else ():
            law.accept(state, law._planned(Kind.BID, task, 1))
        masks = [p for p in law.publications(0, state, first) if p.kind is Kind.MASK]
        assert [p.exact for p in masks] == [exact], name


def test_a_device_owes_an_update_until_the_child_has_acknowledged_it():
    law = make_method(make_context(CASES["dense"], HELD)).law
    state = law.start(0)
    assert not law.owes(0, state)
    messages = [m for m in law.messages(0, state, 2) if m.kind is not Kind.ADAPTER]
    assert messages and law.owes(0, state)
    for message in messages[1:]:
        law.delivered(0, state, message, message.destinations)
    assert law.owes(0, state)
    law.delivered(0, state, messages[0], messages[0].destinations)
    assert not law.owes(0, state)


def test_a_mask_comes_into_force_once_and_the_newest_due_one_wins():
    law = make_method(make_context(CASES["pruned"], HELD)).law
    known = {v: AnnouncedMask(10 * (9 - v), v + 2) for v in range(1, 7)}
    state = ExpertTraffic(masks={0: TaskMasks(known=dict(known))})
    assert law.activate(state, 0, 2) == 0
    assert law.activate(state, 0, 3) == 1
    assert law.activate(state, 0, 3) == 0, "it is in force already"
    assert law.activate(state, 0, 7) == 5
    assert sorted(state.masks[0].known) == [3, 4, 5, 6], "two past ones, the current one and those to come"
    law.begin(0, state, 8)
    assert state.masks[0].current == 6


def test_masks_that_no_message_can_name_any_more_are_forgotten():
    method = make_method(make_context(CASES["pruned"], HELD))
    devices = make_devices(method)
    for round_index in range(1, 21):
        for device in devices:
            method.begin(device, round_index)
        deliver(method, devices, round_index, {d.index: method.outgoing(d, round_index) for d in devices})
    for device in devices:
        masks = device.memory.law.masks
        assert {k for k in device.memory.masks if k[0] in masks} == {
            (task, version) for task in masks for version in masks[task].known
        }


def test_a_projection_that_is_not_the_devices_own_is_foreign():
    method = make_method(make_context(CASES["dense"], HELD))
    device = make_devices(method)[1]
    own = np.concatenate([a[0].ravel() for a in method.projections(1)])
    for change, refused in ((0.0, Counter()), (1e-3, Counter({"foreign": 1}))):
        body = (own + np.float32(change)).astype("<f4").tobytes()
        message = Message(Kind.PROJECTION, 0, 0, 1, 99, 0, "float32", body)
        assert method.incoming(device, 1, [pack(message)], []) == refused
        device = make_devices(method)[1]
