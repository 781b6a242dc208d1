"""Small-scale fading: distributions, outage, correlation in time.

Power factors h have mean 1. Kinds: `none` (h = 1), `rayleigh` (exponential), `rician` (non-central
chi-square, K-factor `k` linear or `k_db`), `nakagami` (gamma of shape `m` >= 0.5).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray
from channels.registry import unknown_name
from channels.units import EXACT_SPEED_OF_LIGHT_M_S, db_to_linear

KINDS: tuple[str, ...] = ("none", "rayleigh", "rician", "nakagami")
_K_LINEAR = ("k", "K", "k_factor", "rician_k")
_K_DB = ("k_db", "rician_k_db")
_M = ("m", "nakagami_m")


def shape_parameter(kind: str, **shape: float) -> float:
    """Resolve the shape of a fading distribution.

    Args:
        kind: One of `KINDS`.
        **shape: `k` (linear K-factor, also `K`, `k_factor`, `rician_k`) or `k_db` (also `rician_k_db`)
            for `rician`; `m` (also `nakagami_m`) for `nakagami`; nothing else.

    Returns:
        Linear K for `rician`, m for `nakagami`, 0 otherwise.

    Raises:
        ValueError: For an unknown kind, a missing, superfluous or out-of-range shape.
    """
    if kind not in KINDS:
        raise unknown_name("fading", kind, KINDS)
    allowed = {"rician": (*_K_LINEAR, *_K_DB), "nakagami": _M}.get(kind, ())
    wrong = [name for name in shape if name not in allowed]
    if wrong or (allowed and len(shape) != 1):
        expected = f"exactly one of {', '.join(allowed)}" if allowed else "no shape"
        raise ValueError(f"fading {kind!r} got shape {sorted(shape)}; expected {expected}")
    if not allowed:
        return 0.0
    name, value = next(iter(shape.items()))
    value = float(db_to_linear(value)) if name in _K_DB else float(value)
    lowest = 0.5 if kind == "nakagami" else 0.0
    if not (math.isfinite(value) and value >= lowest):
        raise ValueError(f"fading {kind!r} got {name} = {shape[name]!r}; expected at least {lowest} (linear)")
    return value


def power_cdf(kind: str, power: ArrayLike, **shape: float) -> FloatArray:
    """P(h <= x) of the fading power factor h.

    Args:
        kind: One of `KINDS`.
        power: x >= 0, linear, any shape.
        **shape: See `shape_parameter`.

    Returns:
        Probability, in the shape of `power`.
    """
    from scipy import special

    parameter = shape_parameter(kind, **shape)
    x = np.maximum(np.asarray(power, dtype=np.float64), 0.0)
    if kind == "rayleigh":
        return np.asarray(-np.expm1(-x), dtype=np.float64)
    if kind == "nakagami":
        return np.asarray(special.gammainc(parameter, parameter * x), dtype=np.float64)
    if kind == "rician":
        return np.asarray(special.chndtr(2 * (1 + parameter) * x, 2.0, 2 * parameter))
    return (x >= 1.0).astype(np.float64)


def power_quantile(kind: str, probability: ArrayLike, **shape: float) -> FloatArray:
    """Power factor h that is not exceeded with the given probability: the inverse of `power_cdf`.

    Args:
        kind: One of `KINDS`.
        probability: In (0, 1), any shape.
        **shape: See `shape_parameter`.

    Returns:
        Linear power factor of mean 1.
    """
    from scipy import special

    parameter = shape_parameter(kind, **shape)
    u = np.asarray(probability, dtype=np.float64)
    if kind == "rayleigh":
        return np.asarray(-np.log1p(-u), dtype=np.float64)
    if kind == "nakagami":
        return np.asarray(special.gammaincinv(parameter, u), dtype=np.float64) / parameter
    if kind == "rician":
        return np.asarray(special.chndtrix(u, 2.0, 2 * parameter)) / (2 * (1 + parameter))
    return np.ones_like(u)


def outage_probability(
    kind: str, mean_snr_db: ArrayLike, threshold_db: ArrayLike, **shape: float
) -> FloatArray:
    """P(g·h < threshold) at mean SNR g.

    Args:
        kind: One of `KINDS`.
        mean_snr_db: Mean SNR g in dB, any shape.
        threshold_db: Threshold in dB; broadcasts.
        **shape: `k` or `k_db` for `rician`, `m` for `nakagami`.

    Returns:
        Probability: Rayleigh 1 - exp(-t/g), Nakagami the regularised gamma P(m, m·t/g), Rician
        1 - Q1(sqrt(2K), sqrt(2(1+K)t/g)), `none` 0 or 1.

    Raises:
        ValueError: For an unknown kind or a bad shape.

    Source:
        Simon and Alouini, Digital Communication over Fading Channels, 2nd ed., section 2.2.
    """
    ratio = db_to_linear(
        np.asarray(threshold_db, dtype=np.float64) - np.asarray(mean_snr_db, dtype=np.float64)
    )
    if kind == "none":
        shape_parameter(kind, **shape)
        return (ratio > 1.0).astype(np.float64)
    return power_cdf(kind, ratio, **shape)


def ergodic_efficiency(kind: str, mean_snr_db: ArrayLike, **shape: float) -> FloatArray:
    """Ergodic spectral efficiency E[lb(1 + g·h)] in bit/s/Hz.

    Rayleigh has the closed form exp(1/g)·E1(1/g)/ln 2; the others sum over h = quantile(Phi(z)) for z from
    -8 to 8, where the trapezoidal rule converges exponentially (error below 1e-6 bit/s/Hz).

    Args:
        kind: One of `KINDS`.
        mean_snr_db: Mean SNR g in dB, any shape.
        **shape: See `shape_parameter`.

    Returns:
        Efficiency in bit/s/Hz.
    """
    mean = db_to_linear(mean_snr_db)
    if kind == "rayleigh":
        from scipy.special import exp1

        # exp(x)·E1(x) at x = 1/g overflows at large x, where its asymptotic series is exact to 1e-9.
        series = mean * (1 - mean + 2 * mean**2 - 6 * mean**3)
        x = np.minimum(1 / mean, 500.0)
        return np.where(1 / mean > 500.0, series, np.exp(x) * np.asarray(exp1(x))) / math.log(2)
    from scipy.special import ndtr

    normal = np.linspace(-8.0, 8.0, 1601)
    weight = np.exp(-(normal**2) / 2)
    factors = power_quantile(kind, np.asarray(ndtr(normal)), **shape)
    return np.log2(1 + np.multiply.outer(mean, factors)) @ (weight / weight.sum())


def doppler_hz(speed_mps: ArrayLike, carrier_hz: float) -> FloatArray:
    """Largest Doppler shift f_D = v·f/c.

    Args:
        speed_mps: Relative speed v in m/s, >= 0, any shape.
        carrier_hz: Carrier f in Hz, > 0.

    Returns:
        Shift in Hz, in the shape of `speed_mps` (15 m/s at 2 GHz: 100.07 Hz).
    """
    return np.asarray(speed_mps, dtype=np.float64) * carrier_hz / EXACT_SPEED_OF_LIGHT_M_S


def doppler_correlation(speed_mps: ArrayLike, carrier_hz: float, lag_s: ArrayLike) -> FloatArray:
    """Correlation of the complex fading gain over a lag: J0(2·pi·f_D·tau).

    Args:
        speed_mps: Relative speed in m/s, >= 0; broadcasts.
        carrier_hz: Carrier in Hz.
        lag_s: Lag tau in s; broadcasts.

    Returns:
        Correlation in [-0.403, 1] (3.5 GHz, 15 m/s, 1 ms: 0.71947).

    Source:
        Clarke's isotropic scattering model (1968).
    """
    from scipy.special import j0

    return np.asarray(j0(2 * np.pi * doppler_hz(speed_mps, carrier_hz) * np.asarray(lag_s, dtype=np.float64)))


def ar1_step(gain: ArrayLike, correlation: float, innovation: ArrayLike) -> FloatArray:
    """One step g' = rho·g + sqrt(1 - rho²)·w of an AR(1) process, real or complex.

    Args:
        gain: Current value, any shape, unit variance.
        correlation: rho in [-1, 1].
        innovation: w, independent, unit variance, same shape.

    Returns:
        The next value, unit variance.

    Raises:
        ValueError: If the correlation is outside [-1, 1].
    """
    if not -1.0 <= correlation <= 1.0:
        raise ValueError(f"correlation is {correlation!r}; expected a number from -1 to 1")
    return correlation * np.asarray(gain) + math.sqrt(1.0 - correlation**2) * np.asarray(innovation)
