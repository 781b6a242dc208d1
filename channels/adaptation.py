"""Which rate a sender chooses before it knows the outcome, and what it can expect of it.

A sender that knows a link's mean SINR g and the fading law, but not the fading of the moment, picks the SINR
theta that its rate will need. An attempt is decoded iff the SINR of the moment reaches theta, so the expected
goodput is R(theta)·P(g·h >= theta); the best theta is found once per radio and tabulated over g. Where packets are
lost besides (`errors: chen`), the chance is E[exp(-m/(g·h)); g·h >= theta]; with codes of finite length (`errors:
finite_blocklength`) E[1 - eps(g·h, R, n)] (`channels.blocklength`). Where all are decoded (`errors: none`), no
faster than the channel carries, the goodput is one over the expected time of a bit. With a set margin, theta is g
less the margin instead. Rates stop at the highest modulation.

Source:
    Goodput under an outage: Goldsmith, Wireless Communications (2005), section 4.2.3 (capacity with outage).
    Highest modulation: 3GPP TS 38.214 V16.2.0 table 5.1.3.1-2, index 27 (256QAM, 7.4063 bit/s/Hz).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import BoolArray, FloatArray
from channels.blocklength import best_aims, mean_success
from channels.decoding import RateRule, certain_bps, code_of, decoded_chance, finite, first_db, step_db
from channels.link import MODE_SLACK, lowest_rate_bps, mode_of, rate_bps, sinr_for_rate
from channels.units import db_to_linear

MAX_EFFICIENCY = 7.4063
"""Highest spectral efficiency in bit/s/Hz (3GPP TS 38.214 table 5.1.3.1-2, 256QAM)."""

CSI_KINDS: tuple[str, ...] = ("mean", "delayed", "estimated", "perfect", "genie")
"""What a sender knows: mean gains; its link's fading some time ago, from pilots, or as it is; the outcome itself."""

HOPELESS_SHARE = 0.01
_OCTAVES = (5, 24)
_STOP_DB = 160.0
_NEPER_PER_DB = math.log(10.0) / 10.0


