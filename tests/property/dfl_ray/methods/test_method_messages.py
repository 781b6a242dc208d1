"""Whatever happens to a message on its way, no method uses a damaged, old or foreign one, and all are counted."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfl_ray.methods.entries import make_method, method_section
from dfl_ray.methods.table import METHODS
from dfl_ray.wire.message import pack, unpack
from tests.network import HELD, make_context, make_devices

SENDING = [name for name in METHODS if name not in ("local", "centralized", "local_per_task")]

WALKS = 1
"""A seed with which the walk goes from device 0 to device 1 in the first round."""


def network(name, **changes):
    section = {
        "type": name,
        "rank": 4,
        **(
            {"sketch_layers": 1, "exchange_every": 1}
            if name == "sparse_orthogonal" or name.endswith("_per_task")
            else {}
        ),
        **({"server": 1} if name in ("fedavg_star", "flasc", "fedsrd") else {}),
        **changes,
    }
    context = make_context(method_section(name)(**section), HELD)
    if name == "random_walk":
        context = replace(context, seed=WALKS)
    method = make_method(context)
    devices = make_devices(method)
    for d in devices:
        method.begin(d, 1)
        d.state.theta += 0.1 * (d.index + 1)
    return method, devices


def adapter_message(method, devices):
    """A real message of device 0 to device 1, which has part in the round and speaks too."""
    method.outgoing(devices[1], 1)
    sent = [o for o in method.outgoing(devices[0], 1) if o.planned.kind.name == "ADAPTER"]
    return bytes(next(o.payload for o in sent if 1 in o.planned.destinations))


def taken_in(method, device, data, round_index=1):
    """Refusals of a message, and whether the device ended as if nothing had come."""
    with_it, without = copy.deepcopy(device), copy.deepcopy(device)
    refused = method.incoming(with_it, round_index, data, [])
    assert not method.incoming(without, round_index, [], [])
    held = ("merged", "server", "answer")
    kept = [(d.state.theta[0].numpy(), *map(vars(d.memory).get, held)) for d in (with_it, without)]
    return refused, all(np.array_equal(one, two) for one, two in zip(*kept, strict=True))


@pytest.mark.parametrize("name", SENDING)
def test_a_good_message_changes_the_receiver(name):
    method, devices = network(name)
    data = adapter_message(method, devices)
    refused, untouched = taken_in(method, devices[1], [data])
    assert not refused
    assert not untouched


@pytest.mark.parametrize("name", SENDING)
@settings(max_examples=25, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_damaged_messages_are_refused(name, place, flip, cut):
    method, devices = network(name)
    data = bytearray(adapter_message(method, devices))
    at = int(place * len(data))
    if cut:
        data = data[:at]
    else:
        data[at] ^= flip
    refused, untouched = taken_in(method, devices[1], [bytes(data)])
    assert sum(refused.values()) == 1
    assert untouched


@pytest.mark.parametrize("name", SENDING)
def test_foreign_and_replayed_messages_are_refused(name):
    method, devices = network(name)
    data = adapter_message(method, devices)
    message = unpack(data)
    for change in ({"run": 1}, {"sender": 3}, {"version": 5}, {"task": 7}):
        refused, untouched = taken_in(method, devices[1], [pack(replace(message, **change))])
        assert refused == {"foreign": 1}
        assert untouched
    assert not method.incoming(devices[1], 1, [data], [])
    refused, untouched = taken_in(method, devices[1], [data], round_index=2)
    assert refused == {"replayed": 1}
    assert untouched


@pytest.mark.parametrize("name", SENDING)
def test_values_that_are_not_finite_are_refused(name):
    method, devices = network(name, precision="float32")
    devices[0].state.theta.fill_(float("nan"))
    refused, untouched = taken_in(method, devices[1], [adapter_message(method, devices)])
    assert refused == {"not_finite": 1}
    assert untouched


@pytest.mark.parametrize("name", SENDING)
def test_a_message_that_comes_twice_in_a_round_counts_once(name):
    method, devices = network(name)
    data = adapter_message(method, devices)
    once, twice = copy.deepcopy(devices[1]), copy.deepcopy(devices[1])
    assert not method.incoming(once, 1, [data], [])
    assert method.incoming(twice, 1, [data, data], []) == {"replayed": 1}
    assert torch.equal(once.state.theta, twice.state.theta)
