"""`coloring`: greedy colouring of the protocol-model conflict graph, SINR checked afterwards.

Two links conflict when they share a device or when one's sender is closer to the other's receiver than
`conflict_factor` times the other's length. Colours are given in Welsh-Powell order. Links of a colour that
break their SINR bound together are taken out, weakest first, and queue again. Colours that hold the links of most
worth, and of these the longest neglected ones, are sent first.

Source:
    Gupta and Kumar, The Capacity of Wireless Networks (2000), protocol model; Welsh and Powell (1967).
"""

from __future__ import annotations

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.scheduling.problem import (
    LinkMatrix,
    Scheduler,
    SlotTask,
    affectance,
    link_matrix,
    slots_from_numbers,
)


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slots (see `Scheduler.select`)."""
    links = link_matrix(task)
    conflict = links.conflict | _too_close(task, links)
    affect = affectance(task, links)
    slots = [_keep_bound(band, affect) for band in slots_from_numbers(welsh_powell(conflict))]
    slots = [band for band in slots if np.any(band >= 0)]
    weight = task.weight
    return sorted(
        slots, key=lambda band: (-float(weight[band >= 0].max()), -int(task.waited[band >= 0].max()))
    )


def welsh_powell(conflict: BoolArray) -> IntArray:
    """Greedy colouring, most conflicts first.

    Args:
        conflict: (U, U) symmetric adjacency.

    Returns:
        (U,) colours from 0; neighbours differ.
    """
    n = conflict.shape[0]
    color = np.full(n, -1, dtype=np.int64)
    for v in np.argsort(-conflict.sum(axis=1), kind="stable"):
        taken = np.zeros(n + 1, dtype=bool)
        taken[color[conflict[v]]] = True
        taken[-1] = False
        color[v] = int(np.argmin(taken[:n]))
    return color


def _too_close(task: SlotTask, links: LinkMatrix) -> BoolArray:
    radio = task.radio
    if radio.positions_m is not None:
        place = radio.positions_m
        apart: FloatArray = np.linalg.norm(place[task.source][:, None] - place[task.destination], axis=2)
    else:
        power = radio.power_w[task.source][:, None]
        with np.errstate(divide="ignore"):
            apart = (links.received_w / power) ** (-1.0 / radio.exponent)
    close = apart < radio.conflict_factor * np.diagonal(apart)
    np.fill_diagonal(close, False)
    return close | close.T


def _keep_bound(band: IntArray, affect: FloatArray) -> IntArray:
    kept = band.copy()
    while True:
        members = np.flatnonzero(kept >= 0)
        load = affect[np.ix_(members, members)].sum(axis=0)
        if members.size < 2 or load.max() <= 1.0:
            return kept
        kept[members[int(np.argmax(load))]] = -1


COLORING = Scheduler("coloring", select)
