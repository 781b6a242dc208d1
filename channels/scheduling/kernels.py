"""Compiled loops of the schedulers. Import only inside functions: this imports numba."""

# numba ships no type information.
# pyright: basic

from __future__ import annotations

import numpy as np

from channels.compiled import kernel

_MULTIPLIER = np.uint64(6364136223846793005)
_INCREMENT = np.uint64(1442695040888963407)
_SHIFT = np.uint64(33)


@kernel
def _free(t, source, first_row, destination, busy):
    taken = busy[source[t]]
    for r in range(first_row[t], first_row[t + 1]):
        taken = taken or busy[destination[r]]
    return not taken


@kernel
def _fits(t, s, c, first_row, destination, signal_w, bound, power, state, indptr, index, out_gain):
    """Whether a unit reaches its bound on a sub-channel and breaks no reception there."""
    level, limit, band = state
    for r in range(first_row[t], first_row[t + 1]):
        if signal_w[r] < bound * level[c, destination[r]]:
            return False
    for q in range(indptr[s], indptr[s + 1]):
        n = index[q]
        if band[n] == c and level[c, n] + power * out_gain[q] > limit[n]:
            return False
    return True


@kernel
def _occupy(
    t, s, c, first_row, destination, signal_w, bound, power, state, before, busy, indptr, index, out_gain
):  # fmt: skip
    level, limit, band = state
    # A receiver's own signal is no interference: its level is put back afterwards.
    for r in range(first_row[t], first_row[t + 1]):
        before[destination[r]] = level[c, destination[r]]
    for q in range(indptr[s], indptr[s + 1]):
        level[c, index[q]] += power * out_gain[q]
    busy[s] = True
    for r in range(first_row[t], first_row[t + 1]):
        d = destination[r]
        level[c, d] = before[d]
        busy[d] = True
        band[d] = c
        # The slack covers only the rounding of the running sum.
        limit[d] = signal_w[r] / bound * (1.0 + 1e-12)


@kernel
def fill_slot(
    order, source, first_row, destination, signal_w, sinr_min, floor_w, power_w, indptr, index, out_gain, bands
):  # fmt: skip
    """Feasible insertion of transmissions into one slot.

    Transmissions are tried in `order`; one enters the first sub-channel where all its receivers reach its
    SINR bound and no reception already there falls below its own. `first_row` (T + 1,) gives each
    transmission's rows in `destination` and `signal_w` (power times gain); `sinr_min` (T,) its bound;
    `floor_w` (N,) noise plus far interference per sub-channel.

    Returns:
        (T,) sub-channel of each transmission, -1 if it is not in the slot.
    """
    devices = floor_w.shape[0]
    chosen = np.full(source.shape[0], -1, np.int64)
    level = np.empty((bands, devices))
    for c in range(bands):
        level[c] = floor_w
    busy = np.zeros(devices, np.bool_)
    band = np.full(devices, -1, np.int8)
    # Largest interference plus noise a receiver bears.
    limit = np.zeros(devices)
    before = np.zeros(devices)
    for t in order:
        if not _free(t, source, first_row, destination, busy):
            continue
        s, bound = source[t], sinr_min[t]
        power = power_w[s]
        for c in range(bands):
            state = (level, limit, band)
            if _fits(t, s, c, first_row, destination, signal_w, bound, power, state, indptr, index, out_gain):
                _occupy(
                    t, s, c, first_row, destination, signal_w, bound, power, state, before, busy, indptr, index,
                    out_gain,
                )  # fmt: skip
                chosen[t] = c
                break
    return chosen


@kernel
def _random(state):
    state[0] = state[0] * _MULTIPLIER + _INCREMENT
    return np.int64(state[0] >> _SHIFT)


@kernel
def _enter(v, load, affect, inside):
    inside[v] = True
    for k in range(load.shape[0]):
        load[k] += affect[v, k]


