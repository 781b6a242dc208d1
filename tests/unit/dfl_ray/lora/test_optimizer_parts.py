"""Adapters stepped some at a time are those stepped together, bit for bit."""

from __future__ import annotations

import pytest
import torch

from dfl_ray.lora import optimizer
from dfl_ray.lora.optimizer import AdapterState, StepSize, step_

ADAPTERS, VALUES = 5, 7


def stepped(at_once, rule, masked, monkeypatch):
    monkeypatch.setattr(optimizer, "VALUES_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(3)
    state = AdapterState.from_theta(torch.randn(ADAPTERS, VALUES, generator=generator))
    size = StepSize(learning_rate=0.1, weight_decay=0.01, clip_norm=1.0, optimizer=rule)
    for number in range(3):
        gradient = torch.randn(ADAPTERS, VALUES, generator=generator)
        keep = torch.rand(ADAPTERS, VALUES, generator=generator) < 0.6 if masked else None
        step_(state, gradient, size, torch.arange(ADAPTERS) != number + 1, keep)
    return state


@pytest.mark.parametrize("rule", ["adamw", "sgd"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("at_once", [1, VALUES, 2 * VALUES, 4 * VALUES + 1])
def test_some_at_a_time(rule, masked, at_once, monkeypatch):
    whole = stepped(ADAPTERS * VALUES, rule, masked, monkeypatch)
    parts = stepped(at_once, rule, masked, monkeypatch)
    for one, two in zip(vars(parts).values(), vars(whole).values(), strict=True):
        assert torch.equal(one, two)
    assert whole.steps.tolist() == [3, 2, 2, 2, 3]
