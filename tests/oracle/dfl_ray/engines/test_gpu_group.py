"""Whole rounds of a device group, every method: the large path on the CPU, and CUDA, against the usual path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.devices.group import DeviceGroup
from dfl_ray.engines.gpu.make import large_decoder
from dfl_ray.lora.optimizer import AdapterState, StepSize, _adamw_fused_, _adamw_plain_
from dfl_ray.methods.spec import method_spec
from dfl_ray.methods.table import METHODS
from dfl_ray.network.traffic import TransferOutcomes
from dfl_ray.simulation.experiment import build_experiment
from tests.conftest import small_config

PLACES = [
    "large-on-cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def rounds(setup, place):
    """Two rounds with everything delivered, and an evaluation by the method's own first rule."""
    group = DeviceGroup(setup, sorted(setup.held), "cuda" if place == "cuda" else "cpu")
    if place == "large-on-cpu":
        group.model.large = large_decoder(group.model.model, "on")
    assert (group.model.large is None) == (place == "usual")
    reports = []
    for number in (1, 2):
        report, _ = group.train(number)
        wanted = report.requests
        group.exchange(number, TransferOutcomes(wanted, np.ones(len(wanted.source), bool)))
        reports.append(report)
    rows = group.evaluate(2, method_spec(setup.config.method).rules[:1]).rows
    assert group.state.theta.device.type == group.torch_device
    return reports, rows, group.state


OFTEN = ("sparse_orthogonal", "choco", "flora", "fed_sb")
"""Methods of each kind of state and of trained factor: tried at every change, the others when all is asked for."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "method", [m if m in OFTEN else pytest.param(m, marks=pytest.mark.exhaustive) for m in METHODS]
)
def test_rounds_are_those_of_the_usual_path(method, place, tmp_path):
    overrides = (
        "runtime.backend=local",
        "runtime.micro_devices=3",
        f"method={method}",
        "tasks.train_rows=60",
    )
    setup = build_experiment(small_config(tmp_path, *overrides)).setup
    (usual, rows, state), (large, other_rows, other) = (rounds(setup, p) for p in ("usual", place))
    for one, two in zip(usual, large, strict=True):
        np.testing.assert_allclose(one.loss, two.loss, rtol=1e-3)
        np.testing.assert_allclose(one.gradient_norm, two.gradient_norm, rtol=1e-2)
        np.testing.assert_array_equal(one.tokens, two.tokens)
        assert one.finite.all() and two.finite.all()
        for field in ("source", "destination", "message"):
            np.testing.assert_array_equal(getattr(one.requests, field), getattr(two.requests, field))
    # AdamW's first steps go by the gradient's sign, so entries with none to speak of may part.
    change = (state.theta - other.theta.cpu()).norm() / state.theta.norm()
    assert change < 0.02
    right, wrong = (np.array(r["right"], float) for r in (rows, other_rows))
    assert np.abs(right - wrong).mean() <= 1.0


@pytest.mark.parametrize("place", ["cpu", *PLACES[1:]])
def test_the_fused_update_equals_the_plain_one(place):
    """Adapters at steps of their own, with weight decay."""
    rng = np.random.default_rng(0)
    states = []
    for _ in range(2):
        rng = np.random.default_rng(0)
        state = AdapterState.from_theta(
            torch.from_numpy(rng.normal(size=(3, 50)).astype(np.float32)).to(place)
        )
        state.steps += torch.tensor([0, 4, 9], device=place)
        states.append(state)
    for step in range(3):
        gradient = torch.from_numpy(rng.normal(0, 10.0 ** (step - 2), (3, 50)).astype(np.float32)).to(place)
        for state, update in zip(states, (_adamw_fused_, _adamw_plain_), strict=True):
            state.steps += 1
            update(state, gradient, StepSize(1e-2, 0.1, 1.0))
    for name in ("theta", "exp_avg", "exp_avg_sq"):
        mine, wanted = (getattr(s, name) for s in states)
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-7)
