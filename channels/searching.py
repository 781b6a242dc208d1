"""How far pairs of devices have to be looked for where walls, blockers and antennas part their gains.

One distance for all pairs would look as far between two devices deep inside buildings as between two on the street,
although hardly any such pair is strong there. Devices are therefore of `KINDS` kinds by what their surroundings let
through, and pairs of two kinds are looked for up to where fewer than a share of them reach the bound. The share is the
largest with which, over all kinds and distances, at most a given share of strong pairs lies beyond: with the same
number of pairs missed, no other distances look at fewer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.largescale import LargeScale, state_gains
from channels.shadowing import Sites

KINDS = 6
_PARTS = 8
_SHARED_BUILDINGS = 10.0


@dataclass(frozen=True)
class Search:
    """Up to where pairs are looked for.

    Attributes:
        kind: (N,) kind of each device.
        radius_m: (kinds, kinds) distance in m for pairs of two kinds.
        distance_m: (bins,) distances in m, and
        beyond: (bins,) mean gain there of pairs that reach the bound and are not looked for.
    """

    kind: IntArray
    radius_m: FloatArray
    distance_m: FloatArray
    beyond: FloatArray


def search_by_kind(
    scale: LargeScale, sites: Sites, distance_m: FloatArray, pairs_each: FloatArray, min_gain: float,
    most_missed: float, most_seen: float,
) -> Search:  # fmt: skip
    """Find the distances.

    Args:
        scale: The tabulated model; walls, blockers or antennas surround its devices.
        sites: Where the devices are.
        distance_m: (bins,) distances in m, ascending.
        pairs_each: (bins,) mean number of other devices of a device in each bin.
        min_gain: The bound, linear.
        most_missed: Strong pairs of a device that may be missed, on average.
        most_seen: Pairs of a device that may be looked at, on average; counts more than the other.

    Returns:
        The kinds, with equally many devices each, and their distances; those are no shorter than ten sizes of a
        building, since no wall is between two devices in one.
    """
    assert scale.around is not None
    kind, levels = _kinds(sites)
    number = levels.shape[0]
    first, second = np.triu_indices(number)
    size = np.bincount(kind, minlength=number) / kind.size
    share = size[first] * size[second] * np.where(first == second, 1.0, 2.0)
    chance, gain = _strong(
        scale, distance_m, levels[first][:, :, None] + levels[second][:, None, :], min_gain
    )
    pairs = share[:, None] * pairs_each
    # Cells of (pair of kinds, distance), those first of whose pairs most are strong.
    order = np.argsort(-chance.ravel(), kind="stable")
    missed = (pairs * chance).ravel()[order][::-1].cumsum()[::-1]
    seen = pairs.ravel()[order].cumsum()
    taken = int(np.argmax((missed <= most_missed) | (seen >= most_seen)))
    enough = (missed <= most_missed) | (seen >= most_seen)
    least = float(chance.ravel()[order[taken]]) if enough.any() else 0.0
    last = np.array([int(np.flatnonzero(row >= least)[-1]) if (row >= least).any() else 0 for row in chance])
    shared_m = _SHARED_BUILDINGS * scale.around.building_m if sites.local[1].size else 0.0
    found = np.maximum(distance_m[last], min(shared_m, float(distance_m[-1])))
    radius_m = np.zeros((number, number))
    radius_m[first, second] = radius_m[second, first] = found
    outside = distance_m >= found[:, None]
    return Search(kind, radius_m, distance_m, (share[:, None] * gain * outside).sum(axis=0))


def _kinds(sites: Sites) -> tuple[IntArray, FloatArray]:
    """(N,) kind of each device by its mean gain, and (kinds, parts) ln gains that its kind's devices have alike."""
    _, wall, toward, _ = sites.local
    device: IntArray = np.arange(max(wall.size, toward.shape[0]), dtype=np.int64)
    own = wall if wall.size else np.zeros(device.size)
    mean = own
    if toward.size:
        mean = own + np.log(np.exp(toward).mean(axis=1, dtype=np.float64))
        own = own + toward[device, device * 89 % toward.shape[1]]
    kinds = min(KINDS, device.size)
    kind = np.empty(device.size, dtype=np.int64)
    kind[np.argsort(mean, kind="stable")] = device * kinds // device.size
    parts = [np.array_split(np.sort(own[kind == one]), _PARTS) for one in range(kinds)]
    levels = [[float(part.mean()) if part.size else float(np.mean(row[0])) for part in row] for row in parts]
    return kind, np.asarray(levels)


def _strong(
    scale: LargeScale, distance_m: FloatArray, offsets: FloatArray, min_gain: float
) -> tuple[FloatArray, FloatArray]:
    """(pairs of kinds, bins) chance that a pair reaches a bound, and E[G·1(G >= bound)] of its gain."""
    from scipy.special import ndtr

    offset = offsets.reshape(offsets.shape[0], -1)[:, :, None]
    chance: FloatArray = np.zeros((offsets.shape[0], distance_m.size))
    gain: FloatArray = np.zeros_like(chance)
    for weight, log_gain, sigma in state_gains(scale, distance_m):
        middle, spread = log_gain + offset, max(sigma, 1e-12)
        above = (middle - math.log(min_gain)) / spread
        chance += weight * np.asarray(ndtr(above)).mean(axis=1)
        gain += weight * (np.exp(middle + sigma**2 / 2) * np.asarray(ndtr(above + sigma))).mean(axis=1)
    return chance, gain
