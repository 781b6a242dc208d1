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
from channels.scheduling.levels import slot_levels
from channels.scheduling.problem import Scheduler, SlotTask, affectance, link_matrix, slots_from_numbers

SMALL = 160
_ORDERS = 6
_REGROUPS = 60
_STEPS_PER_LINK = 60
_PEEL_STEPS_PER_LINK = 1
_FIRST_SLOT_SHARE = 0.95
_FIRST_SLOTS = 6


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slots (see `Scheduler.select`)."""
    radio = task.radio
    small = task.wanted <= SMALL and radio.subchannels == 1 and radio.near.complete
    if small and task.first_row[-1] == task.units:
        roles = np.bincount(np.concatenate([task.source, task.destination]))
        affect = affectance(task, link_matrix(task))
        return slots_from_numbers(partition(affect, task.signal_w, fewest=int(roles.max())))
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
    kept = band.copy()
    if np.any(kept >= 0):
        rows, sinr = slot_levels(task, kept)
        unit = task.row_unit[rows]
        kept[unit[sinr < task.sinr_min[unit] * (1 - 1e-9)]] = -1
    return kept


def partition(affect: FloatArray, signal_w: FloatArray, *, fewest: int = 1) -> IntArray:
    """Split all links into few feasible slots, the first of them large.

    Args:
        affect: (U, U) affectances (see `channels.scheduling.problem.affectance`).
        signal_w: (U,) received powers, which order the links.
        fewest: A known lower bound on the number of slots, such as the busiest device's links; reaching it
            ends the search.

    Returns:
        (U,) slot numbers from 0; slot 0 is the largest set found.
    """
    strongest = np.argsort(-signal_w, kind="stable")
    largest = largest_slot(affect, strongest)
    if largest.all():
        return np.zeros_like(strongest)
    best = _with_first(affect, signal_w, largest, fewest)
    if best.max() + 1 <= fewest:
        return _largest_first(best)
    # Another first slot, or none fixed, sometimes saves a slot.
    free = _few_slots(affect, signal_w, fewest)
    wanted = _FIRST_SLOT_SHARE * int(largest.sum())
    for trial in range(_FIRST_SLOTS):
        if best.max() <= free.max():
            return _largest_first(best)
        first = largest_slot(affect, strongest, start=free == trial, seed=trial)
        if first.sum() >= wanted:
            best = min(best, _with_first(affect, signal_w, first, fewest), key=_last_slot)
    if free.max() < best.max() and np.bincount(free).max() >= wanted:
        best = free
    return _largest_first(best)


def _last_slot(numbers: IntArray) -> int:
    return int(numbers.max())


def _with_first(affect: FloatArray, signal_w: FloatArray, first: BoolArray, fewest: int) -> IntArray:
    rest = np.flatnonzero(~first)
    numbers = np.zeros(affect.shape[0], dtype=np.int64)
    inner = np.ascontiguousarray(affect[np.ix_(rest, rest)])
    numbers[rest] = 1 + _few_slots(inner, signal_w[rest], fewest - 1)
    return numbers


def _few_slots(affect: FloatArray, signal_w: FloatArray, fewest: int) -> IntArray:
    from channels.scheduling.kernels import first_fit, peel_largest

    orders = _orders(affect, signal_w)
    fitted = _regroup(affect, min((first_fit(o, affect) for o in orders), key=_last_slot), fewest)
    if fitted.max(initial=-1) + 1 <= max(fewest, 1):
        return fitted
    peeled = peel_largest(affect, orders[0], _PEEL_STEPS_PER_LINK)
    return _regroup(affect, peeled, fewest) if peeled.max() <= fitted.max() else fitted


def _regroup(affect: FloatArray, numbers: IntArray, fewest: int) -> IntArray:
    from channels.scheduling.kernels import regroup

    slots, key = int(numbers.max(initial=-1)) + 1, stream_key(0, "regroup")
    if slots <= max(fewest, 1):
        return numbers
    links: IntArray = np.arange(numbers.size, dtype=np.int64)
    trials: IntArray = np.arange(_REGROUPS + slots, dtype=np.int64)[:, None]
    link_draws = keyed_uniform(key, links, trials, ordered=True)
    slot_draws = keyed_uniform(key, links[:slots], trials[:_REGROUPS], ordered=True)
    return regroup(affect, numbers, fewest, link_draws, slot_draws)


def largest_slot(
    affect: FloatArray,
    order: IntArray,
    *,
    start: BoolArray | None = None,
    seed: int = 0,
) -> BoolArray:
    """Find a large feasible set (one-slot capacity) by greedy insertion and iterated local search.

    Args:
        affect: (U, U) affectances.
        order: (U,) order of insertion.
        start: (U,) feasible set to start from; None starts from the better of two greedy insertions.
        seed: Seed of the search.

    Returns:
        (U,) membership.
    """
    from channels.scheduling.kernels import first_fit, largest_set

    n = affect.shape[0]
    if start is None or not start.any():
        orders = (order, np.argsort(affect.sum(axis=0) + affect.sum(axis=1)))
        sets: list[BoolArray] = [first_fit(one, affect) == 0 for one in orders]
        chosen = max(sets, key=np.count_nonzero)
    else:
        chosen = start
    if chosen.all():
        return chosen
    return largest_set(
        affect, chosen.copy(), order.astype(np.int64), _STEPS_PER_LINK * n, np.uint64(n + 7919 * seed)
    )


def _orders(affect: FloatArray, signal_w: FloatArray) -> list[IntArray]:
    strongest = np.argsort(-signal_w, kind="stable")
    harm = np.argsort(-(np.minimum(affect, 1).sum(axis=0) + np.minimum(affect, 1).sum(axis=1)), kind="stable")
    links: IntArray = np.arange(signal_w.shape[0], dtype=np.int64)
    trials: IntArray = np.arange(_ORDERS, dtype=np.int64)[:, None]
    shuffles = np.argsort(keyed_uniform(stream_key(0, "first-fit-order"), links, trials, ordered=True))
    return [strongest, strongest[::-1].copy(), harm, *shuffles]


def _largest_first(numbers: IntArray) -> IntArray:
    sizes = np.bincount(numbers)
    rank = np.empty(sizes.size, dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(sizes.size)
    return rank[numbers]


GREEDY_SINR = Scheduler("greedy_sinr", select, spreads=True)
