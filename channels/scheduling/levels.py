"""Physics of one slot: SINR of every reception, what is decoded, rates and controlled powers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.draws import keyed_uniform
from channels.link import lowest_rate_bps, packet_success_probability, rate_bps
from channels.power import foschini_miljanic
from channels.scheduling.problem import Radio, SlotTask

_NO_TABLE = np.zeros((1, 2))


@dataclass(frozen=True)
class SlotFading:
    """Fading of one slot, as the compiled loops take it (see `channels.kernels.fading_factor`).

    Attributes:
        time: Time in decorrelation times, or below 0 for a fresh draw.
        kind: 0 none, 1 Rayleigh, 2 Rician, 3 by quantile table.
        shape: Linear K of Rician.
        table: (1, points) ln quantiles over the standard normal from -8 to 8.
        key: Key of the slot's draws.
        success_key: Key of the packet-error draws.
    """

    time: float = -1.0
    kind: int = 0
    shape: float = 0.0
    table: FloatArray = field(default_factory=lambda: _NO_TABLE)
    key: int = 0
    success_key: int = 0


def slot_levels(
    task: SlotTask,
    band: IntArray,
    *,
    fading: SlotFading | None = None,
    power_w: FloatArray | None = None,
) -> tuple[IntArray, FloatArray]:
    """SINR of every reception of a slot.

    Args:
        task: The task.
        band: (U,) sub-channel of each unit, -1 outside the slot.
        fading: The slot's fading; None takes mean gains.
        power_w: (N,) powers in W; None takes the radio's own.

    Returns:
        Row indices of the task, and their linear SINR.
    """
    from channels import kernels

    radio = task.radio
    power = radio.power_w if power_w is None else power_w
    faded = SlotFading() if fading is None else fading
    unit = task.row_unit
    rows = np.flatnonzero(band[unit] >= 0)
    inside = np.flatnonzero(band >= 0)
    # One byte per device: the loop over near lists reads it at random, and it should stay in cache.
    sending = np.full(radio.power_w.shape[0], -1, dtype=np.int8)
    sending[task.source[inside]] = band[inside]
    far = far_field(task, band, power)
    destination = task.destination[rows]
    floor = radio.noise_w[destination] + (far[band[unit[rows]], destination] if far is not None else 0.0)
    near = radio.near
    sinr = kernels.slot_sinr(
        task.source[unit[rows]], destination, band[unit[rows]], task.gain[rows], floor, sending, power,
        near.indptr, near.index, near.in_gain, faded.time, faded.kind, faded.shape, faded.table,
        np.uint64(faded.key),
    )  # fmt: skip
    return rows, sinr


def far_field(task: SlotTask, band: IntArray, power_w: FloatArray) -> FloatArray | None:
    """Far interference per sub-channel and device, (subchannels, N) in W; None without a far field."""
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

    Args:
        task: The task, with unicast units.
        band: (U,) sub-channel of each unit, -1 outside the slot.

    Returns:
        (N,) powers in W; devices that do not send keep their full power.
    """
    radio = task.radio
    power = radio.power_w.copy()
    for channel in range(radio.subchannels):
        units = np.flatnonzero(band == channel)
        if not units.size:
            continue
        src, dst = task.source[units], task.destination[units]
        cross = radio.near.matrix()[np.ix_(src, dst)]
        np.fill_diagonal(cross, task.gain[units])
        power[src] = foschini_miljanic(cross, radio.noise_w[dst], task.sinr_min[units], radio.power_w[src])
    return power


def decoded_rows(
    radio: Radio, sinr: FloatArray, source: IntArray, destination: IntArray, fading: SlotFading
) -> BoolArray:
    """Which receptions are decoded under the radio's error model, (rows,)."""
    if radio.errors == "none":
        return np.ones(sinr.shape, dtype=bool)
    if radio.errors == "chen":
        draw = keyed_uniform(fading.success_key, source, destination, ordered=True)
        return draw < packet_success_probability(sinr, radio.waterfall_db)
    return sinr >= radio.sinr_min * (1 - 1e-12)


def unit_rates(radio: Radio, units: int, unit: IntArray, sinr: FloatArray, decoded: BoolArray) -> FloatArray:
    """Rate of each unit: that of the worst receiver that decodes, or the lowest rate if none does."""
    worst = np.full(units, np.inf)
    np.minimum.at(worst, unit[decoded], sinr[decoded])
    lowest = lowest_rate_bps(radio.rate, radio.sinr_min, radio.bandwidth_hz, radio.gap_db)
    rate = rate_bps(radio.rate, np.where(np.isfinite(worst), worst, 0.0), radio.bandwidth_hz, radio.gap_db)
    return np.where(np.isfinite(worst), np.maximum(rate, lowest), lowest)
