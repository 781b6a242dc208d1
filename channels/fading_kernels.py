"""Compiled loops over fading in time and frequency, and the SINR of a slot under it. Import only inside functions.

Conventions as in `channels.kernels`, whose draws these use. `motion` is (2, N) velocities as Doppler shifts in Hz
(velocity·carrier/c), or (2, 0) where every link has one shift.
"""

# numba ships no type information.
# pyright: basic

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel
from channels.kernels import curve_value, mix, normal, pair_word, uniform

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_TWO_PI = 2.0 * math.pi
# Sinusoids of a scattered gain. Its correlation is exact for any number; its power's fourth moment is short by
# 1/48 of the exponential law's.
_SINUSOIDS = 24
# Under a delay spread, whose sums take time, interferers weaker than this share of the floor count by their mean.
_WEAK = 0.02


@kernel
def _paths(word, spread, path):
    """Fill `path` (3, K) with a link's paths, drawn from its word: cosines of the angles, phases, delays.

    Delays are exponential of mean 1, in units of the spread; they are 0 where `spread` is.
    """
    for k in range(_SINUSOIDS):
        drawn = mix(word + np.uint64(k) * _GOLDEN)
        path[0, k] = math.cos(_TWO_PI * uniform(drawn))
        path[1, k] = _TWO_PI * uniform(mix(drawn + _FIRST))
        path[2, k] = -math.log(uniform(mix(drawn + _SECOND))) if spread > 0.0 else 0.0


@kernel
def _scattered(path, phase, turn):
    """Complex gain of isotropic scattering by a sum of sinusoids: (real, imaginary), each of variance 1.

    h = sum over k of exp(j·(x·cos(a_k) + p_k - y·t_k))/sqrt(K), with x = 2·pi·f_D·t, y = 2·pi·f·(delay spread), and
    angles a_k and phases p_k independent and uniform, delays t_k exponential of mean 1. Over links,
    E[h(t, f)·h*(t + tau, f + df)] = J0(2·pi·f_D·tau)/(1 - j·2·pi·df·(delay spread)), and the correlation of |h|² is
    its squared modulus, exactly and at every lag, for any number K of sinusoids.
    """
    real, imaginary = 0.0, 0.0
    for k in range(_SINUSOIDS):
        angle = phase * path[0, k] + path[1, k]
        if turn != 0.0:
            angle -= turn * path[2, k]
        real += math.cos(angle)
        imaginary += math.sin(angle)
    scale = math.sqrt(2.0 / _SINUSOIDS)
    return real * scale, imaginary * scale


@kernel
def _link_doppler(i, j, doppler_hz, motion):
    """Doppler shift of a link in Hz: of its ends' relative velocity and, at a right angle, of `doppler_hz`.

    Transmitters from outside, whose numbers are above all devices', stand still. Below 0 without fading in time.
    """
    devices = motion.shape[1]
    if devices == 0:
        return doppler_hz
    x = (motion[0, i] if i < devices else 0.0) - (motion[0, j] if j < devices else 0.0)
    y = (motion[1, i] if i < devices else 0.0) - (motion[1, j] if j < devices else 0.0)
    return math.sqrt(x * x + y * y + doppler_hz * doppler_hz)


@kernel
def _drawn(i, j, doppler_hz, kind, motion, spread, key, path):
    """(word, Doppler shift in Hz) of a link; fills `path` where its fading is a sum of paths. Below 0: a fresh draw."""
    if kind == 0:
        return key, -1.0
    word = pair_word(key, i, j)
    shift = _link_doppler(i, j, doppler_hz, motion)
    if shift >= 0.0 or spread > 0.0:
        _paths(word, spread, path)
    return word, shift


