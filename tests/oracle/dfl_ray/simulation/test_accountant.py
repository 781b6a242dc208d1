"""Epsilon against the exact curve by bisection, one sampled use in closed form, and a composition by convolution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_ndtr, ndtr
from scipy.stats import norm

from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.records.faults import privacy_line, privacy_lines
from dfl_ray.simulation import accountant
from dfl_ray.simulation import epsilon as epsilon_of_a_run
from dfl_ray.simulation.accountant import binomial_epsilon, epsilon, gaussian_delta, renyi_epsilon


def exact_epsilon(sigma, delta, most):
    """Theorem 8 of Balle and Wang 2018 (arXiv 1805.06530) as it is printed, solved by bisection."""
    low, high = 0.0, most
    for _ in range(200):
        eps = (low + high) / 2
        found = math.exp(log_ndtr(0.5 / sigma - eps * sigma)) - math.exp(
            eps + log_ndtr(-0.5 / sigma - eps * sigma)
        )
        low, high = (eps, high) if found > delta else (low, eps)
    return high


def one_sampled_use(sigma, rate, delta):
    """The hockey-stick divergence of (1 - q) N(0, s^2) + q N(1, s^2) and N(0, s^2), both ways, solved by bisection."""

    def divergence(eps, added):
        if added:  # P = N(0), Q = mixture: P > e^eps Q where e^(loss) < (e^-eps - 1 + q) / q
            share = (math.exp(-eps) - 1 + rate) / rate
            if share <= 0:
                return 0.0
            x = sigma**2 * math.log(share) + 0.5
            mixed = (1 - rate) * ndtr(x / sigma) + rate * ndtr((x - 1) / sigma)
            return ndtr(x / sigma) - math.exp(eps) * mixed
        x = sigma**2 * math.log((math.exp(eps) - 1 + rate) / rate) + 0.5
        mixed = (1 - rate) * ndtr(-x / sigma) + rate * ndtr(-(x - 1) / sigma)
        return mixed - math.exp(eps) * ndtr(-x / sigma)

    low, high = 0.0, 200.0
    for _ in range(200):
        eps = (low + high) / 2
        low, high = (eps, high) if max(divergence(eps, a) for a in (0, 1)) > delta else (low, eps)
    return high


def convolved(sigma, uses, rate, delta, half, cells=2**20):
    """Lower bound of epsilon: the privacy loss rounded down to a grid, composed by FFT, the removed row's side."""
    step = 2 * half / cells
    x = np.linspace(-40 * sigma, 1 + 40 * sigma, 1_000_001)
    edges = np.concatenate([[-np.inf], (x[1:] + x[:-1]) / 2, [np.inf]])
    weights = np.diff((1 - rate) * norm.cdf(edges, 0, sigma) + rate * norm.cdf(edges, 1, sigma))
    loss = np.log1p(rate * np.expm1((2 * x - 1) / (2 * sigma**2)))
    at = np.floor(loss / step).astype(int) % cells
    composed = np.fft.ifft(np.fft.fft(np.bincount(at, weights=weights, minlength=cells)) ** uses).real
    losses = np.fft.fftfreq(cells, 1 / cells) * step
    low, high = 0.0, half
    for _ in range(60):
        eps = (low + high) / 2
        over = losses > eps
        found = (composed[over] * -np.expm1(eps - losses[over])).sum()
        low, high = (eps, high) if found > delta else (low, eps)
    return low


@pytest.mark.parametrize(
    ("sigma", "uses", "delta"),
    [(1.0, 1, 1e-5), (4.0, 20, 1e-5), (0.01, 20, 1e-5), (0.005, 20, 1e-5), (1.0, 20, 1e-15), (50.0, 3, 1e-3)],
)
def test_without_sampling_epsilon_is_the_closed_form(sigma, uses, delta):
    """Among them those that took gigabytes, gave infinity or failed: noise 0.01 and 0.005, delta 1e-15."""
    exact = exact_epsilon(sigma / uses**0.5, delta, 1e6)
    assert epsilon(sigma, uses, delta) == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_delta_of_a_gaussian_is_that_of_the_printed_formula():
    for mu in (1e-3, 0.5, 3.0, 20.0):
        for eps in (0.0, 1e-3, 0.4, 2.0, 30.0):
            printed = ndtr(mu / 2 - eps / mu) - math.exp(eps) * ndtr(-mu / 2 - eps / mu)
            assert gaussian_delta(mu, eps) == pytest.approx(printed, rel=1e-6, abs=1e-13)
    assert epsilon(1.0, 0, 1e-5) == epsilon(1.0, 9, 1e-5, 0.0) == epsilon(1e6, 1, 0.5) == 0.0


