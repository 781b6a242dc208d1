"""What methods say that they keep of a device is what their devices hold after some rounds."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dfl_ray.devices.group import DeviceGroup
from dfl_ray.devices.slots import arrays_of
from dfl_ray.methods.spec import heard_arrays, kept_arrays, method_spec
from dfl_ray.methods.table import METHODS
from dfl_ray.network.traffic import TransferOutcomes
from dfl_ray.simulation.experiment import build_experiment
from tests.conftest import small_config

OTHERS = ("sparse_orthogonal", "ffa_per_task", "dlora_per_task", "local_per_task", "fed_sb", "centralized")
"""Experts are bytes that devices share; a core is small beside what else a device keeps; a learner has all rows."""


@pytest.mark.parametrize("method", [name for name in METHODS if name not in OTHERS])
def test_the_arrays_that_a_device_keeps_are_counted(tmp_path, method):
    words = (f"method={method}", "method.local_steps=1", "method.precision=float16")
    setup = build_experiment(small_config(tmp_path, *words)).setup
    group = DeviceGroup(setup, sorted(setup.held))
    size, most = group.method.layout.size, 0.0
    for number in range(1, 5):
        report, _ = group.train(number)
        most = max(most, _held(group))
        group.exchange(number, TransferOutcomes(report.requests, np.ones(len(report.requests), bool)))
        most = max(most, _held(group))
    config = setup.config.method
    dense = sum(s.out_features * s.in_features for s in setup.layers) if method_spec(config).own_base else 0
    planned = 4.0 * (kept_arrays(config, setup.graph.mean_neighbours) * size + dense)
    assert most == pytest.approx(planned, rel=0.15, abs=0.02 * 4 * size)


def _held(group: DeviceGroup) -> float:
    """Bytes of arrays that a device's method keeps, the mean of all but a server, which holds its answer too."""
    others = [device for device in group.devices.values() if device.index != group.config.hub]
    found = [sum(a.nbytes for _, a, _ in arrays_of(device.memory)) for device in others]
    return float(np.mean(found))


MIXING = (
    "dlora", "dlora method.aggregation=median", "dlora method.aggregation=push_sum", "choco", "fedex", "flexlora",
    "decaf", "gradient_tracking", "hetlora", "random_walk", "fedavg_star", "flasc", "fedsrd",
)  # fmt: skip


@pytest.mark.parametrize("words", MIXING)
def test_what_is_held_while_a_device_mixes_is_counted(tmp_path, words, monkeypatch):
    """All hear all: the largest memory that taking in a round's messages needs, for each who is heard."""
    count, most = 20, 0
    config = small_config(
        tmp_path,
        *f"method={words}".split(),
        "method.local_steps=1",
        "topology=complete",
        f"devices.count={count}",
    )
    setup = build_experiment(config).setup
    group = DeviceGroup(setup, sorted(setup.held))
    incoming = group.method.incoming

    def measured(*given):
        nonlocal most
        tracemalloc.start()
        found = incoming(*given)
        most = max(most, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return found

    monkeypatch.setattr(group.method, "incoming", measured)
    for number in range(1, 3):
        report, _ = group.train(number)
        group.exchange(number, TransferOutcomes(report.requests, np.ones(len(report.requests), bool)))
    planned = heard_arrays(setup.config.method, setup.graph.most_neighbours, count)
    # What is there once, such as a sum, comes on top: ten arrays in float32 at most.
    assert 0.4 * planned - 1 < most / 4 / group.method.layout.size < 1.1 * planned + 10
