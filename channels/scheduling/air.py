"""One slot on the air: rates chosen before, outcomes drawn after, energy and records."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.energy import receive_energy_j, transmit_energy_j
from channels.scheduling.levels import (
    SlotLevels,
    chosen_rates,
    controlled_power,
    decoded_rows,
    faded_levels,
    far_field,
    mean_levels,
)
from channels.scheduling.problem import IDLE, SlotTask
from channels.scheduling.state import State
from channels.slot_fading import SlotFading
from channels.transfers import DELIVERED, FAILED
from channels.units import BITS_PER_BYTE

_AVERAGE_SLOTS = 20.0


@dataclass(frozen=True)
class Air:
    """What one slot puts on the air: rows are receptions, units are transmissions.

    Attributes:
        transfer: (rows,) index of the transfer.
        unit: (rows,) unit of each row.
        source: (rows,) sender.
        destination: (rows,) receiver.
        sinr: (rows,) linear SINR, fading included.
        band: (U,) sub-channel of each unit, -1 outside the slot.
        power_w: (rows,) radiated power in W.
        rate: (U,) rate in bit/s.
        duration: (U,) seconds on the air, cut by the deadline or the sender's battery.
        heard: (rows,) seconds of reception, cut by the receiver's battery.
        bits: (U,) bits really sent.
        length: (U,) bits that were to be sent: the message's, or those of its part at hand.
        decoded: (rows,) whether all of them were decoded.
        complete: (rows,) whether they were received whole, decoded or not.
        last: (rows,) whether the receiver has the whole message with them.
    """

    transfer: IntArray
    unit: IntArray
    source: IntArray
    destination: IntArray
    sinr: FloatArray
    band: IntArray
    power_w: FloatArray
    rate: FloatArray
    duration: FloatArray
    heard: FloatArray
    bits: FloatArray
    length: FloatArray
    decoded: BoolArray
    complete: BoolArray
    last: BoolArray


def run_slot(state: State, task: SlotTask, rows: IntArray, band: IntArray) -> None:
    """Put one slot on the air and settle it: outcomes, energy, averages, records and the clock, all in `state`.

    Args:
        state: The state; it is taken further.
        task: What may be sent now, U units and R rows.
        rows: (R,) index of the transfer of each row.
        band: (U,) sub-channel of each unit, -1 outside the slot; a slot without units takes `slot_s`.
    """
    state.slot += 1
    deadline_s = state.request.deadline_s
    if not np.any(band >= 0):
        idle = state.memory.pop(IDLE, [1])[0]
        state.slot += idle - 1 if state.progress.cut else 0
        state.wait_until(min(state.now_s + state.radio.slot_s * idle, deadline_s))
        return
    air = transmit(state, task, rows, band)
    used = air.duration[band >= 0]
    length = float(used.max())
    feedback_s = max(0.0, min(state.radio.feedback_s, deadline_s - state.now_s - length))
    end_s = state.now_s + length + feedback_s
    if state.progress.cut:
        end_s = max(end_s, min(state.now_s + state.radio.slot_s, deadline_s))
    energy, busy = _book_energy(state, air, np.clip(_on_s(state) - length, 0.0, feedback_s))
    _record(state, air, energy)
    _settle(state, air, end_s)
    _average(state, air, end_s - state.now_s if state.progress.cut else length)
    # All answers share the band while they last.
    state.airtime_s += float(used.sum()) / state.radio.subchannels + feedback_s
    state.wait_until(end_s, busy)
    state.last_end_s = state.now_s
    if state.radio.far is not None:
        state.far_w = np.asarray(far_field(task, band, state.radio.power_w)).max(axis=0)


def transmit(state: State, task: SlotTask, rows: IntArray, band: IntArray) -> Air:
    """Choose rates from what the senders know, then draw what is decoded; nothing in `state` changes.

    Args:
        state: The state: clock, batteries, fading.
        task: What may be sent now, U units and R rows.
        rows: (R,) index of the transfer of each row.
        band: (U,) sub-channel of each unit, -1 outside the slot; at least one is in it.

    Returns:
        What is on the air, cut by the deadline and by batteries.
    """
    radio, scheduler = state.radio, state.scheduler
    fading = state.request.fading(state.slot - 1)
    controlled = radio.power_control != "fixed" and scheduler.keeps_threshold
    power = controlled_power(task, band) if controlled else radio.power_w
    levels = mean_levels(task, band, fading, state.now_s, power)
    unit, transfer = task.row_unit[levels.rows], rows[levels.rows]
    chosen = _chosen(state, task, levels, fading, transfer)
    rate = state.soft.rates(chosen, unit, transfer)
    length = state.progress.lengths(rate, task.first_transfer)
    full = np.where(band >= 0, length / rate, 0.0)
    sinr = faded_levels(task, band, levels, fading, state.now_s, power, full[unit])
    source, destination = task.source[unit], task.destination[levels.rows]
    # Who sends hears nothing.
    hears = ~_among(source, state)[destination]
    sinr = np.where(hears, sinr, 0.0)
    worth, decoded = state.soft.effective_sinr(sinr, rate[unit], transfer), np.zeros_like(hears)
    heard_by = (source[hears], destination[hears])
    rate, decoded[hears] = decoded_rows(radio, unit[hears], worth[hears], rate, length, *heard_by, fading)
    full = np.where(band >= 0, length / rate, 0.0)
    duration, heard = _cut(state, unit, source, destination, power, full)
    heard = np.where(hears, heard, 0.0)
    complete = (duration >= full)[unit] & (heard >= full[unit]) & hears
    decoded &= complete
    return Air(
        transfer=transfer,
        unit=unit,
        source=source,
        destination=destination,
        sinr=sinr,
        band=band,
        power_w=power[source],
        rate=rate,
        duration=duration,
        heard=heard,
        bits=np.where(duration >= full, length, _cut_bits(duration, rate, length)),
        length=length,
        decoded=decoded,
        complete=complete,
        last=decoded & (state.progress.left_bits[transfer] <= length[unit]),
    )


def _among(devices: IntArray, state: State) -> BoolArray:
    """(N,) whether each device is among the given ones."""
    among = np.zeros(state.battery_j.shape, dtype=bool)
    among[devices] = True
    return among


def _cut_bits(duration_s: FloatArray, rate_bps: FloatArray, length: FloatArray) -> FloatArray:
    """(U,) bits of transmissions that were cut: whole bytes of what they were to send, and not all of them."""
    part = np.floor(duration_s * rate_bps / BITS_PER_BYTE) * BITS_PER_BYTE
    return np.minimum(part, np.maximum(length - BITS_PER_BYTE, 0.0))


def _chosen(
    state: State, task: SlotTask, levels: SlotLevels, fading: SlotFading, transfer: IntArray
) -> FloatArray:
    """(U,) rate in bit/s of each unit: of what it sends as a whole, or of its part at hand."""
    loop, progress, first = state.request.loop, state.progress, task.first_transfer
    reckoned = None if loop is None else partial(loop.reckoned, transfer=transfer)
    knows_slot = state.scheduler.knows_slot
    chosen = chosen_rates(state.radio, task, levels, fading, state.now_s, reckoned, knows_slot)
    if progress.cut and state.radio.errors == "finite_blocklength":
        # A code is as long as the part, which is as long as the rate that was chosen for the message says.
        part = replace(task, bits=progress.lengths(chosen, first))
        chosen = chosen_rates(state.radio, part, levels, fading, state.now_s, reckoned, knows_slot)
    return progress.rates(chosen, first)


def _cut(
    state: State,
    unit: IntArray,
    source: IntArray,
    destination: IntArray,
    power_w: FloatArray,
    full_s: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """(U,) seconds on the air and (rows,) seconds of reception, cut by the deadline, batteries and who goes off."""
    radio, on_s = state.radio, _on_s(state)
    sent_w = power_w[source] / radio.draw.amplifier_efficiency + radio.draw.circuit_power_w
    life = np.full(full_s.shape, math.inf)
    life[unit] = np.minimum(state.battery_j[source] / sent_w, on_s[source])
    duration = np.minimum(np.minimum(full_s, state.request.deadline_s - state.now_s), life)
    with np.errstate(divide="ignore", invalid="ignore"):
        heard_at_most = state.battery_j[destination] / np.float64(radio.draw.receive_power_w)
    # 0 J over 0 W is no limit.
    heard = np.fmin(duration[unit], heard_at_most)
    return duration, np.minimum(heard, on_s[destination])


def _on_s(state: State) -> FloatArray:
    """(N,) for how long each device stays on from now, in s."""
    presence = state.request.presence
    if presence is None:
        return np.full(state.battery_j.shape, math.inf)
    return presence.off_after(state.now_s) - state.now_s


def _book_energy(state: State, air: Air, answer_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Energy of each row (the sender's share and the receiver's), and (N,) seconds each device was busy.

    All rows begin together, so a receiver is on for as long as the longest of its own and draws P_rx over that once.
    The answers that end the slot are sent by its receivers and heard by its senders, as far as batteries last and for
    the (N,) `answer_s` seconds that each device is still on.
    """
    radio, duration, devices = state.radio, air.duration[air.unit], state.energy_j.shape[0]
    receivers = np.bincount(air.unit, minlength=air.band.shape[0])[air.unit]
    sent = transmit_energy_j(
        air.power_w,
        duration,
        amplifier_efficiency=radio.draw.amplifier_efficiency,
        circuit_power_w=radio.draw.circuit_power_w,
    )
    sent = sent / receivers
    heard = receive_energy_j(_borne_s(air, devices), receive_power_w=radio.draw.receive_power_w)
    by_state = np.stack(
        [
            np.bincount(air.source, weights=sent, minlength=devices),
            np.bincount(air.destination, weights=heard, minlength=devices),
        ]
    )
    if answer_s.any():
        more_sent, more_heard = _answers(state, air, answer_s, by_state.sum(axis=0))
        by_state[1] += np.bincount(air.source, weights=more_sent, minlength=devices)
        by_state[0] += np.bincount(air.destination, weights=more_heard, minlength=devices)
        sent, heard = sent + more_sent, heard + more_heard
    spent = np.bincount(air.source, weights=sent, minlength=devices)
    spent += np.bincount(air.destination, weights=heard, minlength=devices)
    # What rounding adds beyond a battery's content is not spent; a battery that set the end is empty.
    spent = np.where(spent >= state.battery_j * (1 - 1e-12), state.battery_j, spent)
    spent = np.where(np.isfinite(spent), spent, 0.0)
    state.energy_j += spent
    state.battery_j = np.maximum(state.battery_j - spent, 0.0)
    if state.state_energy_j is not None:
        whole = by_state.sum(axis=0)
        state.state_energy_j[:2] += by_state * np.divide(spent, whole, out=np.zeros(devices), where=whole > 0)
    busy = np.zeros(devices)
    np.maximum.at(busy, air.destination, air.heard + answer_s[air.destination])
    np.maximum.at(busy, air.source, duration + answer_s[air.source])
    return sent + heard, busy


