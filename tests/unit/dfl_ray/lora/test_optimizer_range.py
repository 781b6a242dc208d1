"""Which adapters have diverged: the range of float16, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.devices.diverged import diverged_devices
from dfl_ray.devices.records import Snapshot
from dfl_ray.lora.optimizer import in_range


@pytest.mark.parametrize(
    ("value", "usable"),
    [(65504.0, True), (-65504.0, True), (65505.0, False), (-65505.0, False), (float("nan"), False),
     (float("inf"), False), (-float("inf"), False)],
)  # fmt: skip
def test_an_adapter_is_in_range_where_float16_holds_every_value(value, usable):
    theta = torch.zeros(2, 5)
    theta[1, 3] = value
    assert in_range(theta).tolist() == [True, usable]


def test_devices_that_diverged_are_found_in_trained_and_in_merged_values():
    fine, far = np.zeros((2, 3), np.float32), np.array([[0, 0, 0], [0, -1e30, 0]], np.float32)
    first = Snapshot({"10/state/theta": far, "2/state/theta": fine, "2/state/exp_avg_sq": far})
    second = Snapshot(
        {"7/state/theta": fine, "7/memory/merged": far[1], "3/state/theta": np.empty((0, 3), "f4")}
    )
    assert diverged_devices([first, second]) == [7, 10]


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_are_looked_at_without_a_warning():
    """Ray gives arrays that nothing may write to."""
    far = np.full((1, 2), 1e30, np.float32)
    far.flags.writeable = False
    assert diverged_devices([Snapshot({"4/state/theta": far})]) == [4]
