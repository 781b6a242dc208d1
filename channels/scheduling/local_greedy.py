"""`local_greedy`: a distributed form of `greedy_sinr`, where each transmission decides by what its two ends can hear.

Transmissions have priorities that all who meet reckon alike: more worth first (`priority: information`), then more
rounds waited, then less time on air, then a keyed draw. In their order each takes the earliest slot, and in it the
first sub-channel, in which

- both of its ends are still free,
- its own SINR reaches its bound beside those who took that slot before and whom its receivers hear,
- and so do those earlier ones whose receivers hear it.

A device hears another one whose mean SNR at it reaches the threshold beta; whom it does not hear does not count, so
that interference from far away is left to the retries. That is FlashLinQ's rule (a link yields to those of higher
priority that it would disturb or that would disturb it) with exact sums in place of single ratios, and with the slots
announced instead of a contest before each slot; it takes one-hop reports and two announcements a transmission
(`channels.control`).

Departures: rates are chosen from the SINR of the slot, as under the other schedulers, which the receiver can measure
and tell; a slot's bound is the fixed one of `broadcast`, not the time that slots take.

Source:
    Wu, Tavildar, Shakkottai, Richardson, Li, Laroia and Jovicic, FlashLinQ: A Synchronous Distributed Scheduler for
    Peer-to-Peer Ad Hoc Networks (IEEE/ACM Transactions on Networking 21(4), 2013); the rule as remembered, not copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.draws import keyed_uniform, stream_key
from channels.scheduling.problem import Scheduler, SlotTask

_SLOTS_AHEAD = 64


@dataclass(frozen=True)
class _Places:
    """What devices know of the next slots; a place is a slot and a sub-channel.

    Attributes:
        busy: (slots, N) devices that have a role in the slot.
        heard_w: (places, N) power heard at each device from those who took the place.
        spare_w: (places, N) further power that a receiver in the place bears; inf elsewhere.
    """

    busy: BoolArray
    heard_w: FloatArray
    spare_w: FloatArray


def select(task: SlotTask) -> list[IntArray]:
    """Choose the next slots (see `Scheduler.select`); what finds no place within 64 of them waits."""
    radio, devices = task.radio, task.radio.power_w.shape[0]
    slots, parts = min(task.units, _SLOTS_AHEAD), task.radio.subchannels
    places = _Places(
        np.zeros((slots, devices), dtype=bool),
        np.zeros((slots * parts, devices)),
        np.full((slots * parts, devices), np.inf),
    )
    key = stream_key(radio.seed, "local-greedy", radio.round_index)
    draw = keyed_uniform(key, task.source, task.destination[task.first_row[:-1]], ordered=True)
    chosen = np.full((slots, task.units), -1, dtype=np.int64)
    for unit in np.lexsort((draw, task.alone_s, -task.waited, -task.weight)).tolist():
        place = _take(task, places, unit)
        if place >= 0:
            chosen[place // parts, unit] = place % parts
    return [row for row in chosen if np.any(row >= 0)] or [_first_alone(task)]


def _take(task: SlotTask, places: _Places, unit: int) -> int:
    """The first place that suits a unit, which it takes; -1 for none."""
    radio, source = task.radio, int(task.source[unit])
    rows = slice(int(task.first_row[unit]), int(task.first_row[unit + 1]))
    to, parts = task.destination[rows], radio.subchannels
    # Links too weak for their bound even alone bear nobody whom they hear.
    bears_w = task.signal_w[rows] / task.sinr_min[unit] - radio.noise_w[to]
    free = ~(places.busy[:, source] | places.busy[:, to].any(axis=1))
    near = radio.near
    around = slice(int(near.indptr[source]), int(near.indptr[source + 1]))
    power_w = radio.power_w[source] * near.out_gain[around]
    hearing = (power_w >= radio.sinr_min * radio.noise_w[near.index[around]]) & (near.index[around] != source)
    hearing &= ~np.isin(near.index[around], to)
    who, power_w = near.index[around][hearing], power_w[hearing]
    fits = np.repeat(free, parts) & np.all(places.heard_w[:, to] <= np.maximum(bears_w, 0.0), axis=1)
    fits &= np.all(power_w <= places.spare_w[:, who], axis=1)
    found = np.flatnonzero(fits)
    if not found.size:
        return -1
    place = int(found[0])
    places.busy[place // parts, [source, *to.tolist()]] = True
    places.heard_w[place, who] += power_w
    places.spare_w[place, who] -= power_w
    places.spare_w[place, to] = np.maximum(bears_w, 0.0) - places.heard_w[place, to]
    return place


def _first_alone(task: SlotTask) -> IntArray:
    band = np.full(task.units, -1, dtype=np.int64)
    band[0] = 0
    return band


LOCAL_GREEDY = Scheduler("local_greedy", select, groups=True, spreads=True, needs="hearing")
