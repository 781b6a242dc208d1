"""Compiled search for the split of links into slots that takes the least time.

Import only inside functions: this imports numba. The cost of a slot is the time of its slowest member's
attempt, plus what is expected to be left over: each member's chance of failing times the time it needs alone.
Without fading that is the slot's length. A small weight on the members' own times settles ties for less airtime.
"""

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel

_MULTIPLIER = np.uint64(6364136223846793005)
_INCREMENT = np.uint64(1442695040888963407)
_SHIFT = np.uint64(33)
_NEVER = 1e15
_AIRTIME_WEIGHT = 1e-3
_TIE_WEIGHT = 1e-6
_SWEEPS = 30


@kernel
def _random(state):
    state[0] = state[0] * _MULTIPLIER + _INCREMENT
    return np.int64(state[0] >> _SHIFT)


@kernel
def _attempt(u, cell_level, joiner, problem):
    """Time of an attempt of unit u and the chance that it is decoded.

    Over the interference in `cell_level` (rows,) plus that of a joiner (or -1).
    """
    cross, signal, noise, first_row, _conflict, bits, bound, _alone, earn = problem
    worst = math.inf
    for r in range(first_row[u], first_row[u + 1]):
        level = noise[r] + cell_level[r]
        if joiner >= 0:
            level += cross[joiner, r]
        worst = min(worst, signal[r] / level)
    if worst < bound[u] * (1 - 1e-9):
        return _NEVER, 0.0
    place = (math.log(worst) - earn[2, 0]) * earn[2, 1]
    place = min(max(place, 0.0), earn.shape[1] - 1 - 1e-9)
    k = int(place)
    goodput = earn[0, k] + (earn[0, k + 1] - earn[0, k]) * (place - k)
    rate = earn[1, k] + (earn[1, k + 1] - earn[1, k]) * (place - k)
    return bits[u] / rate, min(goodput / rate, 1.0)


@kernel
def _cost_with(u, s, b, plan, problem, bands, limit):
    """Cost of slot s once unit u has joined it on sub-channel b; `_NEVER` if it cannot.

    Members only add to the cost: once it has reached `limit` it is returned as it is.
    """
    level, _slot, band, time, left, member, count = plan
    conflict, alone = problem[4], problem[7]
    for i in range(count[s]):
        if conflict[u, member[s, i]]:
            return _NEVER
    longest, chance = _attempt(u, level[s * bands + b], -1, problem)
    total, over = longest, (1.0 - chance) * alone[u]
    if longest >= _NEVER:
        return _NEVER
    for i in range(count[s]):
        if longest + over + _AIRTIME_WEIGHT * total >= limit:
            break
        k = member[s, i]
        taken, rest = time[k], left[k]
        if band[k] == b:
            taken, chance = _attempt(k, level[s * bands + b], u, problem)
            rest = (1.0 - chance) * alone[k]
            if taken >= _NEVER:
                return _NEVER
        longest = max(longest, taken)
        total += taken
        over += rest
    return longest + over + _AIRTIME_WEIGHT * total


@kernel
def _refresh(s, b, plan, problem, bands):
    """Work out the attempts of a slot's members on one sub-channel anew."""
    level, _slot, band, time, left, member, count = plan
    for i in range(count[s]):
        k = member[s, i]
        if band[k] == b:
            time[k], chance = _attempt(k, level[s * bands + b], -1, problem)
            left[k] = (1.0 - chance) * problem[7][k]


@kernel
def _put(u, s, b, plan, problem, bands):
    level, slot, band, _time, _left, member, count = plan
    cross = problem[0]
    for r in range(level.shape[1]):
        level[s * bands + b, r] += cross[u, r]
    slot[u], band[u] = s, b
    member[s, count[s]] = u
    count[s] += 1
    _refresh(s, b, plan, problem, bands)


@kernel
def _take(u, plan, problem, bands):
    level, slot, band, _time, _left, member, count = plan
    cross = problem[0]
    s, b = slot[u], band[u]
    cell = s * bands + b
    place = 0
    while member[s, place] != u:
        place += 1
    count[s] -= 1
    member[s, place] = member[s, count[s]]
    slot[u] = -1
    # The level is summed anew: subtracting would leave the rounding of a strong signal behind.
    level[cell, :] = 0.0
    for i in range(count[s]):
        k = member[s, i]
        if band[k] == b:
            for r in range(level.shape[1]):
                level[cell, r] += cross[k, r]
    _refresh(s, b, plan, problem, bands)


@kernel
def _cost(s, plan):
    _level, _slot, _band, time, left, member, count = plan
    longest, total, over = 0.0, 0.0, 0.0
    for i in range(count[s]):
        k = member[s, i]
        longest = max(longest, time[k])
        total += time[k]
        over += left[k]
    return longest + over + _AIRTIME_WEIGHT * total


@kernel
def _total(plan):
    cost = 0.0
    for s in range(plan[6].shape[0]):
        cost += _cost(s, plan)
    return cost


