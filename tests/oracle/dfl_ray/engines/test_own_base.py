"""A device's own base on the large path against the same update as a frozen adapter through the modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.engines.gpu.own_base import with_own_base
from dfl_ray.engines.training import LocalWork, ScoredModel, train_adapters
from dfl_ray.lora.inject import find_targets, inject
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize
from dfl_ray.methods.shared import merged_factors
from tests.plain_decoder import ON, RANK, SCALE, decoder, large, rows_of


@pytest.mark.parametrize("device", ON)
def test_a_base_with_a_merged_update_equals_the_update_as_a_frozen_adapter(device):
    """One device on its own base: the update beside the weights against merged_factors through the modules."""
    scored, layers, *_ = large({"mlp_bias": True}, torch.float32, device)
    model, _ = decoder({"mlp_bias": True}, torch.float32)
    usual = ScoredModel(model, inject(model, find_targets(model, "all-linear")))
    rng = np.random.default_rng(7)
    update = rng.normal(0, 0.1, sum(s.out_features * s.in_features for s in layers)).astype(np.float32)
    layout = Layout(layers, RANK, ("a", "b"))
    start = torch.from_numpy(rng.normal(0, 0.2, (1, layout.size)).astype(np.float32))
    work = [LocalWork(rows_of([5, 19, 9, 18], [2, 2]))]
    factors = [(a.unsqueeze(0), b.unsqueeze(0)) for a, b in merged_factors(layout, update, SCALE)]
    own = with_own_base(scored, layers, update)
    found = []
    for one, frozen in ((own, None), (usual, factors), (scored, None)):
        state = AdapterState.from_theta(start.clone().to(one.device))
        result = train_adapters(
            one, layout, state, work, size=StepSize(5e-3, 0.01, 1.0), scale=SCALE, frozen=frozen
        )
        found.append((state.theta.cpu(), result.loss))
    (mine, got), (other, wanted), (_, without) = found
    torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert abs(without - wanted).max() > 0.01  # the shared base is as it was
