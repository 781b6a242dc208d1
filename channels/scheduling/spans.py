"""Compiled search for the split of links into slots that takes the least time.

Import only inside functions: this imports numba. The cost of a slot is the time of its slowest member's
attempt, plus what is expected to be left over: each member's chance of failing times the time it needs alone.
Without fading that is the slot's length. A small weight on the members' own times settles ties for less airtime.

What depends on one unit or a pair alone is worked out once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.compiled import inner_kernel, kernel

_MULTIPLIER = np.uint64(6364136223846793005)
_INCREMENT = np.uint64(1442695040888963407)
_SHIFT = np.uint64(33)
_NEVER = 1e15
_NOBODY = -1
_AIRTIME_WEIGHT = 1e-3
_TIE_WEIGHT = 1e-6
_SWEEPS = 30


class _Problem(NamedTuple):
    """What `shortest_split` is given, and what is worked out of it once.

    Attributes:
        cross: (U + 1, R) power in W; the last row is of nobody and 0.
        lone: (U, 3) time, time left and cost of each unit with a sub-channel for itself.
        pair: (U, U) cost of a slot of two units with one sub-channel; NaN until it is asked for.
    """

    cross: FloatArray
    signal: FloatArray
    noise: FloatArray
    first_row: IntArray
    conflict: BoolArray
    bits: FloatArray
    bound: FloatArray
    alone: FloatArray
    earn: FloatArray
    lone: FloatArray
    pair: FloatArray


class _Plan(NamedTuple):
    """A split under way.

    Attributes:
        level: (cells, R) power in W on each sub-channel of each slot; a cell is slot · sub-channels + sub-channel.
        slot: (U,) slot of each unit, -1 for none, and
        band: (U,) its sub-channel there.
        time: (U,) time of its attempt in s, and
        left: (U,) time expected to be needed after it.
        member: (slots, U) members of each slot, and
        count: (slots,) their number.
        on_cell: (cells,) number of units on each.
        cost: (slots,) cost of each slot.
    """

    level: FloatArray
    slot: IntArray
    band: IntArray
    time: FloatArray
    left: FloatArray
    member: IntArray
    count: IntArray
    on_cell: IntArray
    cost: FloatArray


@inner_kernel
def _random(state):
    state[0] = state[0] * _MULTIPLIER + _INCREMENT
    return np.int64(state[0] >> _SHIFT)


@inner_kernel
def _least_sinr(u, cell, joiner, plan, problem):
    """SINR at unit u's weakest receiver, over the interference in a cell plus that of a joiner (or `_NOBODY`)."""
    worst = math.inf
    for r in range(problem.first_row[u], problem.first_row[u + 1]):
        level = problem.noise[r] + plan.level[cell, r] + problem.cross[joiner, r]
        worst = min(worst, problem.signal[r] / level)
    return worst


@inner_kernel
def _attempt(u, sinr, problem):
    """Time of an attempt of unit u at an SINR, and the time expected to be needed after it."""
    if sinr < problem.bound[u] * (1 - 1e-9):
        return _NEVER, problem.alone[u]
    place = (math.log(sinr) - problem.earn[2, 0]) * problem.earn[2, 1]
    place = min(max(place, 0.0), problem.earn.shape[1] - 1 - 1e-9)
    k = int(place)
    goodput = problem.earn[0, k] + (problem.earn[0, k + 1] - problem.earn[0, k]) * (place - k)
    rate = problem.earn[1, k] + (problem.earn[1, k + 1] - problem.earn[1, k]) * (place - k)
    return problem.bits[u] / rate, (1.0 - min(goodput / rate, 1.0)) * problem.alone[u]


@inner_kernel
def _find_lone(plan, problem):
    """Work out what every unit takes with a sub-channel for itself, from a plan without members."""
    for u in range(problem.lone.shape[0]):
        time, left = _attempt(u, _least_sinr(u, 0, _NOBODY, plan, problem), problem)
        problem.lone[u, 0], problem.lone[u, 1] = time, left
        problem.lone[u, 2] = time + left + _AIRTIME_WEIGHT * time


