"""Equal published updates are one array in a group, whatever way they came; different ones stay apart."""

from __future__ import annotations

import numpy as np
import torch

from dfl_ray.devices.sharing import SharedUpdates
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.methods.base import Device


def device(index, **memory):
    state = AdapterState.from_theta(torch.zeros(1, 2))
    arrays = {n.replace("__", "/"): np.frombuffer(bytes(v), np.uint8) for n, v in memory.items()}
    return Device(index, (0,), state, arrays)


def test_equal_bytes_become_one_array():
    a = device(0, published__EXPERT__0=b"one", residual=b"same")
    b = device(1, published__EXPERT__0=b"one", residual=b"same")
    c = device(2, published__EXPERT__0=b"two")
    SharedUpdates().share([a, b, c])
    assert a.memory["published/EXPERT/0"] is b.memory["published/EXPERT/0"]
    assert a.memory["residual"] is not b.memory["residual"]
    assert bytes(a.memory["published/EXPERT/0"]) == b"one"
    assert bytes(c.memory["published/EXPERT/0"]) == b"two"


def test_newer_versions_replace_and_old_ones_are_forgotten():
    devices = [device(k, published__MASK__3=b"old") for k in range(3)]
    shared = SharedUpdates()
    shared.share(devices)
    for k in (0, 2):
        devices[k].memory["published/MASK/3"] = np.frombuffer(b"new", np.uint8)
    shared.share(devices)
    assert devices[0].memory["published/MASK/3"] is devices[2].memory["published/MASK/3"]
    assert [bytes(d.memory["published/MASK/3"]) for d in devices] == [b"new", b"old", b"new"]
    devices[1].memory["published/MASK/3"] = np.frombuffer(b"new", np.uint8)
    shared.share(devices)
    assert len({id(d.memory["published/MASK/3"]) for d in devices}) == 1
    assert len(shared._known) == 1
