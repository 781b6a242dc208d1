"""Error feedback: what is said over many rounds adds up to what was meant, however the residual is kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dfl_ray.methods.gossip import quantise
from dfl_ray.wire.codec import decode_values, from_bfloat16


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.floats(-6, 3))
def test_said_and_meant_differ_by_the_last_residual_and_little_more(seed, size, magnitude):
    rng = np.random.default_rng(seed)
    scale, rounds = 10.0**magnitude, 60
    meant, said, residual = np.zeros(size), np.zeros(size), None
    for _ in range(rounds):
        values = (scale * rng.standard_normal(size)).astype(np.float32)
        body, residual = quantise(values, residual, "int8")
        assert residual.dtype == np.uint16
        meant += values
        said += decode_values(body, "int8", size)
    missing = meant - said - from_bfloat16(residual)
    # Each round loses up to 2^-9 of a residual, itself at most half a code of 1/127 of the largest value (codes are
    # no finer than float16's least number).
    largest = 6 * scale
    assert np.abs(missing).max() <= rounds * 2.0**-9 * max(largest / 254, 2.0**-25) + 60 * 2.0**-23 * largest
    plain = meant - said
    assert np.abs(plain).max() <= 1.01 * max(largest / 254, 2.0**-24) + np.abs(missing).max()
    assert residual.nbytes == 2 * size


def test_a_residual_of_an_older_checkpoint_counts_in_float32():
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    old = np.full(64, 0.0037, np.float32)
    body, _ = quantise(values, old, "float32")
    np.testing.assert_array_equal(decode_values(body, "float32", 64), values + old)


def test_a_residual_of_another_length_counts_as_zero():
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    _, residual = quantise(values[:32], None, "int8")
    assert quantise(values, residual, "int8")[0] == quantise(values, None, "int8")[0]