@kernel
def _insert(u, plan, problem, bands):
    """Put a unit where it adds least; an empty slot is always among the choices."""
    count = plan[6]
    best, best_s, best_b, tried_empty = math.inf, 0, 0, False
    for s in range(count.shape[0]):
        if count[s] == 0:
            if tried_empty:
                continue
            tried_empty = True
        before = _cost(s, plan)
        # A little above, so that rounding does not let a cut-off cost pass for a better one.
        limit = (before + best) * (1 + 1e-9)
        for b in range(bands if count[s] > 0 else 1):
            added = _cost_with(u, s, b, plan, problem, bands, limit) - before
            # Of sub-channels that cost the same, the one with least on it.
            for i in range(count[s] if bands > 1 else 0):
                k = plan[5][s, i]
                added += _TIE_WEIGHT * plan[3][k] if plan[2][k] == b else 0.0
            if added < best - 1e-15:
                best, best_s, best_b = added, s, b
    _put(u, best_s, best_b, plan, problem, bands)


@kernel
def _settle(plan, problem, bands, state):
    """Move units one by one to where they add least until nothing improves."""
    n = plan[1].shape[0]
    cost = _total(plan)
    for _ in range(_SWEEPS):
        start = _random(state) % n
        for i in range(n):
            u = (start + i) % n
            _take(u, plan, problem, bands)
            _insert(u, plan, problem, bands)
        new = _total(plan)
        if new >= cost * (1 - 1e-9):
            break
        cost = new


@kernel
def _shake(plan, problem, bands, state, loose):
    """Take out the units of one or two random slots and a few others, and insert them again in random order."""
    _level, slot, _band, _time, _left, member, count = plan
    n = slot.shape[0]
    out = 0
    for _ in range(1 + _random(state) % 2):
        s = slot[_random(state) % n]
        if s < 0:
            continue
        while count[s] > 0:
            u = member[s, count[s] - 1]
            _take(u, plan, problem, bands)
            loose[out] = u
            out += 1
    for _ in range(1 + _random(state) % 3):
        u = _random(state) % n
        if slot[u] >= 0:
            _take(u, plan, problem, bands)
            loose[out] = u
            out += 1
    for i in range(out - 1, 0, -1):
        j = _random(state) % (i + 1)
        loose[i], loose[j] = loose[j], loose[i]
    for i in range(out):
        _insert(loose[i], plan, problem, bands)


@kernel
def _copy(source, target):
    level, slot, band, time, left, member, count = source
    target[0][:] = level
    target[1][:] = slot
    target[2][:] = band
    target[3][:] = time
    target[4][:] = left
    target[5][:] = member
    target[6][:] = count


@kernel
def _empty(n, rows, bands):
    level = np.zeros((n * bands, rows))
    slot, band = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    member, count = np.zeros((n, n), np.int64), np.zeros(n, np.int64)
    return level, slot, band, np.zeros(n), np.zeros(n), member, count


@kernel
def shortest_split(
    cross, signal, noise, first_row, conflict, bits, bound, alone, earn, orders, bands, shakes, seed
):  # fmt: skip
    """Split units into slots of little total time: best insertion, local search, and shakes that are kept if better.

    Best insertion adds a unit where it costs least, a slot of its own included, so no split takes longer
    than one unit after the other, and every move only lowers the total.

    Args:
        cross: (U, R) power of each unit's sender at each row's receiver in W; 0 at its own rows.
        signal: (R,) power of each row's own sender in W.
        noise: (R,) noise plus far interference in W.
        first_row: (U + 1,) first row of each unit.
        conflict: (U, U) whether two units share a device.
        bits: (U,) bits to carry.
        bound: (U,) SINR every unit keeps.
        alone: (U,) expected time with the band for itself, retries included, in s.
        earn: (3, points) expected goodput and rate over SINR (see `channels.adaptation.RateLaw.earn`).
        orders: (orders, U) orders of the first insertions.
        bands: Sub-channels.
        shakes: Number of shakes.
        seed: Seed of the search.

    Returns:
        (U,) slot, (U,) sub-channel, (U,) time of an attempt in s, and (U,) time expected to be needed after it
        in s: the chance that it fails times `alone`.
    """
    n, rows = cross.shape
    problem = (cross, signal, noise, first_row, conflict, bits, bound, alone, earn)
    state = np.full(1, np.uint64(seed), np.uint64)
    best, plan = _empty(n, rows, bands), _empty(n, rows, bands)
    best_cost = math.inf
    for k in range(orders.shape[0]):
        _copy(_empty(n, rows, bands), plan)
        for i in range(n):
            _insert(orders[k, i], plan, problem, bands)
        _settle(plan, problem, bands, state)
        cost = _total(plan)
        if cost < best_cost:
            best_cost = cost
            _copy(plan, best)
    loose = np.zeros(n, np.int64)
    for _ in range(shakes):
        _copy(best, plan)
        _shake(plan, problem, bands, state, loose)
        _settle(plan, problem, bands, state)
        cost = _total(plan)
        if cost < best_cost * (1 - 1e-9):
            best_cost = cost
            _copy(plan, best)
    return best[1], best[2], best[3], best[4]


@kernel
def least_total(times_s):
    """Least total of a partition of all elements, by dynamic programming over subsets (see `exact.shortest_span`)."""
    best = np.full(times_s.shape[0], math.inf)
    best[0] = 0.0
    for whole in range(1, times_s.shape[0]):
        first = whole & -whole
        rest = whole ^ first
        part = rest
        best[whole] = times_s[whole]
        # Runs over all subsets of the other elements.
        while True:
            best[whole] = min(best[whole], times_s[part | first] + best[rest ^ part])
            if part == 0:
                break
            part = (part - 1) & rest
    return best[-1]
