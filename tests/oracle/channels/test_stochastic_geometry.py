"""Closed forms of Poisson networks against the project's SINR, within three standard errors."""

import numpy as np
import pytest

from channels.draws import keyed_uniform, stream_key
from channels.link import sinr_linear

DENSITY = 1e-4
SIDE_M = 900.0


def _field(random):
    count = random.poisson(DENSITY * SIDE_M**2)
    return (random.random((count, 2)) - 0.5) * SIDE_M


def _tail(radius_m):
    """Mean interference of a unit-power Poisson field beyond a radius, exponent 4."""
    return 2 * np.pi * DENSITY * radius_m**-2 / 2


def test_bipolar_network():
    random, drops = np.random.default_rng(7), 6000
    sinr = np.empty(drops)
    for drop in range(drops):
        apart = np.linalg.norm(_field(random), axis=1)
        fading = -np.log(keyed_uniform(stream_key(drop, "fading"), np.arange(apart.size + 1), apart.size + 1))
        gains = np.zeros((apart.size + 1, apart.size + 1))
        gains[:, 0] = np.concatenate(([20.0], apart)) ** -4 * fading
        sinr[drop] = sinr_linear(gains, 1.0, np.ones(apart.size + 1, bool), _tail(SIDE_M / 2))[0]
    for threshold_db, expected in ((0.0, 0.82087), (10.0, 0.53569)):
        # P = exp(-lambda·pi·r²·sqrt(T)·pi/2) for exponent 4.
        closed = np.exp(-DENSITY * np.pi * 400 * np.sqrt(10 ** (threshold_db / 10)) * np.pi / 2)
        assert closed == pytest.approx(expected, abs=6e-6)
        found = np.mean(sinr > 10 ** (threshold_db / 10))
        assert abs(found - expected) < 3 * np.sqrt(expected * (1 - expected) / drops)


def test_nearest_transmitter_coverage_and_rate():
    expected = {-10.0: 0.91170, 0.0: 0.56010, 10.0: 0.20005, 20.0: 0.06365}
    for threshold_db, value in expected.items():
        root = np.sqrt(10 ** (threshold_db / 10))
        assert 1 / (1 + root * (np.pi / 2 - np.arctan(1 / root))) == pytest.approx(value, abs=6e-6)
    random, drops = np.random.default_rng(8), 6000
    sinr = np.empty(drops)
    for drop in range(drops):
        gain = np.linalg.norm(_field(random), axis=1) ** -4.0
        order = np.argsort(-gain)
        faded = gain[order] * -np.log(random.random(gain.size))
        gains = np.zeros((gain.size, gain.size))
        gains[:, 0] = faded
        sinr[drop] = sinr_linear(gains, 1.0, np.ones(gain.size, bool), _tail(SIDE_M / 2))[0]
    for threshold_db, value in expected.items():
        found = np.mean(sinr > 10 ** (threshold_db / 10))
        assert abs(found - value) < 3 * np.sqrt(value * (1 - value) / drops)
    rate = np.log1p(sinr)
    assert abs(rate.mean() - 1.4890) < 3 * rate.std() / np.sqrt(drops)
