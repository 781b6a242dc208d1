"""Epsilon of repeated Gaussian mechanisms: closed form, numerical accountant, and bounds that are always there."""

from __future__ import annotations

import warnings
from functools import lru_cache
from math import erfc, exp, log, log1p, sqrt

import numpy as np
from scipy.special import erfcx, gammaln, logsumexp
from scipy.stats import binom

MOST_CELLS = 2**18
"""Cells of the numerical accountant's grid; as many take 1 s and 200 MB."""

ERROR = 0.05
"""Error of the numerical accountant's epsilon where the grid has room for it."""

_ORDERS = np.array([*range(2, 64), *range(64, 513, 16)])
_STEPS = 80
"""Bisections: the last interval is 2^-80 of the first, less than float64 resolves."""


@lru_cache(maxsize=4096)
def epsilon(noise_multiplier: float, uses: int, delta: float, rate: float = 1.0) -> float:
    """Upper bound of epsilon after some uses of one mechanism.

    At rate 1 exact (`gaussian_epsilon`). Else the least of two bounds that hold everywhere (`renyi_epsilon`,
    `binomial_epsilon`) and of the numerical accountant of Gopi, Lee and Wutschitz 2021 (arXiv 2106.02848, package
    `prv-accountant`), which is off by `ERROR`, by more where its grid would have over `MOST_CELLS` cells, and fails for
    little noise or a tiny delta.

    Args:
        noise_multiplier: s > 0, standard deviation of the noise over the sensitivity.
        uses: How often the mechanism was used, >= 0.
        delta: delta in (0, 1).
        rate: Probability with which the hidden row comes into a use (Poisson sampling); 1 = always.

    Returns:
        epsilon >= 0, finite, at which all uses together are (epsilon, delta)-private under adding or removing what is
        hidden.
    """
    if uses == 0 or rate == 0:
        return 0.0
    if rate >= 1:
        return gaussian_epsilon(noise_multiplier / sqrt(uses), delta)
    bounds = (renyi_epsilon, binomial_epsilon)
    least = min(bound(noise_multiplier, uses, delta, rate) for bound in bounds)
    found = _numerical_epsilon(noise_multiplier, uses, delta, rate)
    return least if found is None else min(least, found)


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism: `gaussian_delta` solved for epsilon; k uses with s are one with s / sqrt(k).

    With mu = 1 / sigma and z = epsilon / mu - mu / 2, delta(epsilon) <= exp(-z^2 / 2) / 2 brackets the solution.

    Source: Balle and Wang 2018 (arXiv 1805.06530), theorem 8.

    Args:
        sigma: Standard deviation of the noise over the sensitivity, > 0.
        delta: delta in (0, 1).

    Returns:
        epsilon >= 0.
    """
    mu = 1.0 / sigma
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = -mu / 2, sqrt(2 * log(1 / delta))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if gaussian_delta(mu, mu * (middle + mu / 2)) > delta:
            low = middle
        else:
            high = middle
    return mu * (high + mu / 2)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """delta of a Gaussian mechanism: Phi(-z) - e^epsilon Phi(-z - mu) with z = epsilon / mu - mu / 2.

    For z >= 0 it is e^(-z^2 / 2) (erfcx(z / sqrt 2) - erfcx((z + mu) / sqrt 2)) / 2: no overflow, no cancellation.

    Source: Balle and Wang 2018 (arXiv 1805.06530), theorem 8.

    Args:
        mu: Sensitivity over the standard deviation of the noise, >= 0.
        epsilon: >= 0.

    Returns:
        delta in [0, 1].
    """
    if mu == 0:
        return 0.0
    z = epsilon / mu - mu / 2
    second = exp(-z * z / 2) * float(erfcx((z + mu) / sqrt(2))) if z * z < 1400 else 0.0
    first = erfc(z / sqrt(2)) if z < 0 else exp(-z * z / 2) * float(erfcx(z / sqrt(2)))
    return max(0.0, (first - second) / 2)


def renyi_epsilon(noise_multiplier: float, uses: int, delta: float, rate: float) -> float:
    """Bound of epsilon from Renyi divergences of whole orders a.

    R(a) = log(sum_k C(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / (2 s^2))) / (a - 1) of one use, and
    epsilon = min_a uses R(a) + log(1 - 1 / a) - log(a delta) / (a - 1).

    Sources: Mironov, Talwar and Zhang 2019 (arXiv 1908.10530), section 3.3; the step to epsilon: Canonne, Kamath and
    Steinke 2020 (arXiv 2004.00010), proposition 12.

    Args:
        noise_multiplier: s > 0.
        uses: >= 1.
        delta: delta in (0, 1).
        rate: q in (0, 1).

    Returns:
        epsilon >= 0.
    """
    best = float("inf")
    for order in _ORDERS.tolist():
        k = np.arange(order + 1)
        terms = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1) + k * log(rate)
        terms += (order - k) * log1p(-rate) + (k * k - k) / (2 * noise_multiplier**2)
        spent = uses * float(logsumexp(terms)) / (order - 1)
        best = min(best, spent + log1p(-1 / order) - log(order * delta) / (order - 1))
    return max(0.0, best)


def binomial_epsilon(noise_multiplier: float, uses: int, delta: float, rate: float) -> float:
    """Bound of epsilon as if it were seen into which uses the row came: K ~ Binomial(uses, q) of them.

    Divergences are jointly convex: delta(epsilon) <= E_K[delta of K Gaussian uses at epsilon]. At little noise, where
    Renyi divergences of order 2 are far off, this is near to the truth. Of K over its quantile to delta / 2 all is
    taken to show.

    Args:
        noise_multiplier: s > 0.
        uses: >= 1.
        delta: delta in (0, 1).
        rate: q in (0, 1).

    Returns:
        epsilon >= 0.
    """
    most = int(binom.isf(delta / 2, uses, rate))
    return gaussian_epsilon(noise_multiplier / sqrt(most), delta / 2) if most else 0.0


def _numerical_epsilon(noise_multiplier: float, uses: int, delta: float, rate: float) -> float | None:
    """The upper end of the numerical accountant's epsilon; None where it fails."""
    from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
    from prv_accountant.accountant import compute_safe_domain_size

    prv = PoissonSubsampledGaussianMechanism(noise_multiplier=noise_multiplier, sampling_probability=rate)
    tail, error = delta / 1000, ERROR
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            half = compute_safe_domain_size([prv], [uses], eps_error=error, delta_error=tail)
            cells = 2 * half / error * sqrt(uses / 2 * log(12 / tail))  # theorem 5.5
            error *= max(1.0, cells / MOST_CELLS)
            accountant = PRVAccountant(
                prvs=[prv], max_self_compositions=[uses], eps_error=error, delta_error=tail
            )
            found = float(accountant.compute_epsilon(delta, [uses])[2])
    except (RuntimeError, ValueError, ArithmeticError, AssertionError, MemoryError):
        return None
    return max(0.0, found) if np.isfinite(found) else None
