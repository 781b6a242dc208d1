"""Runs slots until every transfer is delivered or lost.

One slot is one set of simultaneous transmissions. All start together; each carries its whole payload at the
rate its SINR in this slot allows; the slot ends with its longest one. Every SINR counts all the slot's other
transmissions on the sub-channel as active throughout, which is exact for the longest and cautious for the
others.

Attempts: an attempt is one transmission towards one receiver. With `outage` it succeeds iff its SINR, fading
included, reaches the threshold; the sender adapts its rate to that SINR. An attempt that fails was made at
the lowest rate (that of the threshold) and costs its full time and energy. A transfer that failed
`max_attempts` times is lost. A transmission still on air at the deadline is cut there, and lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.energy import receive_energy_j, transmit_energy_j
from channels.scheduling.grouping import unit_bounds, unit_ids
from channels.scheduling.levels import (
    SlotFading,
    controlled_power,
    decoded_rows,
    far_field,
    slot_levels,
    unit_rates,
)
from channels.scheduling.problem import Radio, Scheduler, SlotTask, subset
from channels.transfers import DEAD, DELIVERED, FAILED, LATE, UNSERVED, Schedule, Transfers
from channels.units import BITS_PER_BYTE

_AVERAGE_SLOTS = 20.0


@dataclass(frozen=True)
class Request:
    """What an engine run is to serve.

    Attributes:
        transfers: The wanted transfers.
        gain: (M,) mean linear gain of each transfer's link.
        start_s: Time at which the round starts.
        ready_s: (N,) time from which each device can send.
        deadline_s: Time at which the round ends; inf for none.
        battery_j: (N,) battery left in J; devices at or below 0 neither send nor receive.
        fading: Gives the fading of a slot from its number and start time.
        max_slots: Most slots run.
    """

    transfers: Transfers
    gain: FloatArray
    start_s: float
    ready_s: FloatArray
    deadline_s: float
    battery_j: FloatArray
    fading: Callable[[int, float], SlotFading]
    max_slots: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What an engine run did.

    Attributes:
        schedule: The schedule.
        energy_j: (N,) radio energy of each device in J.
        battery_j: (N,) battery left in J, not below 0.
    """

    schedule: Schedule
    energy_j: FloatArray
    battery_j: FloatArray


class _State:
    """Mutable state of one run; lives only inside `run_slots`."""

    def __init__(self, radio: Radio, scheduler: Scheduler, request: Request) -> None:
        wanted = request.transfers
        count, devices = len(wanted), radio.power_w.shape[0]
        self.radio, self.scheduler, self.request = radio, scheduler, request
        self.unit = unit_ids(radio, scheduler, wanted, request.gain)
        # Transfers of one unit are made neighbours, so that units are runs of rows.
        self.order = np.argsort(self.unit, kind="stable")
        self.unit_bound = np.zeros(0)
        if scheduler.groups and count:
            self.unit_bound = unit_bounds(radio, wanted, request.gain, self.unit)
        self.pending = np.ones(count, dtype=bool)
        self.failures = np.zeros(count, dtype=np.int64)
        self.bits = wanted.payload_bytes.astype(np.float64) * BITS_PER_BYTE
        self.finished_s = np.full(count, np.nan)
        self.outcome = np.full(count, UNSERVED, dtype=np.int64)
        self.battery_j = request.battery_j.copy()
        self.energy_j = np.zeros(devices)
        self.average_bps = np.zeros(devices)
        self.far_w = np.zeros(devices)
        self.now_s, self.slot, self.transmissions = request.start_s, 0, 0
        self.airtime_s, self.last_end_s = 0.0, request.start_s
        self.parts: list[dict[str, np.ndarray]] = []


def run_slots(radio: Radio, scheduler: Scheduler, request: Request) -> Outcome:
    """Run slots until nothing is left to send.

    Args:
        radio: The physical side.
        scheduler: The scheduling rule.
        request: What is to be served.

    Returns:
        Schedule, energy and batteries.
    """
    state = _State(radio, scheduler, request)
    planned: list[tuple[IntArray, IntArray]] = []
    arrivals = np.unique(request.ready_s[np.unique(request.transfers.source)])
    planned_until = -math.inf
    while state.now_s < request.deadline_s and state.slot != request.max_slots:
        _retire_dead(state)
        # Ready devices are admitted with a tolerance for the rounding of times.
        rows = _waiting_rows(state)
        if not rows.size:
            later = arrivals[arrivals > state.now_s]
            if not later.size or not state.pending.any():
                break
            state.now_s = float(later[0])
            continue
        newly_ready = np.any((arrivals > planned_until) & (arrivals <= state.now_s))
        task, ids = _task(state, rows)
        if newly_ready or not planned:
            planned = [(ids, band) for band in _choose(scheduler, task)]
            planned_until = state.now_s
        chosen_ids, chosen_band = planned.pop(0)
        _run_slot(state, task, rows, _match(ids, chosen_ids, chosen_band))
    return _outcome(state)