@kernel
def _factor(word, shift, path, time_s, turn, kind, shape, table, spread):
    """Fading power factor of a link. kind: 0 none, 1 Rayleigh, 2 Rician (linear K), 3 by quantile table.

    `shift` below 0 draws from the word alone; else the factor is that of isotropic scattering at a time (see
    `_scattered`), which keys every link once and for all. With a delay spread it differs over frequency (`turn`).
    """
    if kind == 0:
        return 1.0
    if shift < 0.0 and spread == 0.0:
        power, one, other = -math.log(uniform(word)), 0.0, 0.0
        if kind == 2:
            one, other = normal(word), normal(mix(word + _FIRST))
    else:
        one, other = _scattered(path, _TWO_PI * max(shift, 0.0) * time_s, turn)
        power = 0.5 * (one * one + other * other)
    if kind == 1:
        return power
    if kind == 2:
        direct = one + math.sqrt(2.0 * shape)
        return (direct * direct + other * other) / (2.0 * (1.0 + shape))
    # The table maps ln of a Rayleigh power to ln of the quantile with the same probability.
    place = (math.log(max(power, 1e-300)) - table[1, 0]) * table[1, 1]
    return math.exp(curve_value(table, 0, place))


@kernel
def fading_factors(
    first, second, time_s, doppler_hz, kind, shape, table, key, motion, spread, turns,
):  # fmt: skip
    """Power factors (pairs,) >= 0, mean 1, of index pairs at the times `time_s` (pairs,) in s (see `_factor`).

    The mean over the frequencies `turns` (tones,), each 2·pi·f·(delay spread), where there is a delay `spread`.
    """
    out = np.empty(first.shape[0])
    path = np.empty((3, _SINUSOIDS))
    tones = turns.shape[0] if spread > 0.0 else 1
    for p in range(first.shape[0]):
        word, shift = _drawn(first[p], second[p], doppler_hz, kind, motion, spread, key, path)
        total = 0.0
        for k in range(tones):
            total += _factor(word, shift, path, time_s[p], turns[k], kind, shape, table, spread)
        out[p] = total / tones
    return out


@kernel
def slot_sinr(
    source, destination, band, gain, floor_w, sending_band, power_w, indptr, index, in_gain, start_s, length_s,
    turns, gap, doppler_hz, kind, shape, table, key, motion, spread,
):  # fmt: skip
    """Mean and faded SINR (rows,) of the receptions of one slot.

    Row r is a reception at `destination[r]` from `source[r]` on sub-channel `band[r]`, with mean gain
    `gain[r]` and noise plus far interference `floor_w[r]`. `sending_band` (N,) is the sub-channel each
    device transmits on, -1 for none. With several samples, `turns` (sub-channels, samples), the fading is taken at the
    middles of equal parts of each transmission, `length_s[r]` long from `start_s` on, and, with a delay `spread`, at
    the sub-channel's frequencies 2·pi·f·spread = `turns`; the faded SINR is the one whose rate (with SNR gap `gap`) is
    the mean of theirs: coding runs over the whole transmission.
    """
    mean, faded = np.empty(source.shape[0]), np.empty(source.shape[0])
    samples = turns.shape[1]
    total, path = np.empty(samples), np.empty((3, _SINUSOIDS))
    for r in range(source.shape[0]):
        s, d = source[r], destination[r]
        total[:] = floor_w[r]
        mean_total = floor_w[r]
        for q in range(indptr[d], indptr[d + 1]):
            n = index[q]
            if sending_band[n] == band[r] and n != s:
                level = power_w[n] * in_gain[q]
                mean_total += level
                if spread > 0.0 and level < _WEAK * floor_w[r]:
                    total += level
                    continue
                word, shift = _drawn(n, d, doppler_hz, kind, motion, spread, key, path)
                for k in range(samples):
                    at = start_s + (k + 0.5) / samples * length_s[r]
                    turn = turns[band[r], k]
                    total[k] += level * _factor(word, shift, path, at, turn, kind, shape, table, spread)
        own = power_w[s] * gain[r]
        mean[r] = own / mean_total
        efficiency = 0.0
        word, shift = _drawn(s, d, doppler_hz, kind, motion, spread, key, path)
        for k in range(samples):
            at = start_s + (k + 0.5) / samples * length_s[r]
            factor = _factor(word, shift, path, at, turns[band[r], k], kind, shape, table, spread)
            faded[r] = own * factor / total[k]
            efficiency += math.log1p(faded[r] / gap)
        if samples > 1:
            faded[r] = gap * math.expm1(efficiency / samples)
    return mean, faded
