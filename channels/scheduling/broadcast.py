"""`broadcast`: one transmission serves all its receivers, at the rate of the worst one.

Units are (source, message) groups; feasible insertion with exact SINR at every receiver, which implies a
two-hop colouring of the devices since a slot gives each device one role. A unit's SINR bound is raised so
that its time on air never exceeds what its receivers would need one by one without any interference:
broadcast therefore never uses more airtime than link scheduling. Receivers that not even a silent network
would serve are sent to on their own, so they do not slow the others.
"""

from __future__ import annotations

import numpy as np

from channels.arrays import IntArray
from channels.scheduling.greedy_sinr import peel_slot
from channels.scheduling.problem import Scheduler, SlotTask


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slot (see `Scheduler.select`)."""
    return [peel_slot(task)]


BROADCAST = Scheduler("broadcast", select, groups=True, spreads=True)


def interference_free_bound(task: SlotTask) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """SINR each unit needs to be as fast as its receivers one by one without interference.

    Args:
        task: The task, with the plain SINR bounds.

    Returns:
        (U,) linear SINR: the inverse rate of 1 / sum over receivers of 1/R(SNR), never above the
        weakest receiver's SNR.
    """
    from channels.link import rate_bps, sinr_for_rate

    radio = task.radio
    snr = task.signal_w / radio.noise_w[task.destination]
    rate = np.maximum(rate_bps(radio.rate, snr, radio.bandwidth_hz, radio.gap_db), 1e-12)
    needed = 1.0 / np.add.reduceat(1.0 / rate, task.first_row[:-1])
    bound = sinr_for_rate(radio.rate, needed, radio.bandwidth_hz, radio.gap_db)
    return np.minimum(bound, np.minimum.reduceat(snr, task.first_row[:-1]) * (1 - 1e-9))
