"""Runs slots until every transfer is delivered or lost.

One slot is one set of simultaneous transmissions. All start together; each carries its whole payload at the
rate chosen for it beforehand, and ends by itself; the slot ends with its longest one. Every SINR counts all the
slot's other transmissions on the sub-channel as active throughout, which is exact for the longest and cautious
for the others. Under schedulers with fixed slots all slots have one length, and transmissions carry parts of
messages (`channels.scheduling.progress`). Who sends hears nothing in that slot.

Attempts: an attempt is one transmission towards one receiver. Its rate is chosen before its outcome is known
(see `channels.adaptation`); it succeeds iff its SINR, fading included, reaches what the rate needs, and it
costs its full time and energy either way. A transfer that failed `max_attempts` times is lost. A transmission
still on air at the deadline, or when a battery empties, is cut there: the bytes and energy really sent are
booked.

Order: transfers are taken by what they are (`channels.scheduling.ordering`), so no result depends on the order
of the input. A transfer that forwards another (`Transfers.after`) is released when that one was decoded.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.scheduling.air import run_slot
from channels.scheduling.balance import balanced
from channels.scheduling.grouping import unit_ids
from channels.scheduling.ordering import canonical_order, remaining_s
from channels.scheduling.problem import Radio, Scheduler, SlotTask, subset
from channels.scheduling.state import Outcome, Request, State
from channels.transfers import DELIVERED, LATE, OFF, UNSERVED, Schedule
from channels.units import BITS_PER_BYTE

__all__ = ["Outcome", "Request", "run_slots"]

LONGEST_SILENCE = 20_000
"""Empty answers in a row to the same waiting units, from which on a scheduler is taken never to choose one."""


def run_slots(radio: Radio, scheduler: Scheduler, request: Request) -> Outcome:
    """Run slots until nothing is left to send.

    Args:
        radio: The physical side.
        scheduler: The scheduling rule.
        request: What is to be served.

    Returns:
        Schedule, energy and batteries.

    Raises:
        ValueError: If the scheduler leaves all that waits unserved for `LONGEST_SILENCE` slots, and may not.
    """
    count = len(request.transfers)
    waited = np.zeros(count, dtype=np.int64) if request.waited is None else request.waited
    order = canonical_order(request.transfers, waited, request.order_key, _first(radio, scheduler, request))
    ordered = replace(
        request,
        transfers=request.transfers.permuted(order),
        gain=request.gain[order],
        waited=waited[order],
        worth=None if request.worth is None else request.worth[order],
        # The permuted loop shares its offsets with the request's, so that attempts take both further.
        loop=request.loop and replace(request.loop, link=request.loop.link[order]),
    )
    state = State(radio, scheduler, ordered)
    _serve(state)
    return _outcome(state, order)


def _first(radio: Radio, scheduler: Scheduler, request: Request) -> FloatArray | None:
    """(M,) what goes before all else, the least first: time with what waits for it, or worth, the most first."""
    if request.worth is not None:
        return -request.worth
    if not request.shortest_first or not len(request.transfers):
        return None
    wanted, groups = request.transfers, scheduler.groups and radio.multicast
    snr = radio.power_w[wanted.source] * request.gain / radio.noise_w[wanted.destination]
    alone_s = radio.law.expected_s(wanted.payload_bytes.astype(np.float64) * BITS_PER_BYTE, snr)
    return remaining_s(wanted, alone_s, unit_ids(radio, groups, wanted, request.gain))


def _serve(state: State) -> None:
    request, scheduler = state.request, state.scheduler
    planned: list[tuple[IntArray, IntArray]] = []
    silent_ids, silent_slots = np.empty(0, dtype=np.int64), 0
    arrivals = np.unique(request.ready_s[np.unique(request.transfers.source)])
    while state.now_s < request.deadline_s and not state.slots_over:
        state.retire_dead()
        rows = _waiting_rows(state)
        if not rows.size:
            later_s = _next_s(state, arrivals)
            if state.pending.any() and later_s > request.until_s:
                later_s = math.inf
            slots, later_s = state.next_slot(min(later_s, _retry_s(state)))
            if not state.pending.any() or later_s >= request.deadline_s:
                break
            state.slot += slots
            state.wait_until(later_s)
            continue
        task, ids = _task(state, rows, min(_next_s(state, arrivals), _retry_s(state)) - state.now_s)
        if not planned or not state.known[rows].all():
            planned = [(ids, band) for band in _choose(scheduler, _as_reported(request, task))]
            state.known[rows] = True
        chosen_ids, chosen_band = planned.pop(0)
        band = _match(ids, chosen_ids, chosen_band)
        if np.any(band >= 0):
            silent_slots = 0
            run_slot(state, task, rows, band)
        elif not np.any(chosen_band >= 0):
            silent_slots = silent_slots + 1 if np.array_equal(ids, silent_ids) else 1
            silent_ids = ids
            _check_silence(scheduler, ids, silent_slots)
            run_slot(state, task, rows, band)


def _check_silence(scheduler: Scheduler, waiting: IntArray, slots: int) -> None:
    """Refuse to wait for a scheduler that has chosen none of the same units for as many slots."""
    if slots < LONGEST_SILENCE or scheduler.may_wait:
        return
    raise ValueError(
        f"the scheduler {scheduler.name!r} chose none of {waiting.size} waiting units in {slots} slots in a row; a"
        " rule that waits says for how many slots in task.memory[IDLE], and one that may wait without end sets may_wait"
    )


def _next_s(state: State, arrivals: FloatArray) -> float:
    """When next a device is ready, or goes on or off; inf for never."""
    later = arrivals[arrivals > state.now_s]
    ready_s = float(later[0]) if later.size else math.inf
    presence = state.request.presence
    return ready_s if presence is None else min(ready_s, presence.next_change_s(state.now_s))


def _retry_s(state: State) -> float:
    """When next a transfer may be tried again whose feedback is under way; inf for never."""
    if not state.radio.feedback_delay_s:
        return math.inf
    later = state.not_before_s[state.pending & state.released]
    later = later[later > state.now_s]
    return float(later.min()) if later.size else math.inf


def _waiting_rows(state: State) -> IntArray:
    source = state.request.transfers.source
    waiting = state.pending & state.released & (state.request.ready_s[source] <= state.now_s)
    waiting &= state.not_before_s <= state.now_s
    if state.groups and state.progress.cut:
        waiting &= state.progress.at_hand(state.unit, state.pending)
    if state.request.presence is not None:
        on = state.request.presence.on_at(state.now_s)
        waiting &= on[source] & on[state.request.transfers.destination]
    return state.order[waiting[state.order]]


def _task(state: State, rows: IntArray, quiet_s: float) -> tuple[SlotTask, IntArray]:
    radio, wanted, worth = state.radio, state.request.transfers, state.request.worth
    unit = state.unit[rows]
    first = np.flatnonzero(np.concatenate(([True], unit[1:] != unit[:-1])))
    source = wanted.source[rows]
    gain = state.request.gain[rows]
    snr = np.minimum.reduceat(state.snr[rows], first)
    # A link too weak for the margin bears interference as strong as the noise, but for the threshold.
    weak = np.where(snr >= radio.sinr_min, np.maximum(0.5 * snr, radio.sinr_min), 0.5 * snr)
    task = SlotTask(
        radio=radio,
        source=source[first],
        first_row=np.concatenate((first, [rows.size])).astype(np.int64),
        destination=wanted.destination[rows],
        gain=gain,
        signal_w=radio.power_w[source] * gain,
        sinr_min=np.minimum(radio.plan_min, weak),
        bits=state.progress.left_bits[rows[first]],
        alone_s=np.maximum.reduceat(state.alone_s[rows], first),
        hopeless=np.logical_or.reduceat(state.hopeless[rows], first),
        hops_after=np.maximum.reduceat(state.hops_after[rows], first),
        waited=np.maximum.reduceat(state.waited[rows], first),
        worth=None if worth is None else np.maximum.reduceat(worth[rows], first),
        far_w=state.far_w,
        average_bps=state.average_bps,
        slot=state.slot,
        wanted=len(wanted),
        left_s=state.request.deadline_s - state.now_s,
        first_transfer=rows[first],
        tries=state.progress.lost[rows[first]],
        quiet_s=quiet_s,
        memory=state.memory,
        reservations=state.reservations,
    )
    if state.scheduler.saves_airtime:
        fast = np.minimum(state.unit_bound[unit[first]], snr * (1 - 1e-9))
        task.sinr_min[:] = np.maximum(task.sinr_min, fast)
    return task, unit[first]


def _as_reported(request: Request, task: SlotTask) -> SlotTask:
    """What the scheduler sees: gains between devices as they were reported, where they were."""
    if request.reported is None:
        return task
    return replace(task, radio=replace(task.radio, near=request.reported))


def _choose(scheduler: Scheduler, task: SlotTask) -> list[IntArray]:
    if scheduler.spreads or task.radio.subchannels == 1:
        return scheduler.select(task)
    band = np.full(task.units, -1, dtype=np.int64)
    busy = np.zeros(task.radio.power_w.shape[0], dtype=bool)
    for channel in range(task.radio.subchannels):
        blocked = busy[task.source] | np.logical_or.reduceat(busy[task.destination], task.first_row[:-1])
        left = np.flatnonzero(~blocked)
        if not left.size:
            break
        # One device has one role per slot, so each sub-channel is filled from the devices still free.
        chosen = left[scheduler.select(subset(task, left))[0] >= 0]
        band[chosen] = channel
        busy[task.source[chosen]] = True
        busy[task.destination[np.isin(task.row_unit, chosen)]] = True
    spread = balanced(task, band)
    return [np.where(spread >= 0, (spread + task.slot) % task.radio.subchannels, -1)]


def _match(ids: IntArray, chosen_ids: IntArray, band: IntArray) -> IntArray:
    if ids is chosen_ids or np.array_equal(ids, chosen_ids):
        return band
    inside = band >= 0
    place = np.searchsorted(ids, chosen_ids[inside])
    known = place < ids.size
    known[known] = ids[place[known]] == chosen_ids[inside][known]
    out = np.full(ids.shape[0], -1, dtype=np.int64)
    out[place[known]] = band[inside][known]
    return out


def _outcome(state: State, order: IntArray) -> Outcome:
    from channels.scheduling.tables import build_table

    limited = math.isfinite(state.request.deadline_s) and not state.slots_over
    left = state.pending & (state.outcome == UNSERVED)
    state.outcome[left] = LATE if limited else UNSERVED
    if state.request.presence is not None:
        on, wanted = state.request.presence.on_at(state.now_s), state.request.transfers
        state.outcome[left & ~(on[wanted.source] & on[wanted.destination])] = OFF
    place = np.empty_like(order)
    place[order] = np.arange(order.size, dtype=np.int64)
    for part in state.parts:
        part["transfer"] = order[part["transfer"]]
    delivered = state.outcome == DELIVERED
    schedule = Schedule(
        table=build_table(state.parts),
        delivered=delivered[place],
        finished_s=state.finished_s[place],
        attempts=(state.failures + delivered)[place],
        outcome=state.outcome[place],
        end_s=state.last_end_s,
        airtime_s=state.airtime_s,
    )
    return Outcome(
        schedule,
        state.energy_j,
        state.idle_energy_j,
        state.battery_j,
        state.average_bps,
        state.now_s,
        state.awaited > 0,
        state.state_energy_j,
        None if state.state_energy_j is None else state.silent_s,
    )
