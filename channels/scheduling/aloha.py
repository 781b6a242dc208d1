"""`aloha`: slotted random access; every waiting transfer is tried with probability p.

A device still has one role per slot: of transfers that share a device, the one drawn first goes. What is decoded
follows from the SINR: of equally strong transmissions that meet none is, so that G offered transmissions a slot give
G·exp(-G); a stronger one may survive (capture), under Rayleigh fading with chance 1/(1 + T) beside each equally strong
other one, so that G·exp(-G·T/(1 + T)) come through at an SINR threshold T.

By default a sender knows the mean SINR of its slot when it chooses its rate, as under the schedulers, though nobody
told it who else sends: an optimistic reading. With `blind` it knows its own link's SNR alone.

Source:
    Roberts, ALOHA Packet System with and without Slots and Capture (1975).
"""

from __future__ import annotations

import numpy as np

from channels.arrays import IntArray
from channels.draws import keyed_uniform, stream_key
from channels.scheduling.problem import Scheduler, SlotTask


def select(task: SlotTask) -> list[IntArray]:
    """Draw the next slot (see `Scheduler.select`); it may be empty."""
    radio = task.radio
    key = stream_key(radio.seed, "aloha", radio.round_index, task.slot)
    # Keyed by the link itself, so that a draw does not depend on who else waits.
    draw = keyed_uniform(key, task.source, task.destination, ordered=True)
    choice = keyed_uniform(stream_key(key, "band"), task.source, task.destination, ordered=True)
    band = np.full(task.units, -1, dtype=np.int64)
    busy = np.zeros(radio.power_w.shape[0], dtype=bool)
    for unit in np.argsort(draw, kind="stable"):
        if draw[unit] >= radio.aloha_probability:
            break
        pair = (task.source[unit], task.destination[unit])
        if not (busy[pair[0]] or busy[pair[1]]):
            busy[list(pair)] = True
            band[unit] = int(choice[unit] * radio.subchannels)
    return [band]


def aloha_scheduler(blind: bool = False) -> Scheduler:
    """Make the scheduler.

    Args:
        blind: Whether senders choose their rate from the SNR of their link, not knowing who else sends in the slot.

    Returns:
        The scheduler.
    """
    return Scheduler(
        "aloha",
        select,
        spreads=True,
        keeps_threshold=False,
        knows_slot=not blind,
        needs="links",
        may_wait=True,
    )