@inner_kernel
def _clashes(u, s, plan, problem):
    """Whether a member of slot s shares a device with unit u."""
    clash = False
    for i in range(plan.count[s]):
        clash |= problem.conflict[u, plan.member[s, i]]
    return clash


@inner_kernel
def _cost_with(u, s, b, plan, problem, bands, limit):
    """Cost of slot s once unit u has joined it on sub-channel b; `_NEVER` if it cannot. No member may clash with u.

    Members only add to the cost: once it has reached `limit` it is returned as it is.
    """
    cell = s * bands + b
    taken, left = problem.lone[u, 0], problem.lone[u, 1]
    if plan.on_cell[cell] > 0:
        taken, left = _attempt(u, _least_sinr(u, cell, _NOBODY, plan, problem), problem)
    longest, total, over = taken, taken, left
    for i in range(plan.count[s]):
        if longest >= _NEVER or longest + over + _AIRTIME_WEIGHT * total >= limit:
            break
        k = plan.member[s, i]
        taken, left = plan.time[k], plan.left[k]
        if plan.band[k] == b:
            taken, left = _attempt(k, _least_sinr(k, cell, u, plan, problem), problem)
        longest = max(longest, taken)
        total += taken
        over += left
    return _NEVER if longest >= _NEVER else longest + over + _AIRTIME_WEIGHT * total


@inner_kernel
def _cost_of_pair(u, s, plan, problem):
    """`_cost_with` of the one member of a slot where there is one sub-channel: it depends on the two units alone."""
    k = plan.member[s, 0]
    if math.isnan(problem.pair[u, k]):
        problem.pair[u, k] = _cost_with(u, s, 0, plan, problem, 1, math.inf)
    return problem.pair[u, k]


@inner_kernel
def _refresh(s, b, plan, problem, bands):
    """Work out the attempts of a slot's members on one sub-channel anew, and what the slot costs."""
    cell = s * bands + b
    longest, total, over = 0.0, 0.0, 0.0
    for i in range(plan.count[s]):
        k = plan.member[s, i]
        if plan.band[k] == b and plan.on_cell[cell] == 1:
            plan.time[k], plan.left[k] = problem.lone[k, 0], problem.lone[k, 1]
        elif plan.band[k] == b:
            plan.time[k], plan.left[k] = _attempt(k, _least_sinr(k, cell, _NOBODY, plan, problem), problem)
        longest = max(longest, plan.time[k])
        total += plan.time[k]
        over += plan.left[k]
    plan.cost[s] = longest + over + _AIRTIME_WEIGHT * total


@inner_kernel
def _put(u, s, b, plan, problem, bands):
    cell = s * bands + b
    for r in range(plan.level.shape[1]):
        plan.level[cell, r] += problem.cross[u, r]
    plan.slot[u], plan.band[u] = s, b
    plan.member[s, plan.count[s]] = u
    plan.count[s] += 1
    plan.on_cell[cell] += 1
    _refresh(s, b, plan, problem, bands)


@inner_kernel
def _take(u, plan, problem, bands):
    s, b = plan.slot[u], plan.band[u]
    cell = s * bands + b
    place = 0
    while plan.member[s, place] != u:
        place += 1
    plan.count[s] -= 1
    plan.on_cell[cell] -= 1
    plan.member[s, place] = plan.member[s, plan.count[s]]
    plan.slot[u] = -1
    # The level is summed anew: subtracting would leave the rounding of a strong signal behind.
    for r in range(plan.level.shape[1]):
        plan.level[cell, r] = 0.0
    for i in range(plan.count[s]):
        k = plan.member[s, i]
        if plan.band[k] == b:
            for r in range(plan.level.shape[1]):
                plan.level[cell, r] += problem.cross[k, r]
    _refresh(s, b, plan, problem, bands)


