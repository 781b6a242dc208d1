"""State in a memory-mapped file: the same values, within the budget, with a word where there is no room."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.devices.mapped_file import MappedFile, lies_in_memory
from dfl_ray.devices.slots import LEAST_BYTES, Slots, arrays_of
from dfl_ray.devices.store import InFile, InMemory, make_store
from dfl_ray.errors import RunError
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.methods.base import Device, MethodState

VALUES = LEAST_BYTES
"""float32 values of one array: four pages."""


@dataclass
class Kept(MethodState):
    """Arrays of all kinds of places."""

    said: np.ndarray | None = None
    before: np.ndarray | None = None
    copies: dict[int, np.ndarray] = field(default_factory=dict)


def a_device(index: int = 0) -> Device[Kept]:
    state = AdapterState.from_theta(torch.zeros(1, VALUES))
    return Device(index, (0,), state, Kept(traffic=Kept(traffic=None)))


def full(value: float, size: int = VALUES) -> np.ndarray:
    return np.full(size, value, np.float32)


def test_arrays_that_change_places_keep_their_values(tmp_path):
    """What a method calls `before` may be the array it called `said`: neither is overwritten by the other."""
    slots, device = Slots(MappedFile(str(tmp_path))), a_device()
    kept = device.memory
    kept.said, kept.before, kept.copies = full(1), full(2), {7: full(3), 8: np.arange(3)}
    small = kept.copies[8]
    slots.settle(device)
    assert kept.said.base is not None and kept.copies[8] is small
    kept.said, kept.before, kept.copies[9] = kept.before, kept.said, kept.copies.pop(7)
    slots.settle(device)
    kept.traffic.said, kept.said = kept.said, full(4, 2 * VALUES)
    slots.settle(device)
    values = {name: (a[0], len(a)) for name, a, _ in arrays_of(kept)}
    assert values == {
        "/traffic/said": (2, VALUES), "/said": (4, 2 * VALUES), "/before": (1, VALUES), "/copies/9": (3, VALUES),
        "/copies/8": (0, 3),
    }  # fmt: skip


def test_the_place_of_an_array_that_is_gone_is_taken_again(tmp_path):
    file = MappedFile(str(tmp_path))
    slots, device = Slots(file), a_device()
    for version in range(1, 2000):  # 2,000 of 16 kB do not fit into a region
        device.memory.copies = {version: full(version)}
        slots.settle(device)
    assert slots.spans([device])[0][1] <= 2 * 4 * VALUES
    device.memory.updates[0, 0] = shared = full(1)
    slots.settle(device)
    assert device.memory.updates[0, 0] is shared


def mapped_bytes() -> int:
    """Bytes of files in this process's memory, as the kernel counts them; code is among them and does not change."""
    return mmap.PAGESIZE * int(Path("/proc/self/statm").read_text().split()[2])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked through /proc")
def test_no_more_than_the_budget_stays_mapped_and_nothing_is_lost(tmp_path):
    budget, count = 2**20, 64
    store = InFile(str(tmp_path), budget)
    state = store.adapters(
        dict.fromkeys(range(count), 1), VALUES, lambda some: torch.tensor(some).float().repeat(VALUES, 1).T
    )
    before = mapped_bytes()
    devices = [Device(k, (0,), state.rows(k, k + 1), Kept(traffic=None)) for k in range(count)]
    most = 0
    for _ in range(2):
        for device in store.walked(devices):
            device.state.theta += 1
            device.state.exp_avg_sq -= device.index
            device.memory.said = full(device.index) if device.memory.said is None else device.memory.said + 1
            most = max(most, mapped_bytes() - before)
    everything = count * 4 * 4 * VALUES
    assert budget // 2 < most < 2.5 * budget < everything
    for device in devices:
        assert (device.state.theta == device.index + 2).all()
        assert (device.state.exp_avg_sq == -2 * device.index).all()
        assert not device.state.exp_avg.any() and (device.memory.said == device.index + 1).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked through /proc")
def test_scattered_bytes_and_slots_that_are_given_back_leave_the_memory(tmp_path):
    """Slots begin anywhere in a page: of one of 4 kB no page would be whole."""
    file, size = MappedFile(str(tmp_path)), 2**25
    bytes_ = file.grow(size)
    bytes_[:] = 1
    before = mapped_bytes()
    file.write_behind([(at, at + LEAST_BYTES) for at in range(100, size - 2**13, 2**13)])
    assert mapped_bytes() < before - size + 2**20
    assert bytes_.all()
    slots, device = Slots(file), a_device()
    device.memory.said = full(1, size // 4)
    slots.settle(device)
    device.memory.said = None
    before = mapped_bytes()
    slots.settle(device)
    assert mapped_bytes() < before - size + 2**20


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full_disk, raising=False)
    with pytest.raises(RunError, match=r"\(8 MB more\): No space left.*runtime\.state_dir"):
        MappedFile(str(tmp_path)).grow(2**23)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"runtime\.state_dir"):
        MappedFile(str(tmp_path / "file" / "below"))
    MappedFile(str(tmp_path / "made" / "anew"))
    assert (tmp_path / "made" / "anew").is_dir()


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no folder that is known to lie in memory")
def test_a_folder_in_memory_is_refused(tmp_path):
    assert not lies_in_memory(Path("/proc"))
    with pytest.raises(RunError, match="kept in memory"):
        MappedFile("/dev/shm")


def test_a_file_is_taken_where_the_state_exceeds_the_groups_share(tmp_path):
    runtime = RuntimeConfig(state_memory_mb=4, state_dir=str(tmp_path))
    assert isinstance(make_store(runtime, 0.5, 2 * 2**20, "cpu"), InMemory)
    assert isinstance(make_store(runtime, 0.5, 2 * 2**20 + 1, "cpu"), InFile)
    assert isinstance(make_store(RuntimeConfig(), 0.5, 2**40, "cpu"), InMemory)
    with pytest.raises(ValueError, match="gpus_per_actor"):
        RuntimeConfig(state_memory_mb=4, gpus_per_actor=0.5)
