"""`broadcast`: one transmission serves all its receivers, at the rate of the worst one.

Units are (source, message) groups; feasible insertion with exact SINR at every receiver, which implies a
two-hop colouring of the devices since a slot gives each device one role. The units' SINR bounds are raised
so that their time on air adds up to no more than what their receivers would need one by one without any
interference: broadcast therefore never uses more airtime than link scheduling. Receivers that not even a
silent network would serve are sent to on their own, so they do not slow the others. Where every unit has one
receiver there is nothing to broadcast, and `greedy_sinr` schedules the links.
"""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.scheduling import greedy_sinr
from channels.scheduling.problem import Radio, Scheduler, SlotTask


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slots (see `Scheduler.select`)."""
    if task.first_row[-1] == task.units:
        return greedy_sinr.select(task)
    return [greedy_sinr.fill_by_bound(task)]


BROADCAST = Scheduler("broadcast", select, groups=True, saves_airtime=True, spreads=True)


def airtime_bound(radio: Radio, snr: FloatArray, bits: FloatArray, first_row: IntArray) -> FloatArray:
    """SINR bounds that keep broadcasting within the airtime of link scheduling.

    Alone on the air, unit u needs b_u = bits/R(weakest SNR), and its receivers one by one f_u = sum of
    bits/R(SNR). Each unit may take F·b_u with F = sum f / sum b >= 1, so all together take at most sum f,
    which no link schedule undercuts since interference only lowers rates.

    Args:
        radio: The physical side.
        snr: (R,) linear SNR of each row.
        bits: (U,) payload of each unit in bits.
        first_row: (U + 1,) first row of each unit.

    Returns:
        (U,) linear SINR, at most the weakest receiver's SNR; all 0 where every unit has one receiver.
    """
    units = first_row.shape[0] - 1
    if not units or first_row[-1] == units:
        return np.zeros_like(bits)
    rate = np.maximum(radio.law.goodput(snr), 1e-12)
    alone_s = bits / np.minimum.reduceat(rate, first_row[:-1])
    linkwise_s = bits * np.add.reduceat(1.0 / rate, first_row[:-1])
    factor = float(linkwise_s.sum() / alone_s.sum()) if alone_s.sum() > 0 else 1.0
    needed = np.minimum.reduceat(rate, first_row[:-1]) / factor
    bound = radio.law.mean_sinr_for(needed)
    return np.minimum(bound, np.minimum.reduceat(snr, first_row[:-1]) * (1 - 1e-9))
