"""In a whole run no more of the state's file is mapped than the budget: in rounds, checkpoints and evaluations."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from dfl_ray.devices import snapshots
from dfl_ray.devices.group import DeviceGroup
from dfl_ray.simulation import checkpoint
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config

BUDGET_MB = 6.0
WORDS = (
    "runtime.backend=local", "devices.count=128", "rounds=4", "checkpoint.every=2", "runtime.micro_devices=2",
    f"runtime.state_memory_mb={BUDGET_MB}", "method.local_steps=1", "evaluate.rows_per_task=2",
)  # fmt: skip


def mapped_mb(folder: Path) -> tuple[float, float]:
    """Bytes of nameless files of a folder in this process's memory, and of what is mapped of them at all, in MB."""
    found, counts = {"Rss": 0, "Size": 0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if " " in name:
            counts = str(folder) in line and line.endswith("(deleted)")
        elif counts and name in found:
            found[name] += int(rest.split()[0])
    return found["Rss"] / 1024, found["Size"] / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked through /proc")
@pytest.mark.parametrize("method", ["sparse_orthogonal", "gradient_tracking"])
def test_the_budget_holds_in_rounds_checkpoints_and_evaluations(tmp_path, monkeypatch, method):
    """A checkpoint's part is larger than the budget and is written after its devices were gone through."""
    place, seen = tmp_path / "state", {"train": [], "exchange": [], "evaluate": [], "write_part": []}
    gc.collect()  # no file of an earlier test

    def watched(owner, name):
        real = getattr(owner, name)

        def call(*arguments):
            found = real(*arguments)
            seen[name].append(mapped_mb(place))
            return found

        monkeypatch.setattr(owner, name, call)

    for name in ("train", "exchange", "evaluate"):
        watched(DeviceGroup, name)
    watched(checkpoint, "write_part")
    monkeypatch.setattr(snapshots, "PART_BYTES", int(2 * BUDGET_MB * 2**20))
    launch(small_config(tmp_path, *WORDS, f"method={method}", f"runtime.state_dir={place}"), json=True)
    assert all(len(values) >= 4 for values in (seen["train"], seen["exchange"], seen["write_part"]))
    assert len(seen["evaluate"]) >= 2
    whole = min(size for _, size in seen["write_part"])
    assert whole > 4 * BUDGET_MB
    most = {name: max(rss for rss, _ in values) for name, values in seen.items()}
    assert all(rss < BUDGET_MB + 4 for rss in most.values()), most
