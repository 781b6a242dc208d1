import numpy as np
import pytest
from scipy import integrate, special

from channels.fading import (
    ar1_step,
    doppler_correlation,
    ergodic_efficiency,
    outage_probability,
    power_cdf,
    power_quantile,
)

SHAPES = [
    ("rayleigh", {}),
    ("rician", {"k": 5}),
    ("rician", {"k_db": 12.0}),
    ("nakagami", {"m": 0.7}),
    ("nakagami", {"m": 2}),
]


def test_outage_check_values():
    assert outage_probability("rayleigh", 10, 0) == pytest.approx(0.09516, abs=6e-6)
    assert outage_probability("nakagami", 10, 0, m=2) == pytest.approx(0.01752, abs=6e-6)
    assert outage_probability("rician", 10, 0, k=5) == pytest.approx(0.00964, abs=6e-6)
    assert outage_probability("none", [10, -10], 0).tolist() == [0.0, 1.0]


def test_rician_outage_is_marcum_q():
    ratio, k = 0.3, 3.0
    a, b = np.sqrt(2 * k), np.sqrt(2 * (1 + k) * ratio)
    # Q1(a, b) by its integral of x·exp(-(x² + a²)/2)·I0(a·x) from b on, with the scaled Bessel function.
    marcum = integrate.quad(lambda x: x * np.exp(-((x - a) ** 2) / 2) * special.ive(0, a * x), b, a + 12)[0]
    assert outage_probability("rician", 0, 10 * np.log10(ratio), k=k) == pytest.approx(1 - marcum, abs=1e-9)


def test_ergodic_check_values():
    np.testing.assert_allclose(
        ergodic_efficiency("rayleigh", [0, 10, 20]), [0.86035, 2.90651, 5.88405], atol=6e-6
    )
    np.testing.assert_allclose(
        ergodic_efficiency("nakagami", [0, 10, 20], m=1),
        ergodic_efficiency("rayleigh", [0, 10, 20]),
        atol=1e-6,
    )
    assert ergodic_efficiency("rayleigh", -40.0) == pytest.approx(1e-4 / np.log(2), rel=1e-3)


def test_doppler_check_value():
    assert doppler_correlation(15, 3.5e9, 1e-3) == pytest.approx(0.71947, abs=6e-6)


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_quantile_inverts_cdf_and_has_mean_one(kind, shape):
    u = np.array([1e-6, 0.01, 0.5, 0.99, 1 - 1e-6])
    np.testing.assert_allclose(power_cdf(kind, power_quantile(kind, u, **shape), **shape), u, rtol=1e-6)
    mean = integrate.quad(lambda p: float(power_quantile(kind, p, **shape)), 0, 1, limit=200)[0]
    assert mean == pytest.approx(1.0, abs=1e-4)


def test_ar1_keeps_variance_and_correlation():
    random = np.random.default_rng(1)
    start = (random.normal(size=40000) + 1j * random.normal(size=40000)) / np.sqrt(2)
    noise = (random.normal(size=40000) + 1j * random.normal(size=40000)) / np.sqrt(2)
    after = ar1_step(start, 0.72, noise)
    assert np.mean(abs(after) ** 2) == pytest.approx(1.0, abs=3 / np.sqrt(40000))
    assert np.mean(after * start.conj()).real == pytest.approx(0.72, abs=3 / np.sqrt(40000))


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("rician", {}, "exactly one of"),
        ("rayleigh", {"k": 1}, "no shape"),
        ("nakagami", {"m": 0.1}, "at least 0.5"),
        ("raleigh", {}, "Did you mean 'rayleigh'"),
    ],
)
def test_bad_shapes(kind, shape, words):
    with pytest.raises(ValueError, match=words):
        outage_probability(kind, 10, 0, **shape)
