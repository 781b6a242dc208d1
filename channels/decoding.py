"""What comes of attempts over the fading: the chance that one is decoded at each mean SINR, by error model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from channels.arrays import FloatArray
from channels.fading import power_cdf
from channels.link import CQI_MODES, Modes
from channels.units import db_to_linear

_START_DB, _STEP_DB = -60.0, 0.1
_LN_FADES, _FADE_CELLS, _DEEPEST = (-24.0, 6.0), 1000, 10_000
# Where nothing fades modes make steps, which a straight line over a long cell would miss.
_STEPPED_DB = 0.01
# Where every attempt is decoded, however weak, the tables reach further down.
_CERTAIN_START_DB = -160.0


@dataclass(frozen=True)
class RateRule:
    """How rates follow from SINR.

    Attributes:
        kind: One of `channels.link.RATES`.
        bandwidth_hz: Bandwidth of one sub-channel in Hz.
        gap_db: SNR gap of `shannon` in dB.
        sinr_min: Decoding threshold beta, linear.
        fading: Kind of fading.
        shape: (name, value) pairs of the fading's shape.
        margin_db: Margin in dB below the mean SINR; None maximises the expected goodput.
        certain: Whether every attempt is decoded (the error model `none`).
        waterfall: Waterfall threshold m of the error model `chen`, linear; None for the others.
        message_bits: Length in bits of the messages under the error model `finite_blocklength`, inf for long ones;
            None for the others.
        modes: The modes of `cqi` or `nr`.
    """

    kind: str
    bandwidth_hz: float
    gap_db: float = 0.0
    sinr_min: float = 1.0
    fading: str = "none"
    shape: tuple[tuple[str, float], ...] = ()
    margin_db: float | None = None
    certain: bool = False
    waterfall: float | None = None
    message_bits: float | None = None
    modes: Modes = CQI_MODES


def first_db(rule: RateRule) -> float:
    """First mean SINR of the tables over it, in dB."""
    return _CERTAIN_START_DB if rule.certain else _START_DB


def step_db(rule: RateRule) -> float:
    """Step of the tables in dB."""
    return _STEPPED_DB if rule.kind != "shannon" and rule.fading == "none" else _STEP_DB


def finite(rule: RateRule) -> bool:
    """Whether codes of a finite length are meant (`channels.blocklength`)."""
    return rule.message_bits is not None and math.isfinite(rule.message_bits)


def code_of(rule: RateRule) -> dict[str, Any]:
    """What `channels.blocklength` is told of a rule."""
    gap = float(db_to_linear(rule.gap_db))
    return {"bits": rule.message_bits, "gap": gap, "fading": rule.fading, "shape": dict(rule.shape)}


def decoded_chance(rule: RateRule, mean: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Chance that an attempt at each point's mean SINR is decoded, as a function of the SINR that its rate needs."""
    if rule.waterfall is None:
        return lambda needed: _reached(rule, needed / mean)
    lost = rule.waterfall / mean
    if rule.fading == "none":
        return lambda needed: np.exp(-lost) * _reached(rule, needed / mean)
    fade, share = _fades(rule)
    within = share * np.exp(-lost[:, None] / fade)
    # (points, cells + 1): chance of a fade above each edge that is decoded.
    above = np.concatenate([np.cumsum(within[:, ::-1], axis=1)[:, ::-1], np.zeros((mean.size, 1))], axis=1)
    per_ln, points = _FADE_CELLS / (_LN_FADES[1] - _LN_FADES[0]), np.arange(mean.size)

    def chance(needed: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore"):
            place = np.clip((np.log(needed / mean) - _LN_FADES[0]) * per_ln, 0.0, _FADE_CELLS - 1e-6)
        cell = place.astype(np.int64)
        return above[points, cell] - (place - cell) * within[points, cell]

    return chance


def _fades(rule: RateRule) -> tuple[FloatArray, FloatArray]:
    """(cells,) fading factors, equally spaced in their logarithm, and the chance of each."""
    edges = np.linspace(*_LN_FADES, _FADE_CELLS + 1)
    share = np.diff(power_cdf(rule.fading, np.exp(edges), **dict(rule.shape)))
    return np.exp((edges[1:] + edges[:-1]) / 2), share


def carried_bps(rule: RateRule, sinr: FloatArray) -> FloatArray:
    """Most that an SINR carries: B·lb(1 + SINR/gap), exact for the weakest too.

    Args:
        rule: Bandwidth and gap.
        sinr: Linear SINR, >= 0, any shape; below 1e-30 it counts as that.

    Returns:
        Rate in bit/s, > 0, in the shape of `sinr`.
    """
    gap = float(db_to_linear(rule.gap_db))
    return rule.bandwidth_hz / math.log(2.0) * np.log1p(np.maximum(sinr, 1e-30) / gap)


def certain_bps(rule: RateRule, mean: FloatArray, rate: FloatArray) -> FloatArray:
    """Bits over the expected time of attempts that are all decoded, no faster than the fade of the moment carries.

    The time's mean is infinite where deep fades are as likely as under Rayleigh fading, by its logarithm alone; the
    deepest fades, one in `_DEEPEST`, are left out of it.
    """
    if rule.fading == "none":
        return np.minimum(rate, carried_bps(rule, mean))
    fade, share = _fades(rule)
    usual = (np.cumsum(share) > 1 / _DEEPEST) & (share > 0)
    fade, share = fade[usual], share[usual]
    carried = carried_bps(rule, mean[:, None] * fade)
    return share.sum() / (1.0 / np.minimum(carried, rate[:, None]) @ share)


def _reached(rule: RateRule, ratio: FloatArray) -> FloatArray:
    """Chance that the fading factor reaches a ratio."""
    if rule.fading == "none":
        return (ratio <= 1.0 + 1e-9).astype(np.float64)
    return 1.0 - power_cdf(rule.fading, ratio, **dict(rule.shape))
