"""`greedy_sinr`: transmissions share a slot where that takes less time than one after the other.

Sharing lowers every member's SINR and so its rate; a slot lasts as long as its slowest member. What is
minimised is the expected time of all slots, retries included, and between equals the airtime.

Small rounds (up to `SMALL` units with a complete near list) are split into slots by best insertion, local
search and repeated partial rebuilding. Large ones are peeled one slot at a time: the longest transmission
that waits sets the slot's length, and every other enters if it is expected to be through within that time
and leaves the others enough SINR to be. A slot that would take longer than its members one after the other is
not used, so neither way takes longer, by the plan, than one transmission at a time.

Before a deadline what counts is how many transfers are through by then: slots that serve most transfers per
second come first, and where one transmission at a time serves more, that is the plan.

Units that practically never decode are sent last and among themselves. What serves several receivers is one
transmission at the rate of its worst receiver.

Source:
    Goussevskaia, Wattenhofer, Halldorsson, Welzl, Capacity of Arbitrary Wireless Networks (INFOCOM 2009)
    for the insertion under SINR; Schrimpf et al., Record Breaking Optimization Results Using the Ruin and
    Recreate Principle, J. Comput. Phys. 159 (2000) for the rebuilding; Smith, Various Optimizers for
    Single-Stage Production (1956) for the order of the slots.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.draws import keyed_uniform, stream_key
from channels.scheduling.levels import far_field
from channels.scheduling.problem import Scheduler, SlotTask, subset

SMALL = 160
_CAREFUL = 640
_ORDERS = 3
_WORK = 3000
_SHAKES_OF_ONE = 25
_STRETCH = 1.5
_PATIENCE = 2.0
_TOLERANCE = 0.7


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slots (see `Scheduler.select`)."""
    able = np.flatnonzero(~task.hopeless)
    if not able.size:
        return [_side_by_side(task)]
    radio = task.radio
    if radio.near.complete and task.units <= SMALL and radio.far is None:
        return list(_spread(task, able, split(subset(task, able))))
    return [_spread(task, able, peel_slot(subset(task, able)))]


def split(task: SlotTask) -> IntArray:
    """Split all units into slots of little total time.

    Args:
        task: The task; none of its units is hopeless, and its near list is complete.

    Returns:
        (slots, U) sub-channels in each slot, in order, -1 outside the slot. Slots on which other transfers wait
        come first, then those that serve most, and longest neglected, transfers per second.
    """
    from channels.scheduling.spans import shortest_split

    radio, rows = task.radio, task.first_row[-1]
    matrix = radio.near.matrix()
    # One memory order, since numba compiles a function anew for each.
    cross = np.ascontiguousarray(
        radio.power_w[task.source][:, None] * matrix[task.source][:, task.destination]
    )
    cross[task.row_unit, np.arange(rows)] = 0.0
    noise = (radio.noise_w + task.far_w)[task.destination]
    n = task.units
    slot, band, time_s, over_s = shortest_split(
        cross, task.signal_w, noise, task.first_row, shared_devices(task), task.bits,
        _least_sinr(task), task.alone_s, radio.law.earn, _orders(task),
        radio.subchannels, _shakes(task), np.uint64(n),
    )  # fmt: skip
    order = _in_turn(task, slot, time_s)
    if task.urgent and not task.hops_after.any():
        serial = _better_one_by_one(task, slot, order, time_s, over_s)
        if serial is not None:
            return np.where(np.arange(n) == serial[:, None], 0, -1).astype(np.int64)
    # A slot's first members are on the first sub-channels: turning them from slot to slot loads all alike.
    turn: IntArray = np.arange(order.size, dtype=np.int64)[:, None]
    return np.where(slot == order[:, None], (band + turn) % radio.subchannels, -1)


def _in_turn(task: SlotTask, slot: IntArray, time_s: FloatArray) -> IntArray:
    """Numbers of the slots in the order of their turn; see `split`."""
    served, count = _served(task), int(slot.max()) + 1
    hops, longest_s = np.zeros(count), np.zeros(count)
    np.maximum.at(hops, slot, task.hops_after)
    np.maximum.at(longest_s, slot, time_s)
    value = [
        (-hops[number], -float(served[slot == number].sum()) / max(longest_s[number], 1e-15), number)
        for number in np.unique(slot).tolist()
    ]
    return np.asarray([number for _, _, number in sorted(value)], dtype=np.int64)


