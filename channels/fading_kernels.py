"""Compiled loops over fading in time and frequency, and the SINR of a slot under it. Import only inside functions.

Conventions as in `channels.kernels`, whose draws these use. `motion` is (4, N), for each device where it would have
been at clock 0 with the velocity it has, along both axes and in wavelengths, and that velocity as Doppler shifts in Hz
(velocity·carrier/c); or (4, 0) where every link has one shift.
"""

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel
from channels.draw_kernels import mix, normal, pair_word, uniform
from channels.kernels import curve_value

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_TWO_PI = 2.0 * math.pi
# Sinusoids of a scattered gain. Its correlation is exact for any number; its power's fourth moment is short by
# 1/48 of the exponential law's.
_SINUSOIDS = 24
# Adding and taking it away rounds a double below 2^51 to the nearest integer.
_ROUND = 1.5 * 2.0**52
# Taylor coefficients of sine and cosine.
_S3, _S5, _S7, _S9, _S11, _S13, _S15, _S17, _S19, _S21 = (
    (-1.0) ** n / math.factorial(2 * n + 1) for n in range(1, 11)
)
_C2, _C4, _C6, _C8, _C10, _C12, _C14, _C16, _C18, _C20, _C22 = (
    (-1.0) ** n / math.factorial(2 * n) for n in range(1, 12)
)
# Under a delay spread, whose sums take time, interferers weaker than this share of all at a receiver, noise included,
# count by their mean: of equal ones, 50 of them, the sum differs from it by 14 % of itself.
_WEAK = 0.02


@kernel
def _wave(turns, real, imag):
    """Add cos and sin of 2·pi·`turns` (samples,) to `real` and `imag` (samples,): |error| < 2e-15 for |turns| < 1e4.

    Taylor series of the half angle, at most a quarter turn, then doubled; without calls and branches, so that the
    compiler works on several samples at once.
    """
    for n in range(turns.shape[0]):
        half = math.pi * (turns[n] - ((turns[n] + _ROUND) - _ROUND))
        q = half * half
        sine = half * (1.0 + q * (_S3 + q * (_S5 + q * (_S7 + q * (_S9 + q * (_S11 + q * (_S13 + q * (_S15 + q * (
            _S17 + q * (_S19 + q * _S21))))))))))  # fmt: skip
        cosine = 1.0 + q * (_C2 + q * (_C4 + q * (_C6 + q * (_C8 + q * (_C10 + q * (_C12 + q * (_C14 + q * (_C16 + q * (
            _C18 + q * (_C20 + q * _C22))))))))))  # fmt: skip
        real[n] += 1.0 - 2.0 * sine * sine
        imag[n] += 2.0 * sine * cosine


@kernel
def _paths(word, spread, path):
    """Fill `path` (3, K) with a link's paths, drawn from its word: cosines of the angles, phases in turns, delays.

    Delays are exponential of mean 1, in units of the spread; they are 0 where `spread` is.
    """
    for k in range(_SINUSOIDS):
        drawn = mix(word + np.uint64(k) * _GOLDEN)
        path[0, k] = math.cos(_TWO_PI * uniform(drawn))
        path[1, k] = uniform(mix(drawn + _FIRST))
        path[2, k] = -math.log(uniform(mix(drawn + _SECOND))) if spread > 0.0 else 0.0


@kernel
def _scattered(path, phase, turn, turns, gain):
    """Fill `gain` (2, samples) with complex gains of isotropic scattering by a sum of sinusoids, each of variance 1.

    h = sum over k of exp(j·2·pi·(x·cos(a_k) + p_k - y·t_k))/sqrt(K), with `phase` (samples,) x = f_D·t, `turn`
    (samples,) y = f·(delay spread), and angles a_k and phases p_k independent and uniform, delays t_k exponential of
    mean 1. Over links, E[h(t, f)·h*(t + tau, f + df)] = J0(2·pi·f_D·tau)/(1 - j·2·pi·df·(delay spread)), and the
    correlation of |h|² is its squared modulus, exactly and at every lag, for any number K of sinusoids.
    """
    gain[:] = 0.0
    for k in range(_SINUSOIDS):
        cosine, start, delay = path[0, k], path[1, k], path[2, k]
        for n in range(phase.shape[0]):
            turns[n] = phase[n] * cosine + start - turn[n] * delay
        _wave(turns, gain[0], gain[1])
    gain *= math.sqrt(2.0 / _SINUSOIDS)


