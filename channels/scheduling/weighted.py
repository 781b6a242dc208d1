"""`max_weight` and `proportional_fair`: greedy maximisation of a weighted sum rate, slot by slot.

Averages of proportional fairness are kept over rounds. Every attempt carries its whole payload, as under the
other schedulers, so a failed one costs the same under all of them.

Source:
    Tassiulas and Ephremides, Stability Properties of Constrained Queueing Systems (1992); Kelly, Maulloo
    and Tan, Rate Control for Communication Networks (1998).
"""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.scheduling.problem import Scheduler, SlotTask, link_matrix


def select_max_weight(task: SlotTask) -> list[IntArray]:
    """Choose the slot with the largest sum of queue times rate (see `Scheduler.select`).

    A link's queue is what it is to carry now and what it was to carry in each round in a row without a turn,
    times its worth.
    """
    return [weighted_slot(task, task.bits * (1.0 + task.waited) * task.weight)]


def select_proportional_fair(task: SlotTask) -> list[IntArray]:
    """Choose the slot with the largest sum of rate over average rate (see `Scheduler.select`).

    Averages are a sender's; of its links, those count more that had no turn for some rounds, or
    are of more worth.
    """
    served = np.maximum(task.average_bps[task.source], 1.0)
    return [weighted_slot(task, (1.0 + task.waited) * task.weight / served)]


def weighted_slot(task: SlotTask, weight: FloatArray) -> IntArray:
    """Insert links one by one, each time the one that raises the weighted sum rate most.

    Every member keeps its SINR bound. It stops when no link raises the sum.

    Args:
        task: The task, with unicast units.
        weight: (U,) weights of the rates, >= 0.

    Returns:
        (U,) sub-channel 0 for members, -1 for the others.
    """
    law, links = task.radio.law, link_matrix(task)
    signal = np.diagonal(links.received_w)
    cross = links.received_w.copy()
    np.fill_diagonal(cross, 0.0)
    load = links.noise_w.copy()
    inside = np.zeros(task.units, dtype=bool)
    open_ = np.ones(task.units, dtype=bool)
    total = 0.0
    while open_.any():
        members = np.flatnonzero(inside)
        new = np.flatnonzero(open_)
        # (candidates, members): SINR of the members once each candidate has joined.
        joined = signal[members] / (load[members] + cross[np.ix_(new, members)])
        own = signal[new] / load[new]
        value = (law.goodput(joined) * weight[members]).sum(axis=1)
        value += law.goodput(own) * weight[new]
        slack = 1 - 1e-9
        keeps = (joined >= task.sinr_min[members] * slack).all(axis=1) & (own >= task.sinr_min[new] * slack)
        if not members.size:
            keeps[:] = True
        value = np.where(keeps, value, -np.inf)
        best = int(np.argmax(value))
        if not value[best] > total and members.size:
            break
        chosen, total = int(new[best]), float(value[best])
        inside[chosen] = True
        load += cross[chosen]
        # Interference only grows, so a link that broke a bound now never fits later.
        open_[new[~keeps]] = False
        open_[chosen] = False
        open_ &= ~links.conflict[chosen]
    return np.where(inside, 0, -1).astype(np.int64)


MAX_WEIGHT = Scheduler("max_weight", select_max_weight)
PROPORTIONAL_FAIR = Scheduler("proportional_fair", select_proportional_fair)