@pytest.mark.parametrize(
    ("sigma", "rate", "delta"), [(1.0, 0.1, 1e-5), (0.3, 0.3, 1e-6), (2.0, 0.9, 1e-5), (0.1, 0.05, 1e-5)]
)
def test_one_sampled_use_is_bounded_from_above(sigma, rate, delta):
    pytest.importorskip("prv_accountant")
    exact = one_sampled_use(sigma, rate, delta)
    for found in (epsilon, renyi_epsilon, binomial_epsilon):
        assert exact - 1e-9 <= found(sigma, 1, delta, rate)
    assert epsilon(sigma, 1, delta, rate) <= 1.25 * exact + 0.15


@pytest.mark.parametrize(
    ("sigma", "uses", "rate", "half", "times"),
    [
        (0.2, 200, 0.3, 2600, 1.35),
        (0.1, 20, 0.3, 1900, 1.3),
        (0.3, 20, 0.1, 200, 2.2),
        (1.0, 200, 0.01, 30, 1.15),
    ],
)
def test_many_sampled_uses_are_bounded_where_the_accountant_fails_too(sigma, uses, rate, half, times):
    """The first three make the numerical accountant fail."""
    pytest.importorskip("prv_accountant")
    least = convolved(sigma, uses, rate, 1e-5, half)
    assert least <= epsilon(sigma, uses, 1e-5, rate) <= times * least
    assert least <= min(renyi_epsilon(sigma, uses, 1e-5, rate), binomial_epsilon(sigma, uses, 1e-5, rate))


def test_epsilon_is_that_of_the_librarys_example_and_always_finite():
    pytest.importorskip("prv_accountant")
    # README of prv-accountant: DP-SGD, noise 0.8, rate 5e-3, 1000 steps, delta 1e-6: epsilon 2.00 within 0.1
    assert epsilon(0.8, 1000, 1e-6, 5e-3) == pytest.approx(2.004, abs=0.1)
    for sigma in (1e-12, 0.01, 1.0, 1e12):
        for delta in (1e-300, 1e-15, 0.9):
            for rate in (1e-9, 1.0):
                assert 0 <= epsilon(sigma, 500, delta, rate) < math.inf
    assert "epsilon 1.00 to 2.00" in privacy_line({0: 1.0, 1: 2.0}, "row", 1e-5)


def test_the_grid_of_the_numerical_accountant_is_bounded(monkeypatch):
    """10,000 uses would take 2 million cells; a coarser grid gives a larger bound."""
    pytest.importorskip("prv_accountant")
    fine = accountant._numerical_epsilon(1.0, 400, 1e-5, 0.1)
    monkeypatch.setattr(accountant, "MOST_CELLS", 2**13)
    coarse = accountant._numerical_epsilon(1.0, 400, 1e-5, 0.1)
    assert fine < coarse < 1.05 * fine


def test_an_accountant_that_fails_leaves_a_run_that_has_trained(monkeypatch):
    from types import SimpleNamespace

    told, info = [], {}
    folder = SimpleNamespace(path=None, info={}, update_info=lambda **fields: info.update(fields))
    setup = SimpleNamespace(config=load_config(None, ["method=dlora", "privacy.mechanism=updates"]))
    monkeypatch.setattr(epsilon_of_a_run, "load_run", lambda _path: 1 / 0)
    epsilon_of_a_run.record_privacy(folder, setup, SimpleNamespace(say=told.append))
    assert info["privacy"]["epsilon"] is None and info["privacy"]["why"] == "division by zero"
    assert (
        privacy_lines(SimpleNamespace(info=info))
        == told
        == ["Privacy: epsilon is not known: division by zero"]
    )


@pytest.mark.parametrize("key", ["noise_multiplier=1e-200", "delta=1e-310"])
def test_noise_whose_epsilon_is_no_number_is_refused(key):
    with pytest.raises(InputError, match=key.split("=")[0]):
        load_config(None, ["method=dlora", "privacy.mechanism=updates", f"privacy.{key}"])
