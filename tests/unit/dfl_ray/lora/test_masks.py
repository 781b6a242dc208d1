"""Masks: counts, nesting, budgets, collisions; every expectation worked out independently."""

from __future__ import annotations

import numpy as np
import pytest

from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.lora.masks import choose_mask, collision_rates, cubic_density, effective_rank, layer_densities

LAYOUT = Layout((LayerShape("a", 10, 6), LayerShape("b", 30, 8)), 4, ("b",))
RNG = np.random.default_rng(0)
MAGNITUDE = RNG.random(LAYOUT.size)
EVERYTHING = np.ones(LAYOUT.size, bool)


@pytest.mark.parametrize("kind", ["element", "row"])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_uniform_keeps_the_same_share_of_every_layer(kind, density):
    mask = choose_mask(MAGNITUDE, EVERYTHING, LAYOUT, density, kind=kind)
    for segment in LAYOUT.of("b"):
        part = mask[segment.start : segment.stop].reshape(segment.shape)
        units = segment.shape[0] if kind == "row" else part.size
        kept = part.all(axis=1).sum() if kind == "row" else part.sum()
        assert kept == round(density * units)
        if kind == "row":
            assert set(part.sum(axis=1)) <= {0, 4}


def test_kept_are_the_largest_of_their_layer():
    mask = choose_mask(MAGNITUDE, EVERYTHING, LAYOUT, 0.3)
    for s in LAYOUT.of("b"):
        values, kept = MAGNITUDE[s.start : s.stop], mask[s.start : s.stop]
        assert values[kept].min() > values[~kept].max()


def test_global_is_one_threshold():
    mask = choose_mask(MAGNITUDE, EVERYTHING, LAYOUT, 0.3, budget="global")
    assert mask.sum() == round(0.3 * LAYOUT.size)
    assert MAGNITUDE[mask].min() > MAGNITUDE[~mask].max()


@pytest.mark.parametrize("budget", ["uniform", "global", "effective_rank"])
@pytest.mark.parametrize(("kind", "width"), [("element", 1), ("row", 4)])
def test_a_layer_keeps_its_largest_at_least(kind, width, budget):
    mask = choose_mask(
        MAGNITUDE, EVERYTHING, LAYOUT, 1e-5, kind=kind, budget=budget, scores=[1.0, 9.0], least=1e-6
    )
    for s in LAYOUT.of("b"):
        values, kept = MAGNITUDE[s.start : s.stop], mask[s.start : s.stop]
        assert kept.sum() == width
        worth = values if kind == "element" else np.repeat((values.reshape(s.shape) ** 2).sum(axis=1), 4)
        assert kept[worth.argmax()]


def test_global_keeps_one_of_a_layer_of_small_values_and_none_of_one_not_allowed():
    first, second = LAYOUT.of("b")
    small = MAGNITUDE.copy()
    small[first.start : first.stop] /= 1e3
    mask = choose_mask(small, EVERYTHING, LAYOUT, 0.1, budget="global")
    assert mask.sum() == round(0.1 * LAYOUT.size) and mask[first.start : first.stop].sum() == 1
    closed = EVERYTHING.copy()
    closed[second.start : second.stop] = False
    mask = choose_mask(MAGNITUDE, closed, LAYOUT, 1e-5, budget="global")
    assert mask.sum() == 1 and not mask[second.start : second.stop].any()


def test_masks_are_nested():
    wide = choose_mask(MAGNITUDE, EVERYTHING, LAYOUT, 0.6)
    narrow = choose_mask(RNG.random(LAYOUT.size), wide, LAYOUT, 0.3)
    assert not (narrow & ~wide).any()


def test_layer_densities_spend_the_budget_by_score():
    k = layer_densities([100, 300, 50], 0.3, [4.0, 1.0, 9.0], exponent=0.5, least=0.05)
    assert (k * [100, 300, 50]).sum() == pytest.approx(0.3 * 450, rel=1e-9)
    assert k[0] / k[1] == pytest.approx(2.0, rel=1e-6)
    assert k[2] / k[1] == pytest.approx(3.0, rel=1e-6)
    capped = layer_densities([100, 100], 0.8, [100.0, 1.0], exponent=1.0, least=0.05)
    assert capped[0] == 1.0
    assert capped[1] == pytest.approx(0.6, rel=1e-6)


def test_cubic_schedule_ends():
    assert cubic_density(0, 5, 0.25) == 1.0
    assert cubic_density(5, 5, 0.25) == 0.25
    assert cubic_density(1, 2, 0.2) == pytest.approx(0.2 + 0.8 * 0.125)


def test_effective_rank_of_known_spectra():
    assert effective_rank(np.eye(7)) == pytest.approx(7.0)
    assert effective_rank(np.diag([5.0, 0, 0])) == pytest.approx(1.0)
    assert effective_rank(np.diag([2.0, 2.0, 0])) == pytest.approx(2.0)


def test_collision_rates_worked_out():
    layout = Layout((LayerShape("a", 4, 3),), 2, ("b",))
    one, two = np.zeros((4, 2), bool), np.zeros((4, 2), bool)
    one[0, 0] = one[1, 0] = one[2, 1] = True
    two[0, 0] = two[1, 1] = True
    in_b, in_w = collision_rates([one.ravel(), two.ravel()], layout)
    assert in_b == pytest.approx(1 / 8)
    assert in_w == pytest.approx(2 / 4)


def test_random_row_and_element_masks_collide_as_derived():
    """Element masks of density k collide on (1-(1-k)^r)^2 of Delta W, row masks on k^2 (method.md, section 2)."""
    layout = Layout((LayerShape("a", 20_000, 3),), 4, ("b",))
    rng = np.random.default_rng(1)
    elements = [rng.random(layout.size) < 0.25 for _ in range(2)]
    rows = [np.repeat(rng.random(20_000) < 0.25, 4) for _ in range(2)]
    assert collision_rates(elements, layout)[1] == pytest.approx((1 - 0.75**4) ** 2, abs=0.015)
    assert collision_rates(rows, layout)[1] == pytest.approx(0.0625, abs=0.008)
