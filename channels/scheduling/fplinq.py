"""`fplinq`: link activation for the largest sum rate by fractional programming.

A rate counts once, and once more for every round in a row in which its link got no turn. The ratio inside each
logarithm is decoupled by the quadratic transform; with its auxiliary variables fixed, switching a link on pays iff
its own term exceeds the interference prices of the others. The iteration runs from several starts and ends in local
search over single switches and exchanges; with more than 32 links only the best start is searched, over single
switches taken as soon as they pay, in time O(links²).

Source:
    Shen and Yu, FPLinQ: A Cooperative Spectrum Sharing Strategy for Device-to-Device Communications
    (ISIT 2017); Fractional Programming for Communication Systems (IEEE TSP 66(10), 2018).

Departures: the paper also assigns receivers to senders by matching; here links are given, and links that
share a device exclude each other. Local search is added. A decoding threshold, where set, is enforced last.
"""

from __future__ import annotations

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.link import shannon_rate_bps
from channels.scheduling.problem import LinkMatrix, Scheduler, SlotTask, link_matrix
from channels.units import db_to_linear

_ITERATIONS = 30
_MOVES = 400
_SEARCHED = 32
_SWEEPS = 3


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slot (see `Scheduler.select`)."""
    links = link_matrix(task)
    inside = best_activation(task, links)
    while True:
        sinr = _sinr(links, inside)
        weak = np.flatnonzero(inside & (sinr < task.sinr_min * (1 - 1e-9)))
        if weak.size == 0 or inside.sum() <= 1:
            break
        inside[weak[int(np.argmin(sinr[weak] / task.sinr_min[weak]))]] = False
    return [np.where(inside, 0, -1).astype(np.int64)]


def best_activation(task: SlotTask, links: LinkMatrix) -> BoolArray:
    """On/off states of large sum rate.

    Args:
        task: The task, with unicast units.
        links: Its link-by-link arrays.

    Returns:
        (U,) which links are on, at least one; no two share a device.
    """
    n = task.units
    single = np.zeros(n, dtype=bool)
    single[int(np.argmax(np.diagonal(links.received_w) / links.noise_w))] = True
    weight = _weights(task)
    starts = [_fixed_point(links, start, weight) for start in (np.ones(n), np.full(n, 0.5))] + [single]
    if n <= _SEARCHED:
        starts = [_local_search(task, links, start) for start in starts]
    best = max(starts, key=lambda inside: _sum_rate(task, links, inside))
    return best if n <= _SEARCHED else _switch(task, links, best)


def _sinr(links: LinkMatrix, inside: BoolArray) -> FloatArray:
    own = np.diagonal(links.received_w)
    total = inside.astype(np.float64) @ links.received_w + links.noise_w
    return np.where(inside, own / np.maximum(total - own, links.noise_w), 0.0)


def _sum_rate(task: SlotTask, links: LinkMatrix, inside: BoolArray) -> float:
    rule = task.radio.law.rule
    return float(shannon_rate_bps(_sinr(links, inside), rule.bandwidth_hz, rule.gap_db) @ _weights(task))


def _weights(task: SlotTask) -> FloatArray:
    """(U,) weights of the rates: 1, and 1 more for every round in a row without a turn, times the link's worth."""
    return (1.0 + task.waited) * task.weight


def _fixed_point(links: LinkMatrix, start: FloatArray, weight: FloatArray) -> BoolArray:
    own = np.diagonal(links.received_w)
    x = start
    inside = x > 0
    for _ in range(_ITERATIONS):
        total = x @ links.received_w + links.noise_w
        z = x * own / np.maximum(total - x * own, 1e-300)
        worth = weight * (1 + z)
        y = np.sqrt(worth * own * x) / total
        # A link that is off has y = 0 and could never return: its price of entry is taken at full power.
        y = np.where(x > 0, y, np.sqrt(weight * own) / (total + own))
        gain = 2 * y * np.sqrt(worth * own) - links.received_w @ (y**2 * (x > 0)) - (x == 0) * y**2 * own
        chosen = _without_conflicts(gain, links.conflict)
        if np.array_equal(chosen, inside):
            break
        inside, x = chosen, chosen.astype(np.float64)
    return inside


def _without_conflicts(score: FloatArray, conflict: BoolArray) -> BoolArray:
    inside = np.zeros(score.shape[0], dtype=bool)
    blocked = score <= 0
    for v in np.argsort(-score, kind="stable"):
        if not blocked[v]:
            inside[v] = True
            blocked |= conflict[v]
    return inside


def _local_search(task: SlotTask, links: LinkMatrix, start: BoolArray) -> BoolArray:
    inside = start.copy()
    best = _sum_rate(task, links, inside)
    for _ in range(_MOVES):
        moves = _neighbours(links, inside)
        rule = task.radio.law.rule
        own = np.diagonal(links.received_w)
        total = moves.astype(np.float64) @ links.received_w + links.noise_w
        sinr = np.where(moves, own / np.maximum(total - own, links.noise_w), 0.0)
        rates = shannon_rate_bps(sinr, rule.bandwidth_hz, rule.gap_db) @ _weights(task)
        top = int(np.argmax(rates))
        if not rates[top] > best * (1 + 1e-12):
            break
        inside, best = moves[top], float(rates[top])
    return inside


def _switch(task: SlotTask, links: LinkMatrix, start: BoolArray) -> BoolArray:
    """Sweep over the links; each is switched, its conflicting ones off, where that raises the sum rate."""
    inside, received, own = start.copy(), links.received_w, np.diagonal(links.received_w)
    total = inside.astype(np.float64) @ received + links.noise_w
    scale, weight = 1.0 / float(db_to_linear(task.radio.law.rule.gap_db)), _weights(task)

    def rate(on: BoolArray, level: FloatArray) -> float:
        rows = np.flatnonzero(on)
        sinr = own[rows] / np.maximum(level[rows] - own[rows], links.noise_w[rows])
        return float(np.log1p(scale * sinr) @ weight[rows])

    best = rate(inside, total)
    for _ in range(_SWEEPS):
        before = best
        for one in range(own.shape[0]):
            moved, level = inside.copy(), total - received[one]
            if not inside[one]:
                away = np.flatnonzero(links.conflict[one] & inside)
                moved[away] = False
                level = total + received[one] - received[away].sum(axis=0)
            moved[one] = not inside[one]
            found = rate(moved, level)
            if moved.any() and found > best * (1 + 1e-12):
                inside, total, best = moved, level, found
        if best <= before * (1 + 1e-6):
            break
    return inside


def _neighbours(links: LinkMatrix, inside: BoolArray) -> BoolArray:
    """States one step away: a link off; one on with its conflicting ones off; if few, exchanges."""
    n = inside.shape[0]
    flipped = np.repeat(inside[None, :], n, axis=0)
    flipped &= ~(links.conflict & ~inside[:, None])
    np.fill_diagonal(flipped, ~inside)
    members, others = np.flatnonzero(inside), np.flatnonzero(~inside)
    exchanged = np.repeat(flipped[others], members.size, axis=0)
    exchanged[np.arange(exchanged.shape[0]), np.tile(members, others.size)] = False
    pairs = np.repeat(flipped[others], others.size, axis=0)
    joining = np.tile(others, others.size)
    pairs &= ~links.conflict[joining]
    pairs[np.arange(pairs.shape[0]), joining] = True
    return np.concatenate([flipped, exchanged, pairs])


FPLINQ = Scheduler("fplinq", select, keeps_threshold=False)
