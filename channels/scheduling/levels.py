"""Physics of one slot: SINR of every reception, what is decoded, rates and controlled powers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.blocklength import error_probability
from channels.decoding import carried_bps
from channels.draws import keyed_uniform, stream_key
from channels.link import packet_success_probability
from channels.power import foschini_miljanic
from channels.scheduling.problem import Radio, SlotTask
from channels.slot_fading import SlotFading
from channels.units import db_to_linear


@dataclass(frozen=True)
class SlotLevels:
    """The receptions of a slot.

    Attributes:
        rows: (receptions,) rows of the task.
        unit: (receptions,) unit of each.
        mean: (receptions,) linear SINR on mean gains.
        faded: (receptions,) linear SINR at the slot's start, fading included.
        floor_w: (receptions,) noise, far interference and interference from outside in this slot, in W.
        band: (receptions,) sub-channel of each.
    """

    rows: IntArray
    unit: IntArray
    mean: FloatArray
    faded: FloatArray
    floor_w: FloatArray
    band: IntArray


def slot_levels(task: SlotTask, band: IntArray) -> tuple[IntArray, FloatArray]:
    """SINR of every reception of a slot on mean gains.

    Args:
        task: The task.
        band: (U,) sub-channel of each unit, -1 outside the slot.

    Returns:
        Row indices of the task, and their linear SINR.
    """
    levels = mean_levels(task, band, SlotFading(), 0.0, task.radio.power_w, outside=False)
    return levels.rows, levels.mean


def mean_levels(
    task: SlotTask,
    band: IntArray,
    fading: SlotFading,
    now_s: float,
    power_w: FloatArray,
    *,
    outside: bool = True,
) -> SlotLevels:
    """SINR of every reception of a slot, on mean gains and with the fading at its start.

    Args:
        task: The task.
        band: (U,) sub-channel of each unit, -1 outside the slot.
        fading: The slot's fading.
        now_s: Its start in s.
        power_w: (N,) powers in W.
        outside: Whether the interference from outside is that of the slot, and not its mean.
    """
    unit = task.row_unit
    rows = np.flatnonzero(band[unit] >= 0)
    far = far_field(task, band, power_w)
    destination = task.destination[rows]
    floor = task.radio.noise_w[destination] + (far[band[unit[rows]], destination] if far is not None else 0.0)
    # Where what is heard follows from a transmission's length, only a genie asks for the fading at its start.
    fading_now = fading if fading.holds or task.radio.csi == "genie" else SlotFading()
    levels = SlotLevels(rows, unit[rows], floor, floor, floor, band[unit[rows]])
    mean, faded = _sinr(task, band, levels, fading_now, now_s, power_w, np.zeros(rows.size), 1)
    external = task.radio.external
    if outside and external is not None:
        now_w = external.floor_w(destination, fading, now_s)
        floor = np.maximum(floor - task.radio.noise_w[destination] + now_w, external.noise_w)
        levels = replace(levels, floor_w=floor)
        faded = _sinr(task, band, levels, fading_now, now_s, power_w, np.zeros(rows.size), 1)[1]
    return replace(levels, mean=mean, faded=faded)


def faded_levels(
    task: SlotTask,
    band: IntArray,
    levels: SlotLevels,
    fading: SlotFading,
    now_s: float,
    power_w: FloatArray,
    length_s: FloatArray,
) -> FloatArray:
    """(receptions,) linear SINR, fading included, over transmissions of the given lengths.

    Fresh fading holds for the whole slot. Fading in time and over frequency is sampled (`SlotFading.samples`).
    """
    if fading.holds or not length_s.size:
        return levels.faded
    samples = fading.samples(task.source[levels.unit], task.destination[levels.rows], length_s)
    return _sinr(task, band, levels, fading, now_s, power_w, length_s, samples)[1]


def _sinr(
    task: SlotTask,
    band: IntArray,
    levels: SlotLevels,
    fading: SlotFading,
    now_s: float,
    power_w: FloatArray,
    length_s: FloatArray,
    samples: int,
) -> tuple[FloatArray, FloatArray]:
    from channels import fading_kernels

    radio, near = task.radio, task.radio.near
    inside = np.flatnonzero(band >= 0)
    # One byte per device: the loop over near lists reads it at random, and it should stay in cache.
    sending = np.full(radio.power_w.shape[0], -1, dtype=np.int8)
    sending[task.source[inside]] = band[inside]
    gap = float(db_to_linear(radio.law.rule.gap_db))
    return fading_kernels.slot_sinr(
        task.source[levels.unit], task.destination[levels.rows], band[levels.unit], task.gain[levels.rows],
        levels.floor_w, sending, power_w, near.indptr, near.index, near.in_gain, now_s, length_s,
        fading.turns(samples), gap, *fading.law(1)[:-1],
    )  # fmt: skip


def far_field(task: SlotTask, band: IntArray, power_w: FloatArray) -> FloatArray | None:
    """Far interference of a slot, sub-channel by sub-channel.

    Args:
        task: The task of U units.
        band: (U,) sub-channel of each unit, -1 outside the slot.
        power_w: (N,) radiated powers in W.

    Returns:
        (subchannels, N) mean interference at each device in W; None without a far field.
    """
    radio = task.radio
    if radio.far is None:
        return None
    return np.stack(
        [
            radio.far.at_devices(task.source[band == channel], power_w[task.source[band == channel]])
            for channel in range(radio.subchannels)
        ]
    )


def controlled_power(task: SlotTask, band: IntArray) -> FloatArray:
    """Lowest powers that keep every unit's SINR bound on mean gains (Foschini-Miljanic), per sub-channel.

    A unit's bound is `SlotTask.sinr_min`, or what it has at full power where that is less. A unit with several
    receivers keeps it at all of them.

    Args:
        task: The task; its near list is complete.
        band: (U,) sub-channel of each unit, -1 outside the slot.

    Returns:
        (N,) powers in W; devices that do not send keep their full power.
    """
    radio = task.radio
    power = radio.power_w.copy()
    rows, full = slot_levels(task, band)
    unit = task.row_unit[rows]
    target = np.minimum(task.sinr_min[unit], full)
    for channel in range(radio.subchannels):
        here = np.flatnonzero(band[unit] == channel)
        if not here.size:
            continue
        source, destination = task.source[unit[here]], task.destination[rows[here]]
        cross = radio.near.matrix()[np.ix_(source, destination)]
        np.fill_diagonal(cross, task.gain[rows[here]])
        groups = np.unique(source, return_inverse=True)[1].reshape(-1)
        power[source] = foschini_miljanic(
            cross, radio.noise_w[destination], target[here], radio.power_w[source], group=groups
        )
    return power


def chosen_rates(
    radio: Radio,
    task: SlotTask,
    levels: SlotLevels,
    fading: SlotFading,
    now_s: float,
    reckoned: Callable[[FloatArray], FloatArray] | None = None,
    knows_slot: bool = True,
) -> FloatArray:
    """(U,) rate in bit/s of each unit, chosen before the outcome: that of its worst receiver.

    `mean` knows mean gains and the fading law; `delayed` the fading of its own link `csi_delay_s` ago, `estimated` what
    pilots tell of it, `perfect` the fading itself, each at mean interference and less a margin; `genie` the SINR of the
    attempt itself, but for receivers that cannot decode even the lowest rate, which it sends at the rate of the mean.
    For codes of finite length each takes the rate of the largest goodput at that SINR and length (`RateLaw.rate_for`).
    With an outer loop the rate is that of the SINR that it reckons with from what is known. Who does not know the
    slot's other senders takes the SNR for the SINR.
    """
    known, worst = levels.mean, np.full(task.units, np.inf)
    if not knows_slot:
        known = task.signal_w[levels.rows] / radio.noise_w[task.destination[levels.rows]]
    if radio.csi in ("delayed", "estimated", "perfect"):
        known = known * _known_fading(task, levels, fading, now_s)
    if reckoned is not None and radio.csi != "genie":
        np.minimum.at(worst, levels.unit, reckoned(known))
        return radio.law.rate(worst)
    if radio.csi == "mean":
        np.minimum.at(worst, levels.unit, known)
        return radio.law.rate_for(worst, task.bits)
    if radio.csi != "genie":
        np.minimum.at(worst, levels.unit, known)
        return radio.law.rate_for(worst / float(db_to_linear(radio.known_margin_db)), task.bits, known=True)
    able = levels.faded >= radio.law.needed_sinr(radio.law.lowest_bps) * (1 - 1e-12)
    np.minimum.at(worst, levels.unit[able], levels.faded[able])
    planned = np.full(task.units, np.inf)
    np.minimum.at(planned, levels.unit, levels.mean)
    reachable = radio.law.rate_for(worst, task.bits, known=True)
    return np.where(np.isfinite(worst), reachable, radio.law.rate_for(planned, task.bits))


def _known_fading(task: SlotTask, levels: SlotLevels, fading: SlotFading, now_s: float) -> FloatArray:
    """(receptions,) power of each link's own fading, as its sender knows it.

    From pilots it knows |h + e|², where e is complex normal of variance 1/(pilots·mean SINR): the least-squares
    estimate of a channel of power |h|² that holds while they last.
    """
    from channels import fading_kernels

    radio, source, destination = task.radio, task.source[levels.unit], task.destination[levels.rows]
    time_s = np.full(levels.rows.size, now_s - radio.csi_delay_s if radio.csi == "delayed" else now_s)
    power = np.empty(levels.rows.size)
    tones = fading.samples(source[:0], destination[:0], time_s[:0])
    for channel in np.unique(levels.band).tolist():
        here = np.flatnonzero(levels.band == channel)
        power[here] = fading_kernels.fading_factors(
            source[here], destination[here], time_s[here], *fading.law(tones, channel)
        )
    if radio.csi != "estimated":
        return power
    size, turn = (
        keyed_uniform(stream_key(fading.success_key, name), source, destination, ordered=True)
        for name in ("estimate-size", "estimate-turn")
    )
    error = np.sqrt(-np.log(size) / (radio.csi_pilots * levels.mean))
    return power + 2.0 * np.sqrt(power) * error * np.cos(2.0 * np.pi * turn) + error**2


def decoded_rows(
    radio: Radio,
    unit: IntArray,
    sinr: FloatArray,
    rate: FloatArray,
    bits: FloatArray,
    source: IntArray,
    destination: IntArray,
    fading: SlotFading,
) -> tuple[FloatArray, BoolArray]:
    """What an attempt comes to under the radio's error model.

    `outage`: decoded iff the SINR reaches what the rate needs. `chen`: where the SINR carries the rate, threshold or
    not, decoded with chance exp(-m/SINR). `finite_blocklength`: decoded with chance 1 - eps of one code as long as the
    message (`channels.blocklength`). `none`: always decoded, no faster than the SINR of the moment carries.

    Args:
        radio: The physical side.
        unit: (rows,) unit of each reception.
        sinr: (rows,) linear SINR, fading included.
        rate: (U,) chosen rates in bit/s.
        bits: (U,) lengths of the messages in bits.
        source: (rows,) sender.
        destination: (rows,) receiver.
        fading: The slot's fading; it keys the packet-error draws.

    Returns:
        (U,) rates in bit/s and (rows,) whether each reception is decoded.
    """
    law = radio.law
    if radio.errors == "none":
        capacity = np.full(rate.shape, np.inf)
        np.minimum.at(capacity, unit, carried_bps(law.rule, sinr))
        return np.minimum(rate, capacity), np.ones(sinr.shape, dtype=bool)
    if radio.errors == "chen":
        draw = keyed_uniform(fading.success_key, source, destination, ordered=True)
        within = sinr >= law.needed_sinr(rate)[unit] * (1 - 1e-9)
        return rate, within & (draw < packet_success_probability(sinr, radio.waterfall_db))
    if radio.errors == "finite_blocklength":
        draw = keyed_uniform(fading.success_key, source, destination, ordered=True)
        efficiency = law.carried(rate)[unit]
        gap = float(db_to_linear(law.rule.gap_db))
        return rate, draw < 1.0 - error_probability(sinr / gap, efficiency, bits[unit] / efficiency)
    return rate, sinr >= law.needed_sinr(rate)[unit] * (1 - 1e-9)
