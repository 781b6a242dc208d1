"""The bare loop of `benchmarks/overhead.py` trains what the run trains, however the devices are grouped."""

from __future__ import annotations

import numpy as np

from benchmarks.overhead import _deliver_all, _groups
from dfl_ray.engines.training import device_means
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from tests.conftest import SMALL_RUN, small_config


def bare_losses(rounds: int, *overrides: str) -> list[np.ndarray]:
    """Each round's loss of every device, in a bare loop."""
    groups, _ = _groups([*SMALL_RUN, *overrides])
    out: list[np.ndarray] = []
    for round_index in range(1, rounds + 1):
        done = {group: [steps() for steps in group.prepare(round_index)] for group in groups}
        losses = {
            d: loss
            for group, parts in done.items()
            for d, loss in zip(group.devices, device_means(parts, group.starts[:-1])[0].tolist(), strict=True)
        }
        out.append(np.array([losses[d] for d in sorted(losses)]))
        _deliver_all(round_index, done)
    return out


def test_bare_loop_trains_what_the_run_trains(tmp_path):
    run = load_run(launch(small_config(tmp_path, "name=run", "runtime.backend=local"), json=True).folder)
    first = run.devices[run.devices["round"] == 1].sort_values("device")["loss"].to_numpy()
    lone = bare_losses(3, "runtime.devices_per_actor=1")
    packed = bare_losses(3, "runtime.devices_per_actor=4")
    np.testing.assert_allclose(packed[0], first, rtol=1e-6)
    for one, other in zip(lone, packed, strict=True):  # with every message delivered, in later rounds too
        np.testing.assert_allclose(one, other, rtol=2e-4)
    assert not np.allclose(lone[0], lone[2], rtol=1e-2)