@kernel
def _end(drawn, device, motion):
    """What the way of one end adds to a path, whose angle there is drawn: phase in turns at clock 0, and shift in Hz.

    Transmitters from outside, whose numbers are above all devices', stand still.
    """
    if device >= motion.shape[1]:
        return 0.0, 0.0
    turn = uniform(drawn)
    along = math.cos(_TWO_PI * turn)
    across = math.copysign(math.sqrt(1.0 - along * along), 0.5 - turn)
    start = along * motion[0, device] + across * motion[1, device]
    return start, along * motion[2, device] + across * motion[3, device]


@kernel
def _move_ends(word, i, j, doppler_hz, motion, path):
    """Turn the cosines of `path` into Doppler shifts in Hz, and add to its phases, for ends that both move.

    Paths leave one end and come to the other at independent angles a and b, so that path k's phase in turns is
    p_k + x_i·u(a_k) + x_j·u(b_k) + f_D·t·cos(c_k), where x are the ways gone in wavelengths, u unit vectors, and f_D
    is that of what moves around: E[h(t)·h*(t + tau)] = J0(2·pi·f_i·tau)·J0(2·pi·f_j·tau)·J0(2·pi·f_D·tau) with f_i and
    f_j the ends' own Doppler shifts. Ways go on from where they are when velocities change, and so does the phase.

    Source:
        Akki and Haber, A Statistical Model of Mobile-to-Mobile Land Communication Channel, IEEE Trans. Veh. Technol.
        35(1) (1986), 2-7.
    """
    for k in range(_SINUSOIDS):
        drawn = mix(word + np.uint64(k) * _GOLDEN)
        low_start, low_hz = _end(mix(drawn + _GOLDEN), min(i, j), motion)
        high_start, high_hz = _end(mix(drawn + _FIRST + _SECOND), max(i, j), motion)
        start = low_start + high_start
        path[0, k] = low_hz + high_hz + doppler_hz * path[0, k]
        path[1, k] += start - math.floor(start)


@kernel
def _drawn(i, j, doppler_hz, kind, motion, spread, key, path):
    """(word, Doppler shift in Hz) of a link; fills `path` where its fading is a sum of paths. Below 0: a fresh draw.

    Where devices have a motion, the shift is 1 and `path` has those of its paths in place of their cosines.
    """
    if kind == 0:
        return key, -1.0
    word = pair_word(key, i, j)
    if doppler_hz >= 0.0 or spread > 0.0:
        _paths(word, spread, path)
    if motion.shape[1] == 0:
        return word, doppler_hz
    _move_ends(word, i, j, doppler_hz, motion, path)
    return word, 1.0


@kernel
def _law(power, one, other, kind, shape, table):
    """Power factor of mean 1 by the fading law, from a Rayleigh power and its two parts, normal of variance 1."""
    if kind == 1:
        return power
    if kind == 2:
        direct = one + math.sqrt(2.0 * shape)
        return (direct * direct + other * other) / (2.0 * (1.0 + shape))
    # The table maps ln of a Rayleigh power to ln of the quantile with the same probability.
    place = (math.log(max(power, 1e-300)) - table[1, 0]) * table[1, 1]
    return math.exp(curve_value(table, 0, place))