def _retire_dead(state: _State) -> None:
    if np.isinf(state.battery_j).all():
        return
    dead = state.battery_j <= 0
    wanted = state.request.transfers
    lost = state.pending & (dead[wanted.source] | dead[wanted.destination])
    state.outcome[lost] = DEAD
    state.pending[lost] = False


def _waiting_rows(state: _State) -> IntArray:
    source = state.request.transfers.source
    waiting = state.pending & (state.request.ready_s[source] <= state.now_s)
    return state.order[waiting[state.order]]


def _task(state: _State, rows: IntArray) -> tuple[SlotTask, IntArray]:
    radio, wanted = state.radio, state.request.transfers
    unit = state.unit[rows]
    first = np.flatnonzero(np.concatenate(([True], unit[1:] != unit[:-1])))
    source = wanted.source[rows]
    gain = state.request.gain[rows]
    signal = radio.power_w[source] * gain
    snr = np.minimum.reduceat(signal / radio.noise_w[wanted.destination[rows]], first)
    # A link too weak for the margin bears interference as strong as the noise, but for the threshold.
    weak = np.where(snr >= radio.sinr_min, np.maximum(0.5 * snr, radio.sinr_min), 0.5 * snr)
    task = SlotTask(
        radio=radio,
        source=source[first],
        first_row=np.concatenate((first, [rows.size])).astype(np.int64),
        destination=wanted.destination[rows],
        gain=gain,
        signal_w=signal,
        sinr_min=np.minimum(radio.plan_min, weak),
        bits=state.bits[rows[first]],
        far_w=state.far_w,
        average_bps=state.average_bps,
        slot=state.slot,
        wanted=len(wanted),
    )
    if state.scheduler.groups:
        fast = np.minimum(state.unit_bound[unit[first]], snr * (1 - 1e-9))
        task.sinr_min[:] = np.maximum(task.sinr_min, fast)
    return task, unit[first]


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
    return [band]


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


@dataclass(frozen=True)
class _Air:
    """What one slot puts on the air: rows are receptions, units are transmissions."""

    transfer: IntArray
    unit: IntArray
    source: IntArray
    destination: IntArray
    sinr: FloatArray
    band: IntArray
    power_w: FloatArray
    rate: FloatArray
    duration: FloatArray
    carried: FloatArray
    complete: BoolArray
    in_time: BoolArray
    decoded: BoolArray


def _run_slot(state: _State, task: SlotTask, rows: IntArray, band: IntArray) -> None:
    state.slot += 1
    if not np.any(band >= 0):
        state.now_s += state.radio.slot_s
        return
    air = _transmit(state, task, rows, band)
    energy = _book_energy(state, task.units, air)
    _record(state, air, energy)
    _settle(state, air)
    used = air.duration[band >= 0]
    length = float(used.max())
    ok = air.decoded & air.in_time[air.unit]
    served = np.bincount(
        air.source[ok], weights=air.carried[air.unit[ok]], minlength=state.average_bps.shape[0]
    )
    if length > 0:
        state.average_bps += (served / length - state.average_bps) / _AVERAGE_SLOTS
    state.airtime_s += float(used.sum())
    state.now_s += length
    state.last_end_s = state.now_s
    if state.radio.far is not None:
        state.far_w = np.asarray(far_field(task, band, state.radio.power_w)).max(axis=0)