@dataclass(frozen=True)
class RateLaw:
    """Rates and expected goodput over the mean SINR.

    The tables are uniform in ln(SINR), from -60 dB (-160 dB where every attempt is decoded) to 160 dB.

    Attributes:
        rule: What they were made for.
        lowest_bps: Lowest rate used, in bit/s.
        highest_bps: Highest rate used, in bit/s.
        backoff_ln: (points,) ln of mean SINR over the SINR the chosen rate needs.
        goodput_bps: (points,) expected goodput in bit/s, not falling.
    """

    rule: RateRule
    lowest_bps: float
    highest_bps: float
    backoff_ln: FloatArray = field(repr=False)
    goodput_bps: FloatArray = field(repr=False)

    @cached_property
    def need(self) -> FloatArray:
        """(2, 1024) ln of the lowest mean SINR for a goodput, uniform in ln(goodput), for the compiled loops.

        Row 1 starts with the first ln goodput and the points per unit; above the last point nothing suffices.
        """
        top = float(self.goodput_bps[-1])
        log_rate = np.linspace(math.log(HOPELESS_SHARE * self.lowest_bps), math.log(top), 1024)
        scale = np.zeros(log_rate.size)
        scale[:2] = log_rate[0], 1.0 / (log_rate[1] - log_rate[0])
        return np.stack([np.log(self.mean_sinr_for(np.minimum(np.exp(log_rate), top))), scale])

    @cached_property
    def earn(self) -> FloatArray:
        """(3, points) expected goodput and chosen rate over ln(mean SINR), for the compiled loops.

        Row 2 starts with the first ln SINR and the points per unit.
        """
        points = self.goodput_bps.size
        scale = np.zeros(points)
        scale[:2] = self.start_ln, self.per_ln
        mean = np.exp(self.start_ln + np.arange(points) / self.per_ln)
        chosen = self.chosen_rate(mean)
        if self.rule.certain:
            chosen = np.minimum(chosen, self.goodput_bps)
        return np.stack([self.goodput_bps, chosen, scale])

    @property
    def start_ln(self) -> float:
        """Ln of the tables' first SINR."""
        return first_db(self.rule) * _NEPER_PER_DB

    @property
    def per_ln(self) -> float:
        """Points per unit of ln(SINR)."""
        return 1.0 / (step_db(self.rule) * _NEPER_PER_DB)

    def rate(self, sinr: ArrayLike) -> FloatArray:
        """Rate that needs the given SINR: B·lb(1 + SINR/gap) or a mode's, between the lowest and the highest rate.

        Args:
            sinr: Linear SINR, >= 0, any shape.

        Returns:
            Rate in bit/s, in the shape of `sinr`, from `lowest_bps` to `highest_bps`.

        Raises:
            ValueError: If an SINR is negative and the rate is `shannon` (a value in dB was probably passed).
        """
        rule = self.rule
        slack = 1.0 if rule.kind == "shannon" else MODE_SLACK
        raw = rate_bps(rule.kind, np.asarray(sinr) * slack, rule.bandwidth_hz, rule.gap_db, rule.modes)
        return np.clip(raw, self.lowest_bps, self.highest_bps)

    def chosen_rate(self, mean_sinr: ArrayLike) -> FloatArray:
        """Rate that a sender chooses who knows the mean SINR and the fading law: the one that needs theta(g).

        Args:
            mean_sinr: Linear mean SINR g, >= 0, any shape.

        Returns:
            Rate in bit/s, in the shape of `mean_sinr`. Below the tables' range it is the lowest rate.
        """
        mean = np.asarray(mean_sinr, dtype=np.float64)
        return self.rate(mean * np.exp(-self._read(self.backoff_ln, mean)))

    def rate_for(self, sinr: FloatArray, bits: FloatArray, *, known: bool = False) -> FloatArray:
        """Rate chosen for a message of a length: the law's, but for codes of finite length the one of that length.

        Lengths count as the power of two below them.

        Args:
            sinr: (messages,) linear mean SINR.
            bits: (messages,) lengths in bits.
            known: Whether `sinr` is that of the attempt, fading included, and not a mean.

        Returns:
            (messages,) rate in bit/s.
        """
        if self.rule.message_bits is None:
            return self.rate(sinr) if known else self.chosen_rate(sinr)
        rule = replace(self.rule, fading="none", shape=(), margin_db=None) if known else self.rule
        octave = np.clip(np.log2(np.maximum(bits, 1.0)), *_OCTAVES).astype(np.int64)
        out = np.empty(sinr.shape)
        for power in np.unique(octave).tolist():
            own, these = rate_law(replace(rule, message_bits=2.0**power)), octave == power
            out[these] = own.chosen_rate(sinr[these])
        return out

    def needed_sinr(self, rate: ArrayLike) -> FloatArray:
        """SINR from which a rate is decoded: the inverse of the rate, and at least the threshold beta.

        Error models by which packets are lost besides know no threshold.

        Args:
            rate: Rate in bit/s, >= 0, any shape.

        Returns:
            Linear SINR, in the shape of `rate`; inf where there is no mode that fast.
        """
        rule = self.rule
        threshold = rule.sinr_min if rule.waterfall is None and rule.message_bits is None else 0.0
        needed = sinr_for_rate(rule.kind, rate, rule.bandwidth_hz, rule.gap_db, rule.modes)
        return np.maximum(needed, threshold)

    def carried(self, rate: FloatArray) -> FloatArray:
        """Bits that a channel use carries at a rate of the choice: the code's rate, pilots left out.

        Args:
            rate: Rate in bit/s, > 0, any shape.

        Returns:
            Bit a channel use, in the shape of `rate`.
        """
        efficiency, modes = rate / self.rule.bandwidth_hz, self.rule.modes
        if self.rule.kind != "nr":
            return efficiency
        return np.asarray(modes.carried)[np.minimum(mode_of(efficiency, modes), len(modes.carried) - 1)]

    def goodput(self, mean_sinr: ArrayLike) -> FloatArray:
        """Expected goodput of an attempt at the chosen rate: R(theta)·P(g·h >= theta).

        Args:
            mean_sinr: Linear mean SINR g, >= 0, any shape.

        Returns:
            Goodput in bit/s, in the shape of `mean_sinr`, not falling in it.
        """
        return self._read(self.goodput_bps, np.asarray(mean_sinr, dtype=np.float64))

    def expected_s(self, bits: ArrayLike, mean_sinr: ArrayLike) -> FloatArray:
        """Expected time on air until bits are delivered, retries included: bits over the expected goodput.

        Args:
            bits: Bits to deliver, >= 0, any shape.
            mean_sinr: Linear mean SINR, >= 0; broadcasts.

        Returns:
            Time in s, in the broadcast shape; 1e15 where they are never delivered.
        """
        goodput = self.goodput(mean_sinr)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(goodput > 0, np.asarray(bits) / goodput, 1e15)

    def mean_sinr_for(self, goodput_bps: ArrayLike) -> FloatArray:
        """Lowest mean SINR with at least a goodput: the inverse of `goodput`.

        Args:
            goodput_bps: Goodput in bit/s, >= 0, any shape.

        Returns:
            Linear mean SINR, in the shape of `goodput_bps`; inf above the highest goodput.
        """
        wanted, table = np.asarray(goodput_bps, dtype=np.float64) * (1 - 1e-12), self.goodput_bps
        above = np.searchsorted(table, wanted, side="left")
        top = np.minimum(above, table.shape[0] - 1)
        low, high = table[np.maximum(top - 1, 0)], table[top]
        share = (wanted - low) / np.where(high > low, high - low, 1.0)
        place = np.where(above == 0, 0.0, top - 1 + np.where(high > low, share, 1.0))
        return np.where(above >= table.shape[0], np.inf, np.exp(self.start_ln + place / self.per_ln))

    def chance(self, mean_sinr: ArrayLike) -> FloatArray:
        """Chance that an attempt at the chosen rate is decoded: goodput over rate.

        Args:
            mean_sinr: Linear mean SINR, >= 0, any shape.

        Returns:
            Probability in [0, 1], in the shape of `mean_sinr`.
        """
        return np.minimum(self.goodput(mean_sinr) / self.chosen_rate(mean_sinr), 1.0)

    def hopeless(self, mean_sinr: ArrayLike) -> BoolArray:
        """Whether fewer than `HOPELESS_SHARE` of the attempts at the lowest rate are decoded; never under `none`.

        Args:
            mean_sinr: Linear mean SINR, >= 0, any shape.

        Returns:
            Booleans, in the shape of `mean_sinr`.
        """
        goodput = self.goodput(mean_sinr)
        return (goodput < HOPELESS_SHARE * self.lowest_bps) & (not self.rule.certain)

    def _read(self, table: FloatArray, sinr: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore"):
            place = (np.log(sinr) - self.start_ln) * self.per_ln
        place = np.clip(place, 0.0, table.shape[0] - 1.000001)
        base = place.astype(np.int64)
        return table[base] + (table[base + 1] - table[base]) * (place - base)


@lru_cache(maxsize=64)
def rate_law(rule: RateRule) -> RateLaw:
    """Tabulate the best rate over the mean SINR.

    Args:
        rule: How rates follow from SINR.

    Returns:
        The law. At 10 dB mean SINR under Rayleigh fading, gap 0 and no threshold, its goodput is
        1.569 bit/s/Hz (the ergodic rate is 2.907, which takes knowledge of every fade).
    """
    lowest = lowest_rate_bps(rule.kind, rule.sinr_min, rule.bandwidth_hz, rule.gap_db, rule.modes)
    highest = max(lowest, MAX_EFFICIENCY * rule.bandwidth_hz)
    points = round((_STOP_DB - first_db(rule)) / step_db(rule)) + 1
    mean = db_to_linear(np.linspace(first_db(rule), _STOP_DB, points))
    law = RateLaw(rule, lowest, highest, np.zeros(points), np.zeros(points))
    backoff_ln = np.zeros(points)
    if rule.margin_db is not None:
        backoff_ln += rule.margin_db * _NEPER_PER_DB
    elif finite(rule):
        backoff_ln = np.log(mean / _best_of_length(law, mean))
    elif rule.fading != "none":
        backoff_ln = np.log(mean / _best_needed(law, mean))
    rate = law.rate(mean * np.exp(-backoff_ln))
    if rule.certain:
        goodput = certain_bps(rule, mean, rate)
    elif finite(rule):
        goodput = rate * mean_success(mean, law.carried(rate), **code_of(rule))
    else:
        goodput = rate * decoded_chance(rule, mean)(law.needed_sinr(rate))
    return RateLaw(rule, lowest, highest, backoff_ln, np.maximum.accumulate(goodput))


def _best_of_length(law: RateLaw, mean: FloatArray) -> FloatArray:
    """(points,) linear SINR to aim at for the largest expected goodput of messages of the rule's length."""
    rule = law.rule
    lowest, highest = (float(law.needed_sinr(r)) for r in (law.lowest_bps, law.highest_bps * (1 - 1e-9)))
    if rule.kind == "shannon":
        aims = np.geomspace(lowest, highest, 1 + round(10 * math.log10(highest / lowest) / 0.1))
    else:
        aims = np.asarray([t for t in db_to_linear(rule.modes.thresholds_db) if t >= lowest * (1 - 1e-9)])

    def rates_of(aim: FloatArray) -> tuple[FloatArray, FloatArray]:
        rate = law.rate(aim)
        return rate, law.carried(rate)

    return best_aims(mean, step_db(rule), aims, rates_of, **code_of(rule))


def _best_needed(law: RateLaw, mean: FloatArray) -> FloatArray:
    """(points,) linear SINR to aim at for the largest expected goodput at each mean SINR."""
    rule = law.rule
    floor = max(rule.sinr_min, float(db_to_linear(rule.modes.thresholds_db[0])))
    best, best_value = np.full(mean.shape, floor), np.full(mean.shape, -1.0)
    aims = [np.full_like(mean, t) for t in db_to_linear(rule.modes.thresholds_db) if t >= floor]
    if rule.kind == "shannon":
        aims = [mean * db_to_linear(-step) for step in np.arange(-10.0, 40.0, 0.1)]
    decoded = decoded_chance(rule, mean)
    for aim in [np.full_like(mean, floor), *aims]:
        rate = law.rate(np.maximum(aim, floor))
        value = rate * decoded(law.needed_sinr(rate))
        better = value > best_value
        best[better], best_value[better] = np.maximum(aim, floor)[better], value[better]
    return best
