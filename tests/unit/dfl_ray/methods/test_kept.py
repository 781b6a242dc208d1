"""Which entries of an adapter are kept: counts, ties, factors apart, and draws."""

from __future__ import annotations

import numpy as np
import pytest

from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.lora.masks import kept_entries
from dfl_ray.methods.kept import drawn, kept_of_each, largest, largest_of_each
from dfl_ray.methods.modules import joined, products
from dfl_ray.methods.sparse_body import heard, sparse_body, sparse_entries

LAYOUT = Layout((LayerShape("x", 3, 8), LayerShape("y", 5, 2)), 2, ("a", "b"))


def test_the_first_of_equal_entries_stay():
    assert [kept_entries(share, 10) for share in (0.01, 0.24, 0.26, 1.0)] == [1, 2, 3, 10]
    np.testing.assert_array_equal(largest(np.array([1.0, -3.0, 3.0, 3.0]), 0.5), [False, True, True, False])


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_each_factor_keeps_its_own_share(share):
    values = np.random.default_rng(0).normal(size=LAYOUT.size) * np.repeat([1, 100], [16 + 6, 4 + 10])
    mask = largest_of_each(values, share, LAYOUT)
    assert mask.sum() == kept_of_each(share, LAYOUT)
    for s in LAYOUT.segments:
        here = slice(s.start, s.stop)
        assert mask[here].sum() == max(1, round(share * (s.stop - s.start)))
        left, kept = np.abs(values[here][~mask[here]]), np.abs(values[here][mask[here]])
        assert not len(left) or left.max() <= kept.min()


def test_draws_stay_among_the_places_and_are_even():
    places = np.arange(12) % 3 == 0
    masks = np.array([drawn(places, 0.5, np.random.default_rng(seed)) for seed in range(2000)])
    assert (masks.sum(axis=1) == 2).all() and not masks[:, ~places].any()
    assert np.abs(masks[:, places].mean(axis=0) - 0.5).max() < 5 * np.sqrt(0.25 / 2000)


def test_joined_puts_together_what_products_takes_apart():
    class Method:
        layout = LAYOUT

    values = np.random.default_rng(1).normal(size=LAYOUT.size).astype(np.float32)
    np.testing.assert_array_equal(joined(LAYOUT, products(Method(), values)), values)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_heard_is_what_a_receiver_reads(precision):
    rng = np.random.default_rng(2)
    values, mask = rng.normal(size=300).astype(np.float32), rng.random(300) < 0.4
    said, read = sparse_entries(sparse_body(mask, values[mask], precision), 300, precision)
    np.testing.assert_array_equal(said, mask)
    full = heard(mask, values, precision)
    np.testing.assert_array_equal(full[mask], read)
    assert not full[~mask].any()
