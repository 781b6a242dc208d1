"""Spreads the links of one slot over its sub-channels, for schedulers that fill one sub-channel after the other."""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.scheduling.problem import SlotTask, link_matrix, subset

_SWEEPS = 4
_TIE_WEIGHT = 1e-6


def balanced(task: SlotTask, band: IntArray) -> IntArray:
    """Move links between the sub-channels of one slot while that shortens the time they take together.

    Filled one after the other, the first sub-channels carry most links and the last ones hardly any. A link moves to
    the sub-channel where the sum of all links' times falls most, and of those alike to the one of fewest links. Every
    link keeps its SINR bound, or what it had
    where that was less. The slot's links stay the same.

    Args:
        task: The task.
        band: (U,) sub-channel of each unit, -1 outside the slot.

    Returns:
        (U,) sub-channels, -1 for the same units as before; unchanged where a unit has several receivers or the near
        list is cut off.
    """
    if task.first_row[-1] != task.units or not task.radio.near.complete:
        return band
    members = np.flatnonzero(band >= 0)
    counts = np.bincount(band[members], minlength=task.radio.subchannels)
    if counts.max(initial=0) < 2:
        return band
    inside = subset(task, members)
    links = link_matrix(inside)
    signal_w, cross_w = np.diagonal(links.received_w), links.received_w.copy()
    np.fill_diagonal(cross_w, 0.0)
    place = band[members].copy()
    # (sub-channels, members): noise and interference each member's receiver has or would have there.
    level_w = np.stack(
        [links.noise_w + cross_w[place == c].sum(axis=0) for c in range(task.radio.subchannels)]
    )
    least = np.minimum(inside.sinr_min, signal_w / level_w[place, np.arange(members.size)]) * (1 - 1e-9)
    for _ in range(_SWEEPS):
        before = place.copy()
        for one in range(members.size):
            _move(inside, one, place, level_w, signal_w, links.noise_w, cross_w, least)
        if np.array_equal(before, place):
            break
    out = band.copy()
    out[members] = place
    return out


def _move(
    task: SlotTask, one: int, place: IntArray, level_w: FloatArray, signal_w: FloatArray, noise_w: FloatArray,
    cross_w: FloatArray, least: FloatArray,
) -> None:  # fmt: skip
    """Move one member to its best sub-channel, in `place` and `level_w`."""
    here = int(place[one])

    def time_s(who: IntArray, level: FloatArray) -> float:
        sinr = signal_w[who] / level
        if np.any(sinr < least[who]):
            return np.inf
        # A link that practically never decodes must not drown what the others gain.
        most_s = 100 * task.bits[who] / task.radio.law.lowest_bps
        return float(np.minimum(task.radio.law.expected_s(task.bits[who], sinr), most_s).sum())

    mates = np.flatnonzero((place == here) & (np.arange(place.size) != one))
    itself = np.asarray([one])
    # A level is summed anew: subtracting would leave the rounding of a strong signal behind.
    freed_w = noise_w + cross_w[mates].sum(axis=0)
    without = time_s(mates, freed_w[mates])
    now = time_s(mates, level_w[here, mates]) + time_s(itself, level_w[here, itself])
    best, best_gain = here, 1e-9 * now
    for there in range(level_w.shape[0]):
        if there == here:
            continue
        others = np.flatnonzero(place == there)
        joined = time_s(others, level_w[there, others] + cross_w[one, others]) + time_s(
            itself, level_w[there, itself]
        )
        gain = now - without - joined + time_s(others, level_w[there, others])
        gain += _TIE_WEIGHT * float(task.alone_s[one]) * (mates.size - others.size)
        if gain > best_gain:
            best, best_gain = there, gain
    if best == here:
        return
    level_w[here] = freed_w
    level_w[best] += cross_w[one]
    place[one] = best
