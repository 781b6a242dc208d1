"""Compiled loops that fill one slot of a large round. Import only inside functions: this imports numba."""

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel


@kernel
def _free(t, source, first_row, destination, busy):
    taken = busy[source[t]]
    for r in range(first_row[t], first_row[t + 1]):
        taken = taken or busy[destination[r]]
    return not taken


@kernel
def _fits(t, s, c, first_row, destination, signal_w, bound, power, state, far, indptr, index, out_gain):
    """Whether a unit reaches its bound on a sub-channel and breaks no reception there, unlisted ones included."""
    level, limit, band = state
    weak, sent, most = far
    if sent[c] + power > most[c]:
        return False
    for r in range(first_row[t], first_row[t + 1]):
        d = destination[r]
        if signal_w[r] < bound * (level[c, d] + sent[c] * weak[d]):
            return False
    for q in range(indptr[s], indptr[s + 1]):
        n = index[q]
        if band[n] == c and level[c, n] + sent[c] * weak[n] + power * out_gain[q] > limit[n]:
            return False
    return True


@kernel
def _occupy(
    t, s, c, first_row, destination, signal_w, bound, power, state, far, before, busy, indptr, index, out_gain
):  # fmt: skip
    level, limit, band = state
    weak, sent, most = far
    sent[c] += power
    # A receiver's own signal is no interference: its level is put back afterwards.
    for r in range(first_row[t], first_row[t + 1]):
        before[destination[r]] = level[c, destination[r]]
    for q in range(indptr[s], indptr[s + 1]):
        n = index[q]
        level[c, n] += power * out_gain[q]
        if band[n] == c and weak[n] > 0.0:
            most[c] = min(most[c], (limit[n] - level[c, n]) / weak[n])
    busy[s] = True
    for r in range(first_row[t], first_row[t + 1]):
        d = destination[r]
        level[c, d] = before[d]
        busy[d] = True
        band[d] = c
        # The slack covers only the rounding of the running sum.
        limit[d] = signal_w[r] / bound * (1.0 + 1e-12)
        if weak[d] > 0.0:
            most[c] = min(most[c], (limit[d] - level[c, d]) / weak[d])


@kernel
def _needed(bits, horizon_s, need):
    """Lowest mean SINR with which bits are expected to be through within the horizon; inf if none is."""
    if math.isinf(horizon_s):
        return 0.0
    last = need.shape[1] - 1
    place = (math.log(max(bits, 1e-9) / horizon_s) - need[1, 0]) * need[1, 1]
    if place > last + 1e-6:
        return math.inf
    place = min(max(place, 0.0), last - 1e-9)
    k = int(place)
    return math.exp(need[0, k] + (need[0, k + 1] - need[0, k]) * (place - k))


@kernel
def _quality(t, c, first_row, destination, signal_w, level, far):
    weak, sent, _most = far
    worst = math.inf
    for r in range(first_row[t], first_row[t + 1]):
        d = destination[r]
        worst = min(worst, signal_w[r] / (level[c, d] + sent[c] * weak[d]))
    return worst


@kernel
def fill_slot(
    order, source, first_row, destination, signal_w, sinr_min, bits, horizon_s, need, noise_w, weak, power_w, indptr,
    index, out_gain, bands,
):  # fmt: skip
    """Feasible insertion of transmissions into one slot.

    Transmissions are tried in `order`; one enters the sub-channel where its SINR is highest, of those where all
    its receivers reach its SINR bound and no reception already there falls below its own. A bound is the larger
    of `sinr_min` (T,) and the mean SINR with which `bits` (T,) are expected to be through within `horizon_s`
    (T,) (`need`: see `channels.adaptation.RateLaw.need`). `first_row` (T + 1,) gives each transmission's rows in
    `destination` and `signal_w` (power times gain); `noise_w` (N,) is the noise of a sub-channel.

    Pairs that no list holds count by their mean: `weak` (N,) is the interference at each device for each watt that is
    sent, wherever that is; 0 where lists are complete. A slot ends for all when a receiver bears no more of it.

    Returns:
        (T,) sub-channel of each transmission, -1 if it is not in the slot, and (T,) bounds of those that are, and
        (bands, N) noise plus listed interference at every device, without a receiver's own signal.
    """
    devices = noise_w.shape[0]
    chosen = np.full(source.shape[0], -1, np.int64)
    bounds = np.zeros(source.shape[0])
    level = np.empty((bands, devices))
    for c in range(bands):
        level[c] = noise_w
    busy = np.zeros(devices, np.bool_)
    band = np.full(devices, -1, np.int8)
    # Largest interference plus noise a receiver bears.
    limit = np.zeros(devices)
    before = np.zeros(devices)
    state = (level, limit, band)
    # Watts sent on each sub-channel, and the most that its receivers bear.
    far = (weak, np.zeros(bands), np.full(bands, math.inf))
    for t in order:
        if not _free(t, source, first_row, destination, busy):
            continue
        s = source[t]
        bound = max(sinr_min[t], _needed(bits[t], horizon_s[t], need))
        power = power_w[s]
        best, best_quality = -1, 0.0
        for c in range(bands):
            quality = _quality(t, c, first_row, destination, signal_w, level, far)
            if quality > best_quality and quality >= bound and _fits(
                t, s, c, first_row, destination, signal_w, bound, power, state, far, indptr, index, out_gain
            ):  # fmt: skip
                best, best_quality = c, quality
        if best >= 0:
            _occupy(
                t, s, best, first_row, destination, signal_w, bound, power, state, far, before, busy, indptr,
                index, out_gain,
            )  # fmt: skip
            chosen[t], bounds[t] = best, bound
    return chosen, bounds, level