@kernel
def _leave(v, load, affect, inside):
    inside[v] = False
    for k in range(load.shape[0]):
        load[k] -= affect[v, k]


@kernel
def _worst_partner(inside, affect, load, keep):
    """Member whose removal relieves overloaded members most; -1 if none is overloaded."""
    n = load.shape[0]
    worst, relief = -1, -1.0
    for k in range(n):
        if not inside[k] or k == keep:
            continue
        value = max(load[k] - 1.0, 0.0)
        for m in range(n):
            if inside[m] and m != k and load[m] > 1.0:
                value += min(affect[k, m], load[m])
        if value > relief:
            worst, relief = k, value
    return worst


@kernel
def _overloaded(inside, load):
    worst = 0.0
    for k in range(load.shape[0]):
        if inside[k]:
            worst = max(worst, load[k])
    return worst > 1.0


@kernel
def _add_all(order, load, affect, inside):
    added = 0
    for v in order:
        if inside[v] or load[v] > 1.0:
            continue
        fits = True
        for k in range(load.shape[0]):
            if inside[k] and load[k] + affect[v, k] > 1.0:
                fits = False
                break
        if fits:
            _enter(v, load, affect, inside)
            added += 1
    return added


@kernel
def _rebuild(load, affect, inside):
    load[:] = 0.0
    for k in range(load.shape[0]):
        if inside[k]:
            for m in range(load.shape[0]):
                load[m] += affect[k, m]


@kernel
def largest_set(affect, inside, order, steps, seed):
    """Iterated local search for a large feasible set.

    `affect[k, l]` is the interference of k at l over what l can bear; a set is feasible iff every member's
    sum is at most 1. One step forces a link in, drops the members that hurt most until the set is feasible
    again, and fills up greedily in a lightly shuffled order; a set that shrinks is undone, with a rare
    exception. Starts from the feasible set `inside`.

    Returns:
        (links,) membership of the largest set found.
    """
    n = affect.shape[0]
    state = np.full(1, seed, np.uint64)
    load = np.zeros(n)
    _rebuild(load, affect, inside)
    size = inside.sum()
    best, best_size = inside.copy(), size
    old, shuffled = inside.copy(), order.copy()
    barred = np.zeros(n, np.int64)
    for step in range(steps):
        v = _random(state) % n
        if inside[v] or barred[v] > step:
            continue
        old[:] = inside
        _enter(v, load, affect, inside)
        dropped = 0
        while _overloaded(inside, load) and dropped < 4:
            k = _worst_partner(inside, affect, load, v)
            if k < 0:
                break
            _leave(k, load, affect, inside)
            barred[k] = step + 1 + _random(state) % 7
            dropped += 1
        ok = not _overloaded(inside, load)
        if ok:
            for _ in range(3):
                a, b = _random(state) % n, _random(state) % n
                shuffled[a], shuffled[b] = shuffled[b], shuffled[a]
            _add_all(shuffled, load, affect, inside)
        new_size = inside.sum()
        if ok and (new_size >= size or _random(state) % 64 == 0):
            size = new_size
            if size > best_size:
                best[:] = inside
                best_size = size
        else:
            inside[:] = old
        # Sums are rebuilt so that rounding cannot pile up over thousands of moves.
        _rebuild(load, affect, inside)
    return best


@kernel
def first_fit(order, affect):
    """Put links into the first slot they fit, in order: (links,) slot numbers."""
    n = order.shape[0]
    slot = np.full(affect.shape[0], -1, np.int64)
    load = np.zeros((n, affect.shape[0]))
    slots = 0
    for v in order:
        for t in range(slots + 1):
            fits = load[t, v] <= 1.0
            if fits:
                for k in range(affect.shape[0]):
                    if slot[k] == t and load[t, k] + affect[v, k] > 1.0:
                        fits = False
                        break
            if fits:
                slot[v] = t
                slots = max(slots, t + 1)
                for k in range(affect.shape[0]):
                    load[t, k] += affect[v, k]
                break
    return slot