@inner_kernel
def _total(plan):
    cost = 0.0
    for s in range(plan.cost.shape[0]):
        cost += plan.cost[s]
    return cost


@inner_kernel
def _best_band(u, s, plan, problem, bands, best):
    """Least that unit u adds to slot s, and on which sub-channel; what is above `best` need not be exact."""
    # A little above, so that rounding does not let a cut-off cost pass for a better one.
    limit = (plan.cost[s] + best) * (1 + 1e-9)
    best_b = -1
    for b in range(bands):
        added = _cost_with(u, s, b, plan, problem, bands, limit) - plan.cost[s]
        # Of sub-channels that cost the same, the one with least on it.
        for i in range(plan.count[s] if bands > 1 else 0):
            k = plan.member[s, i]
            added += _TIE_WEIGHT * plan.time[k] if plan.band[k] == b else 0.0
        if added < best - 1e-15:
            best, best_b = added, b
    return best, best_b


@inner_kernel
def _insert(u, plan, problem, bands):
    """Put a unit where it adds least; an empty slot is always among the choices."""
    best, best_s, best_b, tried_empty = math.inf, 0, 0, False
    for s in range(plan.count.shape[0]):
        added, b = math.inf, 0
        if plan.count[s] == 0:
            if not tried_empty:
                added, tried_empty = problem.lone[u, 2], True
        elif not _clashes(u, s, plan, problem):
            if bands == 1 and plan.count[s] == 1:
                added = _cost_of_pair(u, s, plan, problem) - plan.cost[s]
            else:
                found, b = _best_band(u, s, plan, problem, bands, best)
                added = found if b >= 0 else math.inf
        if added < best - 1e-15:
            best, best_s, best_b = added, s, b
    _put(u, best_s, best_b, plan, problem, bands)


@inner_kernel
def _settle(plan, problem, bands, state):
    """Move units one by one to where they add least until nothing improves."""
    n = plan.slot.shape[0]
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


@inner_kernel
def _shake(plan, problem, bands, state, loose):
    """Take out the units of one or two random slots and a few others, and insert them again in random order."""
    n = plan.slot.shape[0]
    out = 0
    for _ in range(1 + _random(state) % 2):
        s = plan.slot[_random(state) % n]
        if s < 0:
            continue
        while plan.count[s] > 0:
            u = plan.member[s, plan.count[s] - 1]
            _take(u, plan, problem, bands)
            loose[out] = u
            out += 1
    for _ in range(1 + _random(state) % 3):
        u = _random(state) % n
        if plan.slot[u] >= 0:
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
    target.level[:] = source.level
    target.slot[:] = source.slot
    target.band[:] = source.band
    target.time[:] = source.time
    target.left[:] = source.left
    target.member[:] = source.member
    target.count[:] = source.count
    target.on_cell[:] = source.on_cell
    target.cost[:] = source.cost


@kernel
def _empty(n, rows, bands):
    """A plan without members."""
    return _Plan(
        np.zeros((n * bands, rows)), np.full(n, -1, np.int64), np.zeros(n, np.int64), np.zeros(n), np.zeros(n),
        np.zeros((n, n), np.int64), np.zeros(n, np.int64), np.zeros(n * bands, np.int64), np.zeros(n),
    )  # fmt: skip


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
    padded = np.zeros((n + 1, rows))
    padded[:n] = cross
    problem = _Problem(
        padded,
        signal,
        noise,
        first_row,
        conflict,
        bits,
        bound,
        alone,
        earn,
        np.zeros((n, 3)),
        np.full((n, n), np.nan),
    )
    state = np.full(1, np.uint64(seed), np.uint64)
    best, plan = _empty(n, rows, bands), _empty(n, rows, bands)
    _find_lone(plan, problem)
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
    return best.slot, best.band, best.time, best.left
