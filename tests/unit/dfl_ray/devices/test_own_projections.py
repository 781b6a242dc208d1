"""`method.projection: per_device`: each device draws its own A, and all see inputs through one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.devices.evaluate import Evaluator
from dfl_ray.devices.group import DeviceGroup
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.projection import task_projections
from dfl_ray.methods.base import Expert
from dfl_ray.simulation.experiment import build_experiment
from tests.conftest import small_config


def test_a_sketch_does_not_depend_on_which_devices_are_hosted_together(tmp_path):
    config = small_config(tmp_path, "runtime.backend=local", "method.projection=per_device")
    setup = build_experiment(config).setup
    device = max(setup.held)
    task = setup.held[device][0]
    alone, among = (
        DeviceGroup(setup, hosted, None).sketch(device, task, None)
        for hosted in ([device], sorted(setup.held))
    )
    np.testing.assert_array_equal(alone, among)


def test_no_two_draws_of_any_seed_or_device_are_the_same():
    layer = LayerShape("x", out_features=8, in_features=32)
    drawn = [
        task_projections(seed, layer, tasks=2, rank=2, kind=kind, device=device)
        for seed in (0, 7919, 2 * 7919)
        for kind, device in (("exact", 0), ("per_device", 0), ("per_device", 1))
    ]
    for number, one in enumerate(drawn):
        for other in drawn[:number]:
            assert np.abs(one - other).max() > 0.01
        rows = one.reshape(4, 32)
        np.testing.assert_allclose(rows @ rows.T * 3, np.eye(4), atol=1e-9)


def test_a_that_is_sent_and_a_of_each_devices_own_do_not_go_together(tmp_path):
    with pytest.raises(InputError, match=r"method\.a_exchange"):
        small_config(tmp_path, "method.projection=per_device", "method.a_exchange=send")


def test_an_expert_is_answered_through_the_a_of_who_trained_it(tmp_path):
    config = small_config(tmp_path, "runtime.backend=local", "method.projection=per_device")
    setup = build_experiment(config).setup
    group = DeviceGroup(setup, sorted(setup.held), None)
    evaluator = Evaluator(setup, group.model, group.method)
    rank, tasks = config.method.rank, len(setup.tasks)
    values = torch.zeros(group.method.layout.size)
    experts = [
        Expert(("own", 3, 0), values),
        *(Expert(("replica", t, 2, 1), values) for t in range(1, tasks)),
    ]
    through = [evaluator._adapter(e).a for e in experts]
    together = evaluator.merger.task(group.devices[3], experts, None).a
    for index, layer in enumerate(setup.layers):
        for task, device in enumerate((3, *(2 for _ in experts[1:]))):
            wanted = task_projections(
                config.seed, layer, tasks=tasks, rank=rank, kind="per_device", device=device
            )[task]
            np.testing.assert_allclose(through[task][index], wanted, rtol=1e-6)
            np.testing.assert_array_equal(
                together[index][rank * task : rank * (task + 1)], through[task][index]
            )