def _transmit(state: _State, task: SlotTask, rows: IntArray, band: IntArray) -> _Air:
    radio, scheduler = state.radio, state.scheduler
    fading = state.request.fading(state.slot - 1, state.now_s)
    controlled = radio.power_control != "fixed" and scheduler.keeps_threshold and not scheduler.groups
    power = controlled_power(task, band) if controlled else radio.power_w
    local, sinr = slot_levels(task, band, fading=fading, power_w=power)
    unit = task.row_unit[local]
    source, destination = task.source[unit], task.destination[local]
    decoded = decoded_rows(radio, sinr, source, destination, fading)
    rate = unit_rates(radio, task.units, unit, sinr, decoded)
    duration = np.where(band >= 0, task.bits / rate, 0.0)
    complete, carried = np.ones(task.units, dtype=bool), task.bits
    if scheduler.segments:
        good = np.unique(unit[decoded])
        length = float(duration[good].min() if good.size else duration[band >= 0].max())
        complete = duration <= length * (1 + 1e-12)
        # Whole bytes, and at least one is left, so that a part never claims to be the whole.
        part = np.floor(length * rate / BITS_PER_BYTE) * BITS_PER_BYTE
        carried = np.where(complete, task.bits, np.minimum(part, task.bits - BITS_PER_BYTE))
        duration = np.minimum(duration, length)
    left_s = state.request.deadline_s - state.now_s
    return _Air(
        transfer=rows[local],
        unit=unit,
        source=source,
        destination=destination,
        sinr=sinr,
        band=band,
        power_w=power[source],
        rate=rate,
        duration=np.minimum(duration, left_s),
        carried=carried,
        complete=complete,
        in_time=duration <= left_s,
        decoded=decoded,
    )


def _book_energy(state: _State, units: int, air: _Air) -> FloatArray:
    """Energy of each row: the sender's share and the receiver's; booked on both devices."""
    radio, duration = state.radio, air.duration[air.unit]
    receivers = np.bincount(air.unit, minlength=units)[air.unit]
    sent = transmit_energy_j(
        air.power_w,
        duration,
        amplifier_efficiency=radio.amplifier_efficiency,
        circuit_power_w=radio.circuit_power_w,
    )
    sent = sent / receivers
    heard = receive_energy_j(duration, receive_power_w=radio.receive_power_w)
    devices = state.energy_j.shape[0]
    spent = np.bincount(air.source, weights=sent, minlength=devices)
    spent += np.bincount(air.destination, weights=heard, minlength=devices)
    state.energy_j += spent
    state.battery_j = np.maximum(state.battery_j - spent, 0.0)
    return sent + heard


def _record(state: _State, air: _Air, energy: FloatArray) -> None:
    wanted, count = state.request.transfers, air.transfer.shape
    ids = np.unique(air.unit, return_inverse=True)[1].reshape(-1)
    with np.errstate(divide="ignore"):
        sinr_db = 10 * np.log10(air.sinr)
    state.parts.append(
        {
            "slot": np.full(count, state.slot - 1, dtype=np.int64),
            "source": wanted.source[air.transfer],
            "destination": wanted.destination[air.transfer],
            "sinr_db": sinr_db,
            "rate_bps": air.rate[air.unit],
            "start_s": np.full(count, state.now_s),
            "end_s": state.now_s + air.duration[air.unit],
            "payload_bytes": (air.carried[air.unit] / BITS_PER_BYTE).round().astype(np.int64),
            "attempts": state.failures[air.transfer] + 1,
            "delivered": air.decoded & (air.in_time & air.complete)[air.unit],
            "energy_j": energy,
            "transfer": air.transfer,
            "transmission": state.transmissions + ids.astype(np.int64),
            "subchannel": air.band[air.unit],
            "power_w": air.power_w,
            "decoded": air.decoded & air.in_time[air.unit],
        }
    )
    state.transmissions += int(ids.max(initial=-1)) + 1


def _settle(state: _State, air: _Air) -> None:
    ok = air.decoded & air.in_time[air.unit]
    complete, transfer = air.complete[air.unit], air.transfer
    done, failed = ok & complete, ~ok
    state.finished_s[transfer[done]] = state.now_s + air.duration[air.unit[done]]
    state.outcome[transfer[done]] = DELIVERED
    state.pending[transfer[done]] = False
    state.bits[transfer[ok]] -= np.where(complete[ok], 0.0, air.carried[air.unit[ok]])
    state.failures[transfer[failed]] += 1
    spent = failed & air.in_time[air.unit] & (state.failures[transfer] >= state.radio.max_attempts)
    state.outcome[transfer[spent]] = FAILED
    state.pending[transfer[spent]] = False


def _outcome(state: _State) -> Outcome:
    from channels.scheduling.tables import build_table

    limited = state.request.deadline_s < math.inf and state.slot != state.request.max_slots
    state.outcome[state.pending & (state.outcome == UNSERVED)] = LATE if limited else UNSERVED
    delivered = state.outcome == DELIVERED
    schedule = Schedule(
        table=build_table(state.parts),
        delivered=delivered,
        finished_s=state.finished_s,
        attempts=state.failures + delivered,
        outcome=state.outcome,
        end_s=state.last_end_s,
        airtime_s=state.airtime_s,
    )
    return Outcome(schedule, state.energy_j, state.battery_j)