@kernel
def _factors(word, shift, path, time_s, turn, kind, shape, table, spread, work, out):
    """Fill `out` (samples,) with fading power factors. kind: 0 none, 1 Rayleigh, 2 Rician (linear K), 3 by table.

    `shift` below 0 draws from the word alone; else factors are those of isotropic scattering at the times `time_s`
    (samples,) (see `_scattered`), which keys every link once and for all. With a delay spread they differ over
    frequency (`turn` (samples,)). `work` (4, samples) is overwritten.
    """
    if kind == 0:
        out[:] = 1.0
    elif shift < 0.0 and spread == 0.0:
        power, one, other = -math.log(uniform(word)), 0.0, 0.0
        if kind == 2:
            one, other = normal(word), normal(mix(word + _FIRST))
        out[:] = _law(power, one, other, kind, shape, table)
    else:
        moved = max(shift, 0.0)
        for n in range(out.shape[0]):
            work[3, n] = moved * time_s[n]
        _scattered(path, work[3], turn, work[2], work[:2])
        for n in range(out.shape[0]):
            one, other = work[0, n], work[1, n]
            out[n] = _law(0.5 * (one * one + other * other), one, other, kind, shape, table)


@kernel
def fading_factors(
    first, second, time_s, doppler_hz, kind, shape, table, key, motion, spread, turns,
):  # fmt: skip
    """Power factors (pairs,) >= 0, mean 1, of index pairs at the times `time_s` (pairs,) in s (see `_factors`).

    The mean over the frequencies `turns` (tones,), each f·(delay spread), where there is a delay `spread`.
    """
    tones = turns.shape[0]
    out, path = np.empty(first.shape[0]), np.empty((3, _SINUSOIDS))
    at, work, factor = np.empty(tones), np.empty((4, tones)), np.empty(tones)
    for p in range(first.shape[0]):
        word, shift = _drawn(first[p], second[p], doppler_hz, kind, motion, spread, key, path)
        at[:] = time_s[p]
        _factors(word, shift, path, at, turns, kind, shape, table, spread, work, factor)
        total = 0.0
        for k in range(tones):
            total += factor[k]
        out[p] = total / tones
    return out


@kernel
def _heard(receiver, sender, band, sending_band, power_w, indptr, index, in_gain, active, level_w):
    """Fill `active` with the entries of a receiver's row that send on a band, but for its own sender.

    Their number, and their mean power with `level_w`. So a row of hundreds is read once, and few are looked at again.
    """
    count = 0
    for q in range(indptr[receiver], indptr[receiver + 1]):
        n = index[q]
        if sending_band[n] == band and n != sender:
            level_w += power_w[n] * in_gain[q]
            active[count] = q
            count += 1
    return count, level_w


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
    the sub-channel's frequencies f·spread = `turns`; the faded SINR is the one whose rate (with SNR gap `gap`) is
    the mean of theirs: coding runs over the whole transmission.
    """
    mean, faded = np.empty(source.shape[0]), np.empty(source.shape[0])
    samples = turns.shape[1]
    total, path = np.empty(samples), np.empty((3, _SINUSOIDS))
    at, work, factor = np.empty(samples), np.empty((4, samples)), np.empty(samples)
    active = np.empty(sending_band.shape[0], np.int64)
    for r in range(source.shape[0]):
        s, d, turn = source[r], destination[r], turns[band[r]]
        total[:] = floor_w[r]
        for k in range(samples):
            at[k] = start_s + (k + 0.5) / samples * length_s[r]
        heard, level_w = _heard(
            d, s, band[r], sending_band, power_w, indptr, index, in_gain, active, floor_w[r]
        )
        weak = _WEAK * level_w if spread > 0.0 else -1.0
        for q in active[:heard]:
            n = index[q]
            level = power_w[n] * in_gain[q]
            if level < weak:
                total += level
                continue
            word, shift = _drawn(n, d, doppler_hz, kind, motion, spread, key, path)
            _factors(word, shift, path, at, turn, kind, shape, table, spread, work, factor)
            for k in range(samples):
                total[k] += level * factor[k]
        own = power_w[s] * gain[r]
        mean[r] = own / level_w
        efficiency = 0.0
        word, shift = _drawn(s, d, doppler_hz, kind, motion, spread, key, path)
        _factors(word, shift, path, at, turn, kind, shape, table, spread, work, factor)
        for k in range(samples):
            faded[r] = own * factor[k] / total[k]
            efficiency += math.log1p(faded[r] / gap)
        if samples > 1:
            faded[r] = gap * math.expm1(efficiency / samples)
    return mean, faded