def _borne_s(air: Air, devices: int) -> FloatArray:
    """(rows,) seconds that each row bears, by its length, of those for which its receiver is on."""
    longest, total = np.zeros(devices), np.bincount(air.destination, weights=air.heard, minlength=devices)
    np.maximum.at(longest, air.destination, air.heard)
    most, of = longest[air.destination], total[air.destination]
    return air.heard * np.divide(most, of, out=np.zeros_like(of), where=of > 0)


def _answers(
    state: State, air: Air, answer_s: FloatArray, spent_j: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(rows,) energy of hearing the answers and of sending them, in J: a device's, once and alike among its rows.

    However many rows a device has, it is no longer on than the answers last, and spends no more than the (N,)
    `spent_j` joules of the slot so far have left in its battery.
    """
    radio, devices = state.radio, state.energy_j.shape[0]
    left = np.maximum(state.battery_j - spent_j, 0.0)
    listens = receive_energy_j(answer_s[air.source], receive_power_w=radio.draw.receive_power_w)
    listens = np.minimum(listens, left[air.source])
    answers = transmit_energy_j(
        radio.power_w[air.destination],
        answer_s[air.destination],
        amplifier_efficiency=radio.draw.amplifier_efficiency,
        circuit_power_w=radio.draw.circuit_power_w,
    )
    answers = np.where(
        _among(air.source, state)[air.destination], 0.0, np.minimum(answers, left[air.destination])
    )
    heard_by = np.bincount(air.source, minlength=devices)[air.source]
    return listens / heard_by, answers / np.bincount(air.destination, minlength=devices)[air.destination]


def _record(state: State, air: Air, energy: FloatArray) -> None:
    wanted, count = state.request.transfers, air.transfer.shape
    # Rows come unit by unit.
    ids = np.cumsum(np.diff(air.unit, prepend=air.unit[:1]) > 0)
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
            "payload_bytes": (air.bits[air.unit] / BITS_PER_BYTE).round().astype(np.int64),
            "attempts": state.failures[air.transfer] + 1,
            "delivered": air.last,
            "energy_j": energy,
            "transfer": air.transfer,
            "transmission": state.transmissions + ids,
            "subchannel": air.band[air.unit],
            "power_w": air.power_w,
            "decoded": air.decoded,
        }
    )
    state.transmissions += int(ids.max(initial=-1)) + 1


def _settle(state: State, air: Air, answered_s: float) -> None:
    done, failed, rate = air.transfer[air.last], air.transfer[~air.decoded], air.rate[air.unit]
    state.finished_s[done] = state.now_s + air.duration[air.unit[air.last]]
    state.failures[failed] += 1
    _learn(state, air)
    state.progress.settle(air.transfer, air.decoded, air.length[air.unit], rate)
    state.leave(done, DELIVERED)
    lost = air.complete & ~air.decoded
    state.soft.keep(air.sinr[lost], rate[lost], air.transfer[lost])
    state.soft.forget(air.transfer[air.decoded])
    state.not_before_s[failed] = answered_s + state.radio.feedback_delay_s
    whole = (air.bits >= air.length)[air.unit[~air.decoded]]
    spent = state.progress.spent(failed, state.bits[failed], state.radio.max_attempts)
    state.leave(failed[whole & spent], FAILED)


def _learn(state: State, air: Air) -> None:
    """Take the outer loop further by the attempts that were received whole; of combined ones by the first alone.

    Called before failures are counted in `state.progress`.
    """
    if state.request.loop is not None:
        first = state.progress.lost[air.transfer] == 0
        counted = air.complete & (first if state.radio.harq != "none" else True)
        state.request.loop.learn(air.transfer[counted], air.decoded[counted])


def _average(state: State, air: Air, length_s: float) -> None:
    if length_s > 0:
        served = np.bincount(
            air.source[air.decoded],
            weights=air.bits[air.unit[air.decoded]],
            minlength=state.average_bps.shape[0],
        )
        state.average_bps += (served / length_s - state.average_bps) / _AVERAGE_SLOTS
