"""Errors of codes of finite length: the normal approximation over the complex Gaussian channel.

A message of b bits at R bit a channel use takes n = b/R uses. The best code of that length fails with about

    eps(s, R, n) = Q(sqrt(n/V)·(C - R + lb(n)/(2n))),   C = lb(1 + s),   V = (1 - 1/(1 + s)²)·lb²(e)

at SINR s. A real code is worse by a loss in dB: here s is the SINR over the gap (`radio.snr_gap_db`), so that rates,
capacity and dispersion lose alike. As n grows eps becomes 0 below capacity and 1 above it: the outage model. A whole
message is one codeword; fading that changes within a transmission enters by the SINR of equal mutual information.

Source:
    Polyanskiy, Poor and Verdú, Channel Coding Rate in the Finite Blocklength Regime (IEEE Trans. IT 56(5), 2010),
    eq. (223) with theorem 54 for the real Gaussian channel (two real uses make a complex one).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray
from channels.fading import power_cdf

_NEPER_PER_DB = math.log(10.0) / 10.0
_LN_FADES = (-24.0, 6.0)
_LESS_DB = 0.025 * np.arange(321)


def capacity(sinr_linear: ArrayLike) -> FloatArray:
    """Capacity C = lb(1 + s) of the complex Gaussian channel.

    Args:
        sinr_linear: Linear SINR s, >= 0, any shape.

    Returns:
        Bit a channel use, in the shape of `sinr_linear`.
    """
    return np.log1p(np.asarray(sinr_linear, dtype=np.float64)) / math.log(2.0)


def dispersion(sinr_linear: ArrayLike) -> FloatArray:
    """Channel dispersion V = (1 - 1/(1 + s)²)·lb²(e) of the complex Gaussian channel.

    Args:
        sinr_linear: Linear SINR s, >= 0, any shape.

    Returns:
        Squared bit a channel use, in [0, 2.0814), in the shape of `sinr_linear`.
    """
    below = 1.0 / (1.0 + np.asarray(sinr_linear, dtype=np.float64))
    return (1.0 - below**2) / math.log(2.0) ** 2


def error_probability(sinr_linear: ArrayLike, efficiency: ArrayLike, uses: ArrayLike) -> FloatArray:
    """Chance that a codeword is not decoded; see the module's text.

    Args:
        sinr_linear: Linear SINR over the gap, >= 0, any shape.
        efficiency: Rate R in bit a channel use (bit/s/Hz), > 0; broadcasts.
        uses: Length n in channel uses, > 0; below 1 it counts as 1; broadcasts.

    Returns:
        Probability in [0, 1], in the broadcast shape. Not rising in the SINR, not falling in the rate, and below
        capacity falling in the length once n·(C - R) exceeds a few bits.
    """
    from scipy.special import ndtr

    n = np.maximum(np.asarray(uses, dtype=np.float64), 1.0)
    left = capacity(sinr_linear) - np.asarray(efficiency, dtype=np.float64) + np.log2(n) / (2.0 * n)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = left * np.sqrt(n / dispersion(sinr_linear))
    # Where there is no signal at all the dispersion is 0, and nothing is decoded.
    return np.asarray(ndtr(-np.nan_to_num(deviations, nan=-math.inf)), dtype=np.float64)


def rate_at(sinr_linear: ArrayLike, uses: ArrayLike, error: float) -> FloatArray:
    """Largest rate of a code of n uses that fails no more often than given: C - sqrt(V/n)·Q⁻¹(eps) + lb(n)/(2n).

    Args:
        sinr_linear: Linear SINR over the gap, >= 0, any shape.
        uses: Length n in channel uses, >= 1; broadcasts.
        error: Error probability eps in (0, 1).

    Returns:
        Bit a channel use, in the broadcast shape; 0.836 at 0 dB, n = 500 and eps = 1e-3.
    """
    from scipy.special import ndtri

    n = np.asarray(uses, dtype=np.float64)
    spread = np.sqrt(dispersion(sinr_linear) / n) * float(ndtri(error))
    return capacity(sinr_linear) + spread + np.log2(n) / (2.0 * n)


def mean_success(
    mean: FloatArray, efficiency: FloatArray, bits: float, gap: float, fading: str, shape: dict[str, float]
) -> FloatArray:
    """Chance, over the fading, that a message is decoded at each mean SINR: E_h[1 - eps(g·h/gap, R, b/R)].

    Args:
        mean: (points,) linear mean SINR g.
        efficiency: (points,) rate R of each in bit/s/Hz.
        bits: Length of the message b in bits.
        gap: SNR gap, linear.
        fading: Kind of fading.
        shape: Its shape.

    Returns:
        (points,) probability.
    """
    if fading == "none":
        return 1.0 - error_probability(mean / gap, efficiency, bits / efficiency)
    edges = np.linspace(*_LN_FADES, 1001)
    share = np.diff(power_cdf(fading, np.exp(edges), **shape))
    used = share > 1e-12
    factor = np.exp((edges[1:] + edges[:-1]) / 2)[used] / gap
    out = np.empty(mean.shape)
    # A few hundred points at a time keep the table of points and fades small.
    for start in range(0, mean.size, 256):
        part = slice(start, start + 256)
        rate = efficiency[part, None]
        lost = error_probability(mean[part, None] * factor, rate, bits / rate)
        out[part] = (1.0 - lost) @ share[used]
    return out


def best_aims(
    mean: FloatArray, step_db: float, aims: FloatArray, rates_of: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
    bits: float, gap: float, fading: str, shape: dict[str, float],
) -> FloatArray:  # fmt: skip
    """The aim of the largest expected goodput at each mean SINR: the SINR that the chosen rate needs of a long code.

    Args:
        mean: (points,) linear mean SINR, `step_db` apart.
        step_db: Step between them in dB.
        aims: (aims,) linear SINRs to choose from; where nothing fades also those up to 8 dB below the mean.
        rates_of: Rate that needs an SINR, in any unit, and what its code carries in bit a channel use.
        bits: Length of the message in bits.
        gap: SNR gap, linear.
        fading: Kind of fading.
        shape: Its shape.

    Returns:
        (points,) linear SINR.
    """
    if fading == "none":
        below = (mean * math.exp(-less * _NEPER_PER_DB) for less in _LESS_DB)
        return _best_unfaded(mean, [*(np.full_like(mean, a) for a in aims), *below], rates_of, bits, gap)
    from scipy.signal import fftconvolve

    step = step_db * _NEPER_PER_DB
    lags = np.arange(math.floor(_LN_FADES[0] / step), math.ceil(_LN_FADES[1] / step) + 1)
    edges = np.exp((np.append(lags, lags[-1] + 1) - 0.5) * step)
    share = np.diff(power_cdf(fading, edges, **shape))
    faded = mean[0] * np.exp((lags[0] + np.arange(mean.size + lags.size - 1)) * step)
    rate, carried = (values[:, None] for values in rates_of(aims))
    decoded = 1.0 - error_probability(faded / gap, carried, bits / carried)
    chance = np.asarray(fftconvolve(decoded, share[None, ::-1], mode="valid", axes=1))
    return aims[np.argmax(rate * chance, axis=0)]


def _best_unfaded(
    mean: FloatArray, choice: list[FloatArray], rates_of: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
    bits: float, gap: float,
) -> FloatArray:  # fmt: skip
    best, most = choice[0], np.full(mean.shape, -1.0)
    for aim in choice:
        rate, carried = rates_of(aim)
        value = rate * (1.0 - error_probability(mean / gap, carried, bits / carried))
        best, most = np.where(value > most, aim, best), np.maximum(value, most)
    return best