def _shakes(task: SlotTask) -> int:
    """Moves to try at random: equal work for every number of units, and no more than a few units can be split in."""
    n = task.units
    if n == 1 or task.wanted > _CAREFUL:
        return 0
    return min(max(4, _WORK // n**2 * 4), _SHAKES_OF_ONE * 2**n)


def _served(task: SlotTask) -> FloatArray:
    """(U,) receivers of each unit times (1 + k)², after k rounds without a turn in a row, times its worth.

    So a transmission that takes k² times as long as the others gets its turn after about k rounds.
    """
    receivers: FloatArray = np.diff(task.first_row).astype(np.float64)
    return receivers * (1.0 + task.waited) ** 2 * task.weight


def _better_one_by_one(
    task: SlotTask, slot: IntArray, order: IntArray, time_s: FloatArray, over_s: FloatArray
) -> IntArray | None:
    """An order of the units that serves more before the deadline one by one than the slots do, or None.

    Two orders are compared with the slots: by transfers per second, and the units' own order, which is that
    of `tdma`.

    Args:
        task: The task; it has a deadline.
        slot: (U,) slot of each unit.
        order: Numbers of the slots in the order of their turn.
        time_s: (U,) time of an attempt of each unit in its slot in s.
        over_s: (U,) time expected to be needed afterwards, for attempts that fail, in s.
    """
    served, law, alone_sinr = _served(task), task.radio.law, _alone_sinr(task)
    alone_s, chance = task.bits / law.chosen_rate(alone_sinr), law.chance(alone_sinr)
    lengths = np.asarray([time_s[slot == number].max() for number in order])
    start_s = np.zeros(int(order.max()) + 1)
    start_s[order] = np.cumsum(lengths) - lengths
    in_slot = 1.0 - over_s / np.maximum(task.alone_s, 1e-300)
    best = float((served * in_slot)[start_s[slot] + time_s <= task.left_s].sum())
    found: IntArray | None = None
    for serial in (
        np.argsort(-served * chance / np.maximum(alone_s, 1e-15), kind="stable"),
        np.arange(task.units),
    ):
        done = np.cumsum(alone_s[serial]) <= task.left_s
        value = float((served * chance)[serial][done].sum())
        if value > best * (1 + 1e-9):
            best, found = value, serial.astype(np.int64)
    return found


def shared_devices(task: SlotTask) -> BoolArray:
    """Which units share a device, and so cannot be on the air at once.

    Args:
        task: The task of U units.

    Returns:
        (U, U) booleans, symmetric, True on the diagonal.
    """
    touched = np.zeros((task.units, task.radio.power_w.shape[0]), dtype=np.float32)
    touched[np.arange(task.units), task.source] = 1
    touched[task.row_unit, task.destination] = 1
    return touched @ touched.T > 0


def peel_slot(task: SlotTask) -> IntArray:
    """Fill one slot of a round too large to be split as a whole.

    The longest attempt that waits sets the slot's length; under a deadline shorter lengths are tried too, and
    the one that serves most transfers per second is kept. A unit enters if it is expected to be through within
    that length, or, where it needs several attempts anyway, within `_PATIENCE` times its time alone. With a far
    field, units are inserted against the last slot's far interference; the ones that break their bound under
    this slot's own are taken out again.

    Args:
        task: The task, with units of any number of receivers, none of them hopeless.

    Returns:
        (U,) sub-channel of each unit, -1 outside the slot.
    """
    attempt_s = task.bits / task.radio.law.chosen_rate(_alone_sinr(task))
    order = np.lexsort((-task.alone_s, -attempt_s))
    tries = [_STRETCH * float(attempt_s[order[0]])]
    if task.urgent:
        tries += [float(2 * np.quantile(attempt_s, share)) for share in (0.1, 0.3, 0.6)]
    best, best_value = _best_alone(task, order, attempt_s)
    for horizon_s in tries:
        fitting = order[attempt_s[order] <= horizon_s]
        band, worst = _fill(task, fitting, horizon_s)
        value = _worth(task, band, worst)
        if value >= best_value:
            best, best_value = band, value
    return np.where(best >= 0, (best + task.slot) % task.radio.subchannels, -1)


def _best_alone(task: SlotTask, order: IntArray, attempt_s: FloatArray) -> tuple[IntArray, float]:
    """The slot of one unit to fall back to, and its worth: the longest, before a deadline the most worth."""
    worst = _alone_sinr(task)
    one = int(order[0])
    if task.urgent:
        value = _served(task) * task.radio.law.chance(worst) / np.maximum(attempt_s, 1e-15)
        one = int(np.argmax(np.where(attempt_s <= task.left_s, value, -1.0)))
    band = np.full(task.units, -1, dtype=np.int64)
    band[one] = 0
    return band, _worth(task, band, worst)


def _worth(task: SlotTask, band: IntArray, worst: FloatArray) -> float:
    """Work expected of a slot over its length: seconds alone, or under a deadline transfers, per second.

    An attempt is expected to do its chance of being decoded times the unit's whole work; one that the deadline
    cuts does none. Seconds alone per second above 1 mean that sharing pays.

    Args:
        task: The task.
        band: (U,) sub-channel of each unit, -1 outside the slot.
        worst: (U,) linear mean SINR at the weakest receiver of each unit in the slot.
    """
    inside = np.flatnonzero(band >= 0)
    if not inside.size:
        return -1.0
    law = task.radio.law
    took_s, chance = task.bits[inside] / law.chosen_rate(worst[inside]), law.chance(worst[inside])
    work = _served(task)[inside] * (took_s <= task.left_s) if task.urgent else task.alone_s[inside]
    return float((work * chance).sum()) / max(float(took_s.max()), 1e-15)


def fill_by_bound(task: SlotTask) -> IntArray:
    """Fill one slot by feasible insertion, each unit keeping its own SINR bound.

    The units of most worth come first, of these the longest neglected, of those the strongest.
    """
    weakest_w = np.minimum.reduceat(task.signal_w, task.first_row[:-1])
    order = np.lexsort((-weakest_w, -task.waited, -task.weight))
    band, _ = _fill(task, order, math.inf)
    if np.any(band >= 0):
        return band
    # Interference alone kept every unit out: send the strongest by itself.
    band = np.full(task.units, -1, dtype=np.int64)
    band[order[0]] = 0
    return band


def _fill(task: SlotTask, order: IntArray, horizon_s: float) -> tuple[IntArray, FloatArray]:
    """(U,) sub-channels by feasible insertion, and (U,) linear mean SINR at the members' weakest receivers.

    The SINR counts what was taken out again, so that it is never too high.
    """
    from channels.scheduling.kernels import fill_slot

    radio, near = task.radio, task.radio.near
    least = np.minimum(task.sinr_min, _alone_sinr(task)) if math.isinf(horizon_s) else _least_sinr(task)
    weak = np.zeros_like(radio.noise_w) if radio.far is None else radio.far.per_watt
    band, bounds, level = fill_slot(
        order, task.source, task.first_row, task.destination, task.signal_w, least, task.bits,
        np.maximum(horizon_s, _PATIENCE * task.alone_s),
        radio.law.need, radio.noise_w, weak, radio.power_w, near.indptr,
        near.index, near.out_gain, radio.subchannels,
    )  # fmt: skip
    worst = np.full(task.units, np.inf)
    rows = np.flatnonzero(band[task.row_unit] >= 0)
    if not rows.size:
        return band, worst
    # The near interference is known; the mean of the far one gives way to this slot's own.
    unit, place = task.row_unit[rows], (band[task.row_unit[rows]], task.destination[rows])
    level_w = level[place]
    if radio.far is not None:
        level_w += np.asarray(far_field(task, band, radio.power_w))[place]
    sinr = task.signal_w[rows] / level_w
    np.minimum.at(worst, unit, sinr)
    if radio.far is not None:
        # Under fading a little more interference than planned costs a little time, and the slot was made for
        # its longest member; a threshold is kept.
        strict = math.isinf(horizon_s)
        kept = np.maximum(least, bounds * (1.0 if strict else _TOLERANCE))
        band[worst < kept * (1 - 1e-9)] = -1
    return band, worst


def _alone_sinr(task: SlotTask) -> FloatArray:
    noise = task.radio.noise_w[task.destination]
    return np.minimum.reduceat(task.signal_w / noise, task.first_row[:-1])


def _least_sinr(task: SlotTask) -> FloatArray:
    """(U,) mean SINR every unit keeps: the threshold where nothing fades; under fading the goodput decides."""
    rule = task.radio.law.rule
    least = rule.sinr_min if rule.fading == "none" and not rule.certain else 0.0
    return np.minimum(least, _alone_sinr(task) * (1 - 1e-9))


def _side_by_side(task: SlotTask) -> IntArray:
    """A slot of units that will not decode anyway: all that share no device, on sub-channels in turn."""
    conflict = shared_devices(task) if task.units <= SMALL else None
    band = np.full(task.units, -1, dtype=np.int64)
    if conflict is None:
        return _fill(task, np.arange(task.units, dtype=np.int64), math.inf)[0]
    taken = np.zeros(task.units, dtype=bool)
    for unit in range(task.units):
        if not taken[unit]:
            band[unit] = (int(np.count_nonzero(band >= 0)) + task.slot) % task.radio.subchannels
            taken |= conflict[unit]
    return band


def _spread(task: SlotTask, units: IntArray, band: IntArray) -> IntArray:
    out = np.full((*band.shape[:-1], task.units), -1, dtype=np.int64)
    out[..., units] = band
    return out


def _orders(task: SlotTask) -> IntArray:
    """(orders, U) orders of insertion: longest first, shortest first, and drawn ones."""
    longest = np.argsort(-task.alone_s, kind="stable")
    orders = np.stack([longest, longest[::-1], *_drawn_orders(task.units)]).astype(np.int64)
    return orders if task.wanted <= _CAREFUL else orders[:1]


@lru_cache(maxsize=SMALL)
def _drawn_orders(units: int) -> IntArray:
    numbers: IntArray = np.arange(units, dtype=np.int64)
    trials: IntArray = np.arange(_ORDERS - 2, dtype=np.int64)[:, None]
    return np.argsort(keyed_uniform(stream_key(0, "insertion-order"), numbers, trials, ordered=True), axis=1)


GREEDY_SINR = Scheduler("greedy_sinr", select, groups=True, spreads=True)
