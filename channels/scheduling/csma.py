"""`csma`: carrier sense with binary exponential back-off, and no other coordination.

A sender with something to send draws a back-off of 0 to W·2^min(k, m) - 1 slots after k failed attempts, counts it
down and then sends; a slot that nobody uses lasts `slot_s`, one in which somebody is heard counts once however long it
is (as in the model below), and who hears nobody counts on. Devices hear a sender whose mean power at them reaches the
carrier-sense threshold. A sender that hears none of those on air starts beside them if its count ends while they send
(hidden terminals). What is decoded follows from the SINR, so that the stronger of two may survive (capture). Rates are
chosen from the SNR of the link: nobody knows who else will send.

Departures: all of a slot's transmissions start together, hidden ones too; the acknowledgement and the gaps between
frames are `feedback_s`; a device that is sending does not receive: of two senders of which one addresses the other, the
one whose count ended first goes, and the other waits. Back-offs start anew in each round. One channel: the band is not
split.

Source:
    Bianchi, Performance Analysis of the IEEE 802.11 Distributed Coordination Function (IEEE JSAC 18(3), 2000).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.draws import keyed_uniform, stream_key
from channels.registry import Within
from channels.scheduling.problem import IDLE, Scheduler, SlotTask
from channels.units import dbm_to_watt

_ROUNDING = 1e-9
"""Above the relative error of a sum of a million powers."""


def csma_scheduler(
    window: Annotated[int, Within(ge=1, le=2**16)] = 16,
    doublings: Annotated[int, Within(ge=0, le=16)] = 6,
    sense_dbm: Annotated[float, Within(ge=-300, le=300)] = -82.0,
) -> Scheduler:
    """Make the scheduler.

    Args:
        window: Back-offs W of a first attempt, from 0 idle slots to W - 1 (16 in 802.11a).
        doublings: Most doublings m of the window.
        sense_dbm: Carrier-sense threshold in dBm (-82 dBm in 802.11a).

    Returns:
        The scheduler.
    """
    rule = partial(
        select, window=int(window), doublings=int(doublings), sense_w=float(dbm_to_watt(sense_dbm))
    )
    return Scheduler(
        "csma", rule, spreads=True, keeps_threshold=False, knows_slot=False, needs="links", may_wait=True
    )


def select(task: SlotTask, window: int, doublings: int, sense_w: float) -> list[IntArray]:
    """Count idle slots down, or choose who sends (see `Scheduler.select`).

    Args:
        task: What waits; its memory holds each sender's transfer, failures and count.
        window: Back-offs of a first attempt.
        doublings: Most doublings of the window.
        sense_w: Carrier-sense threshold in W.
    """
    head = _contend(task, window, doublings)
    count = {source: task.memory[source][2] for source in head}
    if min(count.values()) == 0:
        return [_on_air(task, head, count, sense_w)]
    # Slots that nobody uses pass together, up to where somebody else may join.
    idle = min(min(count.values()), max(1, math.ceil(min(task.quiet_s, 1e6) / task.radio.slot_s)))
    for source in head:
        task.memory[source][2] -= idle
    task.memory[IDLE] = [idle]
    return [np.full(task.units, -1, dtype=np.int64)]


def _contend(task: SlotTask, window: int, doublings: int) -> dict[int, int]:
    """Sender -> the unit it has at hand, the first that waits; another one, or another failure, draws a new count."""
    radio = task.radio
    source, first = np.unique(task.source, return_index=True)
    head = dict(zip(source.tolist(), first.tolist(), strict=True))
    key = stream_key(radio.seed, "csma", radio.round_index, task.slot)
    draw = keyed_uniform(key, source, task.destination[task.first_row[first]], ordered=True)
    for place, (sender, unit) in enumerate(head.items()):
        at_hand = (int(task.first_transfer[unit]), int(task.tries[unit]))
        known = task.memory.get(sender)
        if known is None or (known[0], known[1]) != at_hand:
            size = window * 2 ** min(at_hand[1], doublings)
            task.memory[sender] = [*at_hand, int(draw[place] * size)]
    return head


def _on_air(task: SlotTask, head: dict[int, int], count: dict[int, int], sense_w: float) -> IntArray:
    """Sub-channel of each unit: of those whose count is 0, and of those whose count ends while they hear nobody.

    A sender that hears nobody and whose count is longer than the slot counts down through it.
    """
    radio = task.radio
    band = np.full(task.units, -1, dtype=np.int64)
    busy, sending = (np.zeros(radio.power_w.shape[0], dtype=bool) for _ in range(2))
    heard_w: FloatArray = np.zeros(radio.power_w.shape[0])
    length_s = 0.0
    for source in sorted(count, key=lambda s: (count[s], s)):
        unit = head[source]
        to = int(task.destination[task.first_row[unit]])
        if count[source] > 0 and _hears(task, source, sending, heard_w, sense_w):
            task.memory[source][2] -= 1
            continue
        if count[source] * radio.slot_s >= length_s > 0.0:
            task.memory[source][2] -= int(length_s / radio.slot_s)
            continue
        if busy[source] or sending[to]:
            continue
        band[unit] = 0
        sending[source] = busy[to] = True
        _add_heard(task, source, heard_w)
        snr = task.signal_w[task.first_row[unit]] / radio.noise_w[to]
        length_s = max(length_s, float(task.bits[unit] / radio.law.chosen_rate(snr)))
    return band


def _add_heard(task: SlotTask, source: int, heard_w: FloatArray) -> None:
    """Add the mean power in W of a sender at all that are near it."""
    near = task.radio.near
    row = slice(int(near.indptr[source]), int(near.indptr[source + 1]))
    heard_w[near.index[row]] += task.radio.power_w[source] * near.out_gain[row]


def _hears(task: SlotTask, device: int, sending: BoolArray, heard_w: FloatArray, sense_w: float) -> bool:
    """Whether the mean power of the devices on air reaches the threshold at a device.

    Where what was added one by one cannot tell, the correctly rounded sum does, which hangs on no order.
    """
    if abs(heard_w[device] - sense_w) > _ROUNDING * sense_w:
        return bool(heard_w[device] > sense_w)
    near = task.radio.near
    row = slice(int(near.indptr[device]), int(near.indptr[device + 1]))
    on_air = np.flatnonzero(sending[near.index[row]])
    from_w: FloatArray = task.radio.power_w[near.index[row][on_air]] * near.in_gain[row][on_air]
    return math.fsum(from_w.tolist()) >= sense_w
