"""Compiled choice of resources by sensing. Import only inside functions: this imports numba."""

from __future__ import annotations

import numpy as np

from channels.compiled import kernel

_STEP = 10.0**0.3
"""By how much the threshold is raised at a time: 3 dB."""


@kernel
def _listen(k, now, power_w, indptr, index, in_gain, told_slot, told_band, sent_slot, level):
    """Fill `level` (P, K) with the strongest mean power in W that device k heard announced for each resource."""
    period = level.shape[0]
    level[:] = 0.0
    for q in range(indptr[k], indptr[k + 1]):
        j = index[q]
        told = told_slot[j]
        place = told % period
        # Who sent when it was announced did not hear it.
        if told <= now or told > now + period or j == k or sent_slot[k, place] == told - period:
            continue
        level[place, told_band[j]] = max(level[place, told_band[j]], power_w[j] * in_gain[q])


@kernel
def _count(level, open_, limit):
    """Number of resources at the places of `open_` (P,) whose level does not exceed a limit."""
    count = 0
    for place in range(level.shape[0]):
        if open_[place]:
            for b in range(level.shape[1]):
                count += level[place, b] <= limit
    return count


@kernel
def _nth(level, open_, limit, now, wanted):
    """(slot, sub-channel) of the resource of that number among those that `_count` counts, in the order of time."""
    period = level.shape[0]
    for ahead in range(1, period + 1):
        place = (now + ahead) % period
        if open_[place]:
            for b in range(level.shape[1]):
                if level[place, b] <= limit:
                    if wanted == 0:
                        return now + ahead, b
                    wanted -= 1
    return now + period, 0


@kernel
def choose_resources(
    device, draw, now, memory, share, threshold_w, power_w, indptr, index, in_gain, told_slot, told_band, sent_slot,
    bands,
):  # fmt: skip
    """Resources that devices choose at the beginning of a slot (see `channels.scheduling.sidelink`).

    A resource is excluded for a device if another's announcement of it was heard and that one's mean power at the
    device exceeds the threshold, or if the device itself sent at that place of the period within `memory` slots, so
    that it could not listen there. Own places are forgiven where they leave less than the share of all resources; then
    the threshold is raised by 3 dB until the share is left. Of what is left each device takes one, all alike.

    Args:
        device: (C,) devices.
        draw: (C,) uniforms in (0, 1).
        now: Number of the slot; the P slots after it are chosen from.
        memory: Length of the sensing window in slots.
        share: Least share of the resources that stays, in (0, 1].
        threshold_w: Threshold in W.
        power_w: (N,) transmit powers in W.
        indptr: (N + 1,) start of each device's row in the near list.
        index: (entries,) other device.
        in_gain: (entries,) linear gain from the other to the row's device.
        told_slot: (N,) next slot that each device has announced.
        told_band: (N,) its sub-channel.
        sent_slot: (N, P) slot in which each device last sent at each place of the period.
        bands: Number of sub-channels K.

    Returns:
        (C,) slot, (C,) sub-channel, (C,) threshold in the end in W, and (C,) number of resources left.
    """
    period = sent_slot.shape[1]
    slot, band = np.empty(device.shape[0], np.int64), np.empty(device.shape[0], np.int64)
    raised, left = np.empty(device.shape[0]), np.empty(device.shape[0], np.int64)
    level, open_ = np.empty((period, bands)), np.empty(period, np.bool_)
    least = share * period * bands * (1.0 - 1e-12)
    for c in range(device.shape[0]):
        k = device[c]
        _listen(k, now, power_w, indptr, index, in_gain, told_slot, told_band, sent_slot, level)
        for place in range(period):
            open_[place] = sent_slot[k, place] < now - memory
        if open_.sum() * bands < least:
            open_[:] = True
        limit, count = threshold_w, _count(level, open_, threshold_w)
        while count < least:
            limit *= _STEP
            count = _count(level, open_, limit)
        raised[c], left[c] = limit, count
        slot[c], band[c] = _nth(level, open_, limit, now, min(np.int64(draw[c] * count), count - 1))
    return slot, band, raised, left
