"""Mean gains of pairs of devices, without fading, and near lists of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import TypeAlias

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.largescale import LargeScale, gain_reached, state_gains
from channels.searching import Search, search_by_kind
from channels.shadowing import Sites
from channels.surroundings import sector_bounds

MISSED_SHARE = 0.01
MOST_PAIRS = 6e8
_FILTER_BINS = 65536
_FINER = 12

Pairs: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.int32]]"


def pair_gains(scale: LargeScale, sites: Sites, first: IntArray, second: IntArray) -> FloatArray:
    """Linear gains of pairs of devices, without fading; symmetric.

    Args:
        scale: The tabulated model.
        sites: Where the devices are.
        first: (pairs,) device indices.
        second: (pairs,) device indices.

    Returns:
        (pairs,) linear gains.
    """
    from channels import kernels

    return kernels.pair_gains(
        _as_written(first),
        _as_written(second),
        sites.x_m,
        sites.y_m,
        sites.words,
        scale.curves,
        scale.numbers,
        sites.local,
    )


def _as_written(index: IntArray) -> IntArray:
    """A contiguous array that may be written: numba compiles a function anew for one that Ray lent read-only."""
    return np.require(index, requirements=("C", "W"))


@dataclass(frozen=True)
class NearGains:
    """Gains between each device and the devices near it, row by row.

    Attributes:
        indptr: (N + 1,) start of each device's row.
        index: (entries,) int32 other device.
        out_gain: (entries,) linear gain from the row's device to the other.
        in_gain: (entries,) linear gain from the other to the row's device; the same array where gains are
            reciprocal.
        radius_m: Up to which distance pairs were looked at; inf lists all pairs.
        min_gain: Lowest linear gain listed.
        beyond: (2, bins) distances in m and the mean gain there of pairs that reach it and were not looked at; empty
            where pairs were looked at up to one distance.
    """

    indptr: IntArray
    index: np.ndarray[tuple[int], np.dtype[np.int32]]
    out_gain: FloatArray
    in_gain: FloatArray
    radius_m: float
    min_gain: float = 0.0
    beyond: FloatArray = field(default_factory=lambda: np.zeros((2, 0)))

    @property
    def devices(self) -> int:
        """Number of devices N."""
        return self.indptr.shape[0] - 1

    @property
    def complete(self) -> bool:
        """Whether all pairs are listed."""
        return math.isinf(self.radius_m)

    def matrix(self) -> FloatArray:
        """(N, N) gains from row to column; only for complete lists.

        Raises:
            ValueError: If the list is not complete.
        """
        if not self.complete:
            raise ValueError(
                "a near list with a cut-off has no gain matrix; use fewer devices or greedy_sinr"
            )
        return self.out_gain.reshape(self.devices, self.devices)


def matrix_gains(gains: FloatArray) -> NearGains:
    """A complete near list from a matrix of gains.

    Args:
        gains: (N, N) linear power gains, gains[i, j] from i to j, not necessarily reciprocal; the diagonal counts as 0.

    Returns:
        The list, N entries a row.
    """
    n = gains.shape[0]
    clean = gains.astype(np.float64, copy=True)
    np.fill_diagonal(clean, 0.0)
    back = clean.T
    flat = np.ascontiguousarray(clean).reshape(-1)
    return NearGains(
        indptr=np.arange(n + 1, dtype=np.int64) * n,
        index=np.tile(np.arange(n, dtype=np.int32), n),
        out_gain=flat,
        in_gain=flat if np.array_equal(clean, back) else np.ascontiguousarray(back).reshape(-1),
        radius_m=math.inf,
    )


def dense_gains(scale: LargeScale, sites: Sites) -> NearGains:
    """The complete near list of N devices: N² entries, for up to some 5,000 devices.

    Args:
        scale: The tabulated model.
        sites: Where the devices are.

    Returns:
        The list.
    """
    from channels import kernels

    n = sites.x_m.shape[0]
    gain = kernels.dense_list(sites.x_m, sites.y_m, sites.words, scale.curves, scale.numbers, sites.local)
    index = np.tile(np.arange(n, dtype=np.int32), n)
    return NearGains(np.arange(n + 1, dtype=np.int64) * n, index, gain, gain, math.inf)


def strong_gains(scale: LargeScale, sites: Sites, entries: int) -> NearGains:
    """The near list of the strongest pairs: those above a gain bound set for `entries` per device on average.

    Choosing by gain and not by distance matters: with drawn LOS states and shadowing, a few far links in
    sight carry most of the interference that a distance cut-off of equal size would miss.

    Args:
        scale: The tabulated model.
        sites: Where the devices are.
        entries: Wanted mean length of a row.

    Returns:
        The list, with its gain bound and search radius. The search stops where at most `MISSED_SHARE` of
        the entries lie farther away, or where the number of pairs looked at reaches a budget (`MOST_PAIRS`); where
        something surrounds devices, at distances of their own for devices of different kinds (`channels.searching`).
    """
    devices = sites.x_m.shape[0]
    profile = _distance_profile(sites.positions_m)
    min_gain = _bound_for_entries(scale, *profile, entries)
    budget = MOST_PAIRS / devices * 2
    radius_m, search = _reach(scale, sites, profile, min_gain, MISSED_SHARE * entries, budget)
    pairs, gain = strong_pairs(scale, sites, min_gain, radius_m, search)
    beyond = np.zeros((2, 0)) if search is None else np.stack([search.distance_m, search.beyond])
    return _listed(pairs, gain, devices, radius_m, min_gain, beyond)


def reaching_pairs(
    scale: LargeScale, sites: Sites, min_gain: float, dense_devices: int
) -> tuple[Pairs, FloatArray]:
    """The pairs of devices whose gain reaches a bound: all up to a number of devices, above it nearly all.

    Args:
        scale: The tabulated model.
        sites: Where the devices are.
        min_gain: Lowest linear gain kept.
        dense_devices: Up to this many devices every pair is looked at. Above it pairs are looked for as far as by
            `strong_gains`, without a budget: by the model, over the distances between the devices, half of
            `MISSED_SHARE` of the pairs that reach the bound lie farther away, and at most `MISSED_SHARE` in tests.

    Returns:
        (E, 2) pairs i < j and (E,) linear gains, in an order that depends on positions only.
    """
    if sites.x_m.shape[0] <= dense_devices:
        return strong_pairs(scale, sites, min_gain, math.inf)
    distance_m, pairs_each = profile = _distance_profile(sites.positions_m)
    expected = float((pairs_each * gain_reached(scale, distance_m, min_gain)).sum())
    found = _reach(scale, sites, profile, min_gain, MISSED_SHARE / 2 * expected, math.inf)
    return strong_pairs(scale, sites, min_gain, *found)


def _reach(
    scale: LargeScale, sites: Sites, profile: tuple[FloatArray, FloatArray], min_gain: float, most_missed: float,
    most_seen: float,
) -> tuple[float, Search | None]:  # fmt: skip
    """How far strong pairs are looked for in m, and how far by kind where something surrounds devices.

    `most_missed` strong pairs of a device lie farther away, on average, or `most_seen` pairs are looked at.
    """
    distance_m, pairs_each = profile
    if sites.local[1].size or sites.local[2].size:
        search = search_by_kind(scale, sites, distance_m, pairs_each, min_gain, most_missed, most_seen)
        return float(search.radius_m.max()), search
    strong = pairs_each * gain_reached(scale, distance_m, min_gain)
    beyond = strong[::-1].cumsum()[::-1]
    enough = (beyond <= most_missed) | (pairs_each.cumsum() >= most_seen)
    return float(distance_m[int(np.argmax(enough))]) if enough.any() else float(distance_m[-1]), None


def _listed(
    pairs: Pairs, gain: FloatArray, devices: int, radius_m: float, min_gain: float, beyond: FloatArray
) -> NearGains:
    from channels import kernels

    indptr, index, value = kernels.symmetric_list(
        np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]), gain, devices
    )
    return NearGains(indptr, index, value, value, radius_m, min_gain, beyond)


def listed_gains(scale: LargeScale, sites: Sites, dense_devices: int, entries: int) -> NearGains:
    """The near list of devices: complete up to a number of devices, else of the strongest pairs.

    Args:
        scale: The tabulated model.
        sites: Where the devices are.
        dense_devices: Up to this many devices all pairs are listed.
        entries: Above it, wanted mean length of a row.

    Returns:
        The list.
    """
    if sites.x_m.shape[0] <= dense_devices:
        return dense_gains(scale, sites)
    return strong_gains(scale, sites, entries)


def _distance_profile(
    positions_m: FloatArray, *, sample: int = 64, bins: int = 600
) -> tuple[FloatArray, FloatArray]:
    """Distances (upper bin edges, in m) and the mean number of other devices of a device per bin.

    From an even sample of the devices, so that clustered placements are seen as they are.
    """
    devices = positions_m.shape[0]
    chosen: IntArray = np.unique(np.arange(sample, dtype=np.int64) * devices // sample)
    longest = float(np.hypot(*np.ptp(positions_m, axis=0))) + 1.0
    edges = np.concatenate(([0.0], np.geomspace(1.0, max(longest, 2.0), bins)))
    count = np.zeros(bins)
    for device in chosen:
        apart = np.hypot(*(positions_m - positions_m[device]).T)
        count += np.histogram(apart, edges)[0]
    count[0] -= chosen.size
    return edges[1:], count / chosen.size


def _bound_for_entries(
    scale: LargeScale, distance_m: FloatArray, pairs_each: FloatArray, entries: int
) -> float:
    low, high = -120.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        expected = float((pairs_each * gain_reached(scale, distance_m, math.exp(middle))).sum())
        low, high = (middle, high) if expected > entries else (low, middle)
    return math.exp(high)


def strong_pairs(
    scale: LargeScale, sites: Sites, min_gain: float, radius_m: float, search: Search | None = None
) -> tuple[Pairs, FloatArray]:
    """All pairs within a radius whose gain reaches a bound, found cell by cell.

    Args:
        scale: The tabulated model.
        sites: Where the devices are.
        min_gain: Lowest linear gain kept.
        radius_m: Longest distance looked at; inf looks at all pairs.
        search: Distances that devices of different kinds are looked at; None for that one.

    Returns:
        (E, 2) pairs i < j and (E,) linear gains, in an order that depends on positions only.
    """
    from channels import kernels

    x, y = sites.x_m, sites.y_m
    reach_m = min(radius_m, float(np.hypot(np.ptp(x), np.ptp(y))) + 1.0)
    kind = np.zeros(x.shape[0], dtype=np.int64) if search is None else search.kind
    radii_m = np.full((1, 1), reach_m) if search is None else np.minimum(search.radius_m, reach_m)
    cell_m = max(reach_m / (4 if search is None else _FINER), float(max(np.ptp(x), np.ptp(y))) / 2000)
    cells = _cells_by_kind(x, y, cell_m, kind)
    filters, sectors = _weak_filters(scale, min_gain, reach_m), sector_bounds(sites.local)
    distance_m, pairs_each = _distance_profile(sites.positions_m)
    reached = pairs_each * gain_reached(scale, distance_m, min_gain) * (distance_m <= 1.1 * reach_m)
    capacity = int(0.6 * reached.sum() * x.shape[0]) + 4096
    while True:
        first, second, gain, found = kernels.strong_pairs(
            x, y, sites.words, radii_m, min_gain, cell_m, *cells, kind, capacity, *filters, scale.curves, scale.numbers,
            sites.local, sectors,
        )  # fmt: skip
        if found <= capacity:
            return np.stack([first[:found], second[:found]], axis=1), gain[:found].copy()
        capacity = int(found)


def _cells_by_kind(
    x_m: FloatArray, y_m: FloatArray, cell_m: float, kind: IntArray
) -> tuple[int, int, IntArray, IntArray, IntArray]:
    """What `channels.kernels.cell_lists` gives, with the cells of one kind of devices after those of another."""
    from channels import kernels

    columns, rows, start, member, cell = kernels.cell_lists(x_m, y_m, cell_m)
    kinds = int(kind.max(initial=0)) + 1
    if kinds > 1:
        place = kind * (columns * rows) + cell
        member = np.argsort(place, kind="stable")
        count = np.bincount(place, minlength=kinds * columns * rows)
        start = np.concatenate(([0], np.cumsum(count))).astype(np.int64)
    return columns, rows, start, member, cell


def largest(values: Iterable[FloatArray]) -> FloatArray:
    """The largest of arrays of one shape, entry by entry."""
    return reduce(np.maximum, values)


def _weak_filters(
    scale: LargeScale, min_gain: float, reach_m: float
) -> tuple[float, FloatArray, FloatArray, FloatArray]:
    """Bounds per bin of squared distance that spare most pairs the full evaluation.

    The loss curves fall with distance in every model by their formulas, and of P_LOS the largest from there on counts,
    so the values at a bin's near edge bound the bin; a little slack covers the interpolation. Of several pairs of
    heights the largest values count. Bins per m², the largest P_LOS,
    the least shadowing value a pair needs in sight and out of sight, and what a unit of ln gain is in it.
    """
    per_m2 = _FILTER_BINS / reach_m**2
    near_m = np.sqrt(np.arange(_FILTER_BINS + 1) / per_m2)
    states, share = state_gains(scale, near_m), scale.shares
    in_sight, hidden = ((largest(s[1] for s in states[k::2]), states[k][2]) for k in (0, 1))
    los = largest(s[0] / one for s, one in zip(states[::2], share.tolist(), strict=True) if one > 0)
    los = np.maximum.accumulate(los[::-1])[::-1]
    slack = 1e-3
    needed = np.stack(
        [
            (math.log(min_gain) - log_gain - slack) / max(sigma, 1e-12) - 1e-9
            for log_gain, sigma in (in_sight, hidden)
        ]
    )
    per_sigma = np.array([1 / max(sigma, 1e-12) for _, sigma in (in_sight, hidden)])
    return per_m2, np.minimum(los + slack * los, 1.0), needed, per_sigma
