"""Compiled loops of the schedulers. Import only inside functions: this imports numba."""

# numba ships no type information.
# pyright: basic

from __future__ import annotations

import numpy as np

from channels.compiled import kernel

_MULTIPLIER = np.uint64(6364136223846793005)
_INCREMENT = np.uint64(1442695040888963407)
_SHIFT = np.uint64(33)
_REBUILT_EVERY = 64


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
def _worst_partner(inside, affect, load, keep, over):
    """Member whose removal relieves overloaded members most; -1 if none is overloaded. `over` is scratch."""
    count = 0
    for m in range(load.shape[0]):
        if inside[m] and load[m] > 1.0:
            over[count] = m
            count += 1
    worst, relief = -1, -1.0
    for k in range(load.shape[0]):
        if not inside[k] or k == keep:
            continue
        value = max(load[k] - 1.0, 0.0)
        for i in range(count):
            if over[i] != k:
                value += min(affect[k, over[i]], load[over[i]])
        if value > relief:
            worst, relief = k, value
    return worst


@kernel
def _overloaded(inside, load):
    found = False
    for k in range(load.shape[0]):
        found = found or (inside[k] and load[k] > 1.0)
    return found


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
def first_fit(order, affect):
    """Put links into the first slot they fit, in order: (links,) slot numbers."""
    n = affect.shape[0]
    slot = np.full(n, -1, np.int64)
    load = np.empty((n, n))
    member, count = np.empty((n, n), np.int64), np.zeros(n + 1, np.int64)
    slots = 0
    for v in order:
        for t in range(slots + 1):
            if t == slots:
                load[t] = 0.0
                slots += 1
            fits = load[t, v] <= 1.0
            i = 0
            while fits and i < count[t]:
                k = member[t, i]
                fits = load[t, k] + affect[v, k] <= 1.0
                i += 1
            if fits:
                slot[v] = t
                member[t, count[t]] = v
                count[t] += 1
                for k in range(n):
                    load[t, k] += affect[v, k]
                break
    return slot


@kernel
def _shuffle_lightly(order, state):
    n = order.shape[0]
    for _ in range(3):
        a, b = _random(state) % n, _random(state) % n
        order[a], order[b] = order[b], order[a]


@kernel
def _force_in(v, step, load, affect, inside, barred, over, state):
    """Put a link in and drop up to four others until the set is feasible; returns whether it is."""
    _enter(v, load, affect, inside)
    for _ in range(4):
        if not _overloaded(inside, load):
            break
        k = _worst_partner(inside, affect, load, v, over)
        if k < 0:
            break
        _leave(k, load, affect, inside)
        barred[k] = step + 1 + _random(state) % 7
    return not _overloaded(inside, load)


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
    old, old_load, shuffled = inside.copy(), load.copy(), order.copy()
    barred, over = np.zeros(n, np.int64), np.empty(n, np.int64)
    moves = 0
    for step in range(steps):
        v = _random(state) % n
        if inside[v] or barred[v] > step:
            continue
        old[:] = inside
        old_load[:] = load
        ok = _force_in(v, step, load, affect, inside, barred, over, state)
        if ok:
            _shuffle_lightly(shuffled, state)
            _add_all(shuffled, load, affect, inside)
        new_size = inside.sum()
        keep = ok and (new_size >= size or _random(state) % 64 == 0)
        moves += keep
        # Sums are rebuilt now and then, and for what may be returned, so that rounding cannot pile up.
        if keep and (new_size > best_size or moves % _REBUILT_EVERY == 0):
            _rebuild(load, affect, inside)
            keep = not _overloaded(inside, load)
        if keep:
            size = new_size
            if size > best_size:
                best[:] = inside
                best_size = size
        else:
            inside[:] = old
            load[:] = old_load
    return best


@kernel
def peel_largest(affect, strongest, steps_per_link):
    """Take one large feasible set after the other until no link is left.

    Args:
        affect: (n, n) affectances.
        strongest: (n,) links by falling received power.
        steps_per_link: Local-search steps of a set for each link still left.

    Returns:
        (n,) slot numbers from 0.
    """
    numbers = np.full(affect.shape[0], -1, np.int64)
    left, slot = strongest.copy(), 0
    while left.shape[0]:
        n = left.shape[0]
        inner = np.empty((n, n))
        for k in range(n):
            for m in range(n):
                inner[k, m] = affect[left[k], left[m]]
        order = np.arange(n)
        first = first_fit(order, inner) == 0
        second = first_fit(np.argsort(inner.sum(axis=0) + inner.sum(axis=1)), inner) == 0
        chosen = second if second.sum() > first.sum() else first
        if not chosen.all():
            chosen = largest_set(inner, chosen.copy(), order, steps_per_link * n, np.uint64(n))
        numbers[left[chosen]] = slot
        left, slot = left[~chosen], slot + 1
    return numbers


@kernel
def regroup(affect, numbers, fewest, link_draws, slot_draws):
    """Iterated greedy: first-fit again, whole slots at a time, in ever new orders of slots.

    The slots are taken in reverse, by falling size, and at random in turn; links of one slot stay together,
    in random order, so the number of slots can only fall.

    Args:
        affect: (n, n) affectances.
        numbers: (n,) slot numbers to start from.
        fewest: Number of slots at which to stop.
        link_draws: (trials + slots, n) draws in (0, 1) that order links within a slot.
        slot_draws: (trials, slots) draws that order slots.

    Returns:
        (n,) slot numbers.
    """
    for trial in range(slot_draws.shape[0]):
        slots = numbers.max() + 1
        if slots <= max(fewest, 1):
            break
        ranks = np.arange(slots)
        if trial % 3 == 0:
            order = ranks[::-1].copy()
        elif trial % 3 == 1:
            order = np.argsort(ranks - slots * np.bincount(numbers, minlength=slots))
        else:
            order = np.argsort(slot_draws[trial, :slots])
        place = np.empty(slots, np.int64)
        place[order] = ranks
        numbers = first_fit(np.argsort(place[numbers] + link_draws[slots + trial]), affect)
    return numbers
