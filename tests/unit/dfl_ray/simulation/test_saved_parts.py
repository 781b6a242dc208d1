"""State goes to and from the disk in parts, of which one is in memory at a time."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dfl_ray.devices import snapshots
from dfl_ray.devices.diverged import is_trained
from dfl_ray.devices.group import DeviceGroup
from dfl_ray.devices.records import Snapshot
from dfl_ray.errors import InputError, RunError
from dfl_ray.methods.base import MethodState
from dfl_ray.simulation.backend import BackendState
from dfl_ray.simulation.checkpoint import load_checkpoint, save_checkpoint
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.saved_parts import SavedParts, write_part
from tests.conftest import small_config


def test_a_part_ends_with_the_device_that_fills_it(tmp_path, monkeypatch):
    group = DeviceGroup(build_experiment(small_config(tmp_path)).setup, range(4))
    assert snapshots.in_parts(group.devices) == [(0, 1, 2, 3)]
    of_one = sum(a.nbytes for a in group.snapshot([0]).arrays.values())
    monkeypatch.setattr(snapshots, "PART_BYTES", of_one + 1)
    assert [p for part in snapshots.in_parts(group.devices) for p in part] == [0, 1, 2, 3]
    assert snapshots.in_parts(group.devices)[0] == (0, 1)
    monkeypatch.setattr(snapshots, "PART_BYTES", 1)
    assert snapshots.in_parts(group.devices) == [(0,), (1,), (2,), (3,)]
    assert set(group.snapshot([2]).numbers) == {"2"}


def test_one_part_is_in_memory_at_a_time(tmp_path):
    alive: list[weakref.ref[Snapshot]] = []

    def parts():
        for device in range(5):
            gc.collect()
            assert not any(part() for part in alive)
            part = Snapshot({f"{device}/state/theta": np.full(3, device)}, {str(device): {"steps": device}})
            alive.append(weakref.ref(part))
            yield part
            del part

    saved = save_checkpoint(tmp_path / "checkpoints", 1, BackendState(parts(), {"clock_s": 2.0}), {}, keep=1)
    assert len(alive) == 5
    again = load_checkpoint(tmp_path / "checkpoints")
    assert again is not None
    for found in (saved, again):
        read = [next(iter(part.arrays.items())) for part in found.state.devices]
        assert [(name, values.tolist()) for name, values in read] == [
            (f"{d}/state/theta", [d] * 3) for d in range(5)
        ]
        assert [set(part.numbers) for part in found.state.devices.of([3, 1])] == [{"1"}, {"3"}]
        with pytest.raises(KeyError, match="no part of the checkpoint holds device 77"):
            list(found.state.devices.of([3, 77]))
    saved.state.devices.files[2].write_bytes(b"")
    with pytest.raises(InputError, match=r"devices-00002\.safetensors cannot be read"):
        list(saved.state.devices)


def test_a_state_that_cannot_be_had_leaves_the_checkpoint_before(tmp_path):
    def parts(broken: bool):
        yield Snapshot({"0/state/theta": np.ones(2)}, {"0": {}})
        if broken:
            raise RuntimeError("an actor is gone for good")

    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, 1, BackendState(parts(False), {}), {}, keep=1)
    for round_index in (1, 2):
        with pytest.raises(RuntimeError):
            save_checkpoint(folder, round_index, BackendState(parts(True), {}), {}, keep=1)
        assert [p.name for p in folder.iterdir()] == ["round-000001"]
    again = load_checkpoint(folder)
    assert again is not None and again.round_index == 1


def test_only_wanted_arrays_are_read(tmp_path):
    arrays = {"3/state/theta": np.arange(4.0), "3/state/exp_avg": np.ones(4), "4/state/theta": np.zeros(2)}
    write_part(tmp_path / "a.safetensors", Snapshot(arrays, {"3": {"n": 1}, "4": {}}))
    (found,) = SavedParts([tmp_path / "a.safetensors"]).only(is_trained)
    assert set(found.arrays) == {"3/state/theta", "4/state/theta"} and found.numbers == {
        "3": {"n": 1},
        "4": {},
    }
    np.testing.assert_array_equal(found.arrays["3/state/theta"], arrays["3/state/theta"])


@dataclass
class Kept(MethodState):
    tags: Any = None


def test_a_state_that_cannot_be_saved_is_refused_at_the_start_and_names_the_method(tmp_path):
    snapshots.check_memory("own", Kept(None, tags=np.zeros(2)))
    for memory, said in ((Kept(None, tags=[1.0]), "memory/tags is a list"), ([], "memory is a list")):
        with pytest.raises(InputError, match=f"What the method `own` keeps.*{said}"):
            snapshots.check_memory("own", memory)
    config = small_config(tmp_path, "runtime.backend=local", "method=dlora")
    group = DeviceGroup(build_experiment(config).setup, [0])
    group.devices[0].memory.told = ["a"]
    with pytest.raises(
        RunError, match=r"`\w+`, which the method keeps of a device, cannot be saved.*told is a list"
    ):
        group.snapshot([0])


def test_a_group_refuses_a_method_whose_state_cannot_be_saved(tmp_path, monkeypatch):
    from dfl_ray.methods.dlora import Dlora

    monkeypatch.setattr(Dlora, "memory", lambda self, device: Kept(None, tags=[1.0]))
    config = small_config(tmp_path, "runtime.backend=local", "method=dlora")
    with pytest.raises(InputError, match="`dlora`"):
        DeviceGroup(build_experiment(config).setup, [0])
