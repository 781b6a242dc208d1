"""Equal published updates are one array in a group, whatever way they came; different ones stay apart."""

from __future__ import annotations

import numpy as np
import torch

from dfl_ray.devices.sharing import SharedUpdates
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.methods.base import Device
from dfl_ray.methods.exchange import PartState
from dfl_ray.methods.expert_law import ExpertTraffic
from dfl_ray.methods.pruning import ExpertState
from dfl_ray.wire.message import Kind

EXPERT, MASK = (int(Kind.EXPERT), 0), (int(Kind.MASK), 3)


def array(text):
    return np.frombuffer(bytes(text), np.uint8)


def device(index, updates, residual=None):
    memory = ExpertState(ExpertTraffic(), updates={key: array(text) for key, text in updates.items()})
    if residual is not None:
        memory.parts["0"] = PartState(array(residual))
    return Device(index, (0,), AdapterState.from_theta(torch.zeros(1, 2)), memory)


def test_equal_bytes_become_one_array():
    a = device(0, {EXPERT: b"one"}, b"same")
    b = device(1, {EXPERT: b"one"}, b"same")
    c = device(2, {EXPERT: b"two"})
    SharedUpdates().share([a, b, c])
    assert a.memory.updates[EXPERT] is b.memory.updates[EXPERT]
    assert a.memory.parts["0"].residual is not b.memory.parts["0"].residual
    assert bytes(a.memory.updates[EXPERT]) == b"one"
    assert bytes(c.memory.updates[EXPERT]) == b"two"


def test_newer_versions_replace_and_old_ones_are_forgotten():
    devices = [device(k, {MASK: b"old"}) for k in range(3)]
    shared = SharedUpdates()
    shared.share(devices)
    for k in (0, 2):
        devices[k].memory.updates[MASK] = array(b"new")
    shared.share(devices)
    assert devices[0].memory.updates[MASK] is devices[2].memory.updates[MASK]
    assert [bytes(d.memory.updates[MASK]) for d in devices] == [b"new", b"old", b"new"]
    devices[1].memory.updates[MASK] = array(b"new")
    shared.share(devices)
    assert len({id(d.memory.updates[MASK]) for d in devices}) == 1
    assert len(shared._known) == 1
