"""The consensus distance against dense products, and what it says of adapters that differ in their factors only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.devices.consensus import WIDTH, folded_update, update_sums
from dfl_ray.devices.records import EvaluationReport
from dfl_ray.evaluation.scorer import Adapter
from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.simulation.round_tables import state_metrics

SMALL = (LayerShape("x", 6, 9), LayerShape("y", 5, 7))
WIDE = (LayerShape("x", 700, 300), LayerShape("y", 90, 1200))


def drawn(layers, seed, rank=4):
    rng = np.random.default_rng(seed)
    return Adapter(
        [torch.from_numpy(rng.normal(size=(rank, s.in_features)).astype(np.float32)) for s in layers],
        [torch.from_numpy(rng.normal(size=(s.out_features, rank)).astype(np.float32)) for s in layers],
    )


def dense(adapter, scale):
    return np.concatenate(
        [scale * (b.double() @ a.double()).numpy().ravel() for a, b in zip(adapter.a, adapter.b, strict=True)]
    )


def distance(sums):
    reports = [EvaluationReport({}, s, {}, {}, {}, 0.0) for s in sums]
    return state_metrics(reports, Layout(SMALL, 4, ("a", "b")))["consensus_distance"]


def exact(updates):
    mean = updates.mean(axis=0)
    return ((updates - mean) ** 2).sum() / (len(updates) * (mean**2).sum())


def test_it_is_the_distance_of_the_products_where_layers_are_small():
    adapters = [drawn(SMALL, seed) for seed in range(3)]
    folded = [folded_update(SMALL, a, 2.0) for a in adapters]
    np.testing.assert_allclose(folded, [dense(a, 2.0) for a in adapters], rtol=1e-6)
    groups = [update_sums([(-1, folded[0]), (-1, folded[1])]), update_sums([(-1, folded[2])])]
    assert distance(groups) == pytest.approx(exact(np.stack(folded)), rel=1e-9)


def test_other_factors_of_the_same_product_are_agreement():
    one, rng = drawn(SMALL, 1), np.random.default_rng(2)
    turn = torch.from_numpy((rng.normal(size=(4, 4)) + 3 * np.eye(4)).astype(np.float32))
    two = Adapter([torch.linalg.solve(turn, a) for a in one.a], [b @ turn for b in one.b])
    found = distance([update_sums([(-1, folded_update(SMALL, a, 1.0)) for a in (one, two)])])
    assert found < 1e-9
    factors = np.stack([np.concatenate([x.numpy().ravel() for x in (*a.a, *a.b)]) for a in (one, two)])
    assert exact(factors) > 0.1, "the factors themselves are far apart"


def test_what_is_merged_into_the_base_counts():
    zero = Adapter([torch.zeros(1, 9), torch.zeros(1, 7)], [torch.zeros(6, 1), torch.zeros(5, 1)])
    bases = [drawn(SMALL, seed) for seed in (3, 4)]
    beside = [
        Adapter(
            [torch.cat([z, a]) for z, a in zip(zero.a, base.a, strict=True)],
            [torch.cat([z, b], dim=1) for z, b in zip(zero.b, base.b, strict=True)],
        )
        for base in bases
    ]
    found = distance([update_sums([(-1, folded_update(SMALL, a, 1.0)) for a in beside])])
    assert found == pytest.approx(exact(np.stack([dense(b, 1.0) for b in bases])), rel=1e-6)


def test_wide_layers_are_folded_and_the_distance_is_near():
    adapters = [drawn(WIDE, seed) for seed in range(4)]
    folded = [folded_update(WIDE, a, 1.0) for a in adapters]
    assert len(folded[0]) == WIDTH * WIDTH + 90 * WIDTH
    found = distance([update_sums([(0, f) for f in folded])])
    assert found == pytest.approx(exact(np.stack([dense(a, 1.0) for a in adapters])), rel=0.1)
    both = folded_update(WIDE, Adapter(adapters[0].a, [2 * b for b in adapters[0].b]), 1.0)
    np.testing.assert_allclose(both, 2 * folded[0], rtol=1e-6, err_msg="folding is linear")


def test_one_device_or_none_has_no_distance():
    assert distance([update_sums([(-1, np.ones(3))])]) is None
    assert distance([update_sums([])]) is None
