"""`greedy_sinr`: feasible insertion with exact SINR, strongest (shortest) link first.

Large problems are peeled one slot at a time by compiled insertion. Small ones (up to `SMALL` links, one
band, no far field) are worth more work: the first slot is a large feasible set found by iterated local
search, the others come from first-fit over several orders, improved by iterated greedy, which regroups
whole slots and can only lower their number.

Source:
    Goussevskaia, Wattenhofer, Halldorsson, Welzl, Capacity of Arbitrary Wireless Networks (INFOCOM 2009)
    for the greedy; Culberson, Iterated Greedy Graph Coloring (1992) for the regrouping.
"""

from __future__ import annotations

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.draws import keyed_uniform, stream_key
from channels.scheduling.problem import Scheduler, SlotTask, affectance, link_matrix, slots_from_numbers

SMALL = 160
_ORDERS = 6
_REGROUPS = 60
_STEPS_PER_LINK = 60


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slots (see `Scheduler.select`)."""
    radio = task.radio
    small = task.units <= SMALL and radio.subchannels == 1 and radio.near.complete
    if small and task.first_row[-1] == task.units:
        return slots_from_numbers(partition(affectance(task, link_matrix(task)), task.signal_w))
    return [peel_slot(task)]


def peel_slot(task: SlotTask) -> IntArray:
    """Fill one slot by feasible insertion.

    With a far field, units are inserted against the last slot's far interference; the ones that break
    their bound under this slot's own are taken out again, which only helps the others.

    Args:
        task: The task, with units of any number of receivers.

    Returns:
        (U,) sub-channel of each unit, -1 outside the slot.
    """
    from channels.scheduling.kernels import fill_slot

    radio, near = task.radio, task.radio.near
    order = np.argsort(-np.minimum.reduceat(task.signal_w, task.first_row[:-1]), kind="stable")
    for far_w in (task.far_w, np.zeros_like(task.far_w)):
        band = fill_slot(
            order, task.source, task.first_row, task.destination, task.signal_w, task.sinr_min,
            radio.noise_w + far_w, radio.power_w, near.indptr, near.index, near.out_gain, radio.subchannels,
        )  # fmt: skip
        if radio.far is not None:
            band = _drop_violators(task, band)
        if np.any(band >= 0):
            return band
    # Interference alone kept every unit out: send the strongest by itself.
    band = np.full(task.units, -1, dtype=np.int64)
    band[order[0]] = 0
    return band


def _drop_violators(task: SlotTask, band: IntArray) -> IntArray:
    from channels.scheduling.engine import slot_levels

    kept = band.copy()
    while np.any(kept >= 0):
        rows, sinr = slot_levels(task, kept)
        unit = task.row_unit[rows]
        weak = sinr < task.sinr_min[unit] * (1 - 1e-9)
        if not weak.any():
            break
        kept[unit[weak]] = -1
    return kept


def partition(affect: FloatArray, signal_w: FloatArray) -> IntArray:
    """Split all links into few feasible slots, the first of them large.

    Args:
        affect: (U, U) affectances (see `channels.scheduling.problem.affectance`).
        signal_w: (U,) received powers, which order the links.

    Returns:
        (U,) slot numbers from 0; slot 0 is the largest set found.
    """
    from channels.scheduling.kernels import first_fit

    strongest = np.argsort(-signal_w, kind="stable")
    largest = largest_slot(affect, strongest)
    rest = np.flatnonzero(~largest)
    numbers = np.zeros(affect.shape[0], dtype=np.int64)
    if not rest.size:
        return numbers
    inner = np.ascontiguousarray(affect[np.ix_(rest, rest)])
    tried = [first_fit(order, inner) for order in _orders(inner, signal_w[rest])]
    tried.append(_peel_largest(inner, signal_w[rest]))
    best = min(tried, key=lambda numbers: int(numbers.max()))
    numbers[rest] = 1 + _regroup(inner, best)
    # The same without the fixed first slot sometimes saves one.
    whole = [first_fit(order, affect) for order in _orders(affect, signal_w)]
    free = _regroup(affect, min([*whole, numbers], key=lambda numbers: int(numbers.max())))
    if free.max() < numbers.max():
        numbers = free
    return _largest_first(numbers)


def largest_slot(affect: FloatArray, order: IntArray, *, steps: int | None = None) -> BoolArray:
    """Find a large feasible set (one-slot capacity) by greedy insertion and iterated local search.

    Args:
        affect: (U, U) affectances.
        order: (U,) order of insertion.
        steps: Local-search steps; None takes 60 per link.

    Returns:
        (U,) membership.
    """
    from channels.scheduling.kernels import first_fit, largest_set

    n = affect.shape[0]
    starts = [
        first_fit(one, affect) == 0 for one in (order, np.argsort(affect.sum(axis=0) + affect.sum(axis=1)))
    ]
    start = max(starts, key=lambda members: int(members.sum()))
    budget = _STEPS_PER_LINK * n if steps is None else steps
    if start.all():
        return start
    return largest_set(affect, start.copy(), order.astype(np.int64), budget, np.uint64(n))


def _orders(affect: FloatArray, signal_w: FloatArray) -> list[IntArray]:
    strongest = np.argsort(-signal_w, kind="stable")
    harm = np.argsort(-(np.minimum(affect, 1).sum(axis=0) + np.minimum(affect, 1).sum(axis=1)), kind="stable")
    key = stream_key(0, "first-fit-order")
    shuffles = [
        np.argsort(keyed_uniform(key, np.arange(signal_w.shape[0]), trial, ordered=True))
        for trial in range(_ORDERS)
    ]
    return [strongest, strongest[::-1].copy(), harm, *shuffles]


def _peel_largest(affect: FloatArray, signal_w: FloatArray) -> IntArray:
    numbers = np.full(affect.shape[0], -1, dtype=np.int64)
    left = np.arange(affect.shape[0])
    slot = 0
    while left.size:
        inner = np.ascontiguousarray(affect[np.ix_(left, left)])
        members = largest_slot(inner, np.argsort(-signal_w[left], kind="stable"), steps=10 * left.size)
        numbers[left[members]] = slot
        left, slot = left[~members], slot + 1
    return numbers


def _regroup(affect: FloatArray, numbers: IntArray) -> IntArray:
    from channels.scheduling.kernels import first_fit

    key = stream_key(0, "regroup")
    for trial in range(_REGROUPS):
        slots = int(numbers.max()) + 1
        if slots <= 2:
            break
        groups = [np.flatnonzero(numbers == slot) for slot in range(slots)]
        kind = trial % 3
        if kind == 0:
            rank = np.arange(slots)[::-1]
        elif kind == 1:
            rank = np.argsort([-group.size for group in groups], kind="stable")
        else:
            rank = np.argsort(keyed_uniform(key, np.arange(slots), trial, ordered=True))
        inside = keyed_uniform(key, np.arange(numbers.size), slots + trial, ordered=True)
        order = np.concatenate([groups[slot][np.argsort(inside[groups[slot]])] for slot in rank])
        numbers = first_fit(order, affect)
    return numbers


def _largest_first(numbers: IntArray) -> IntArray:
    sizes = np.bincount(numbers)
    rank = np.empty(sizes.size, dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(sizes.size)
    return rank[numbers]


GREEDY_SINR = Scheduler("greedy_sinr", select, spreads=True)
