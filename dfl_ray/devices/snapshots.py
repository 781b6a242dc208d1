"""Snapshots of devices: flat names to arrays, independent of how devices are packed into groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dfl_ray.devices.records import Snapshot
from dfl_ray.methods.base import Device

_STATE = ("theta", "exp_avg", "exp_avg_sq", "steps")


def collect_snapshot(devices: Mapping[int, Device]) -> Snapshot:
    """Copy the whole state of some devices."""
    arrays: dict[str, np.ndarray] = {}
    for index, device in devices.items():
        for name in _STATE:
            arrays[f"{index}/state/{name}"] = getattr(device.state, name).detach().cpu().numpy().copy()
        for name, value in device.memory.items():
            arrays[f"{index}/memory/{name}"] = value
    return Snapshot(arrays, {str(i): dict(d.marks) for i, d in devices.items()})


def restore_snapshot(devices: Mapping[int, Device], snapshots: Sequence[Snapshot]) -> None:
    """Put saved state back, in place.

    Raises:
        KeyError: No snapshot holds one of the devices.
    """
    where = {int(i): snapshot for snapshot in snapshots for i in snapshot.marks}
    for index, device in devices.items():
        snapshot = where[index]
        for name in _STATE:
            saved = torch.from_numpy(np.array(snapshot.arrays[f"{index}/state/{name}"]))
            getattr(device.state, name).copy_(saved)
        device.marks = dict(snapshot.marks[str(index)])
        prefix = f"{index}/memory/"
        device.memory = {
            n[len(prefix) :]: np.array(a) for n, a in snapshot.arrays.items() if n.startswith(prefix)
        }
