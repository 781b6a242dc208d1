"""Why devices cannot reach each other, and what would mend it: the least power, or SNR asked for, that joins all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.config.radio import RADIO_RANGES

if TYPE_CHECKING:
    from channels.settings import RadioSettings
    from dfl_ray.network.deployment import ChannelSetup

MOST_DEVICES = 3000
"""Devices up to which all pairs are compared; above, a partition is told without its reason."""
STEP_DB = 0.1
"""Powers and SNRs are told in steps of so many dB, rounded up."""


@dataclass(frozen=True)
class Gap:
    """The pair over which two groups of devices come closest to reaching each other.

    Attributes:
        ends: The two devices, one of each group.
        length_m: Their distance in m.
        mean_snr_db: Mean SNR of their link in dB.
        missing_db: What their link lacks in dB.
    """

    ends: tuple[int, int]
    length_m: float
    mean_snr_db: float
    missing_db: float


@dataclass(frozen=True)
class Remedy:
    """What joins all devices.

    Attributes:
        gaps: Links to be made, as few and as good ones as join everything; the worst first.
        power_db: Least rise of `radio.tx_power_dbm` that makes them in dB; inf where classes of devices set powers of
            their own that are too low.
        decodes: Whether links are ever decoded that are used once the SNR asked for is lowered by `missing_db`.
        sinr_min_db: `radio.sinr_min_db` with which the links decode, where they reach the SNR asked for; else None.
    """

    gaps: tuple[Gap, ...]
    power_db: float
    decodes: bool
    sinr_min_db: float | None = None

    @property
    def missing_db(self) -> float:
        """What the worst of the links lacks in dB."""
        return max(gap.missing_db for gap in self.gaps)

    @property
    def longest_m(self) -> float:
        """Length of the longest of the links in m: the range that is needed."""
        return max(gap.length_m for gap in self.gaps)


def remedy(channel: ChannelSetup, least_db: float, here: np.ndarray) -> Remedy | None:
    """Find the least rise of power that lets all devices reach each other, over others where need be.

    Every link's lack is max(0, least SNR - mean SNR), where the least SNR is no lower than the one from which anything
    is decoded; the minimum spanning tree over these lacks joins all devices with the smallest largest lack (a minimum
    spanning tree is a bottleneck tree).

    Args:
        channel: Where the devices are and how they send.
        least_db: Mean SNR in dB from which a link may be used.
        here: (devices,) bool, those that are to be joined.

    Returns:
        The links that are lacking and the power that makes them; None where nothing is lacking or there are more
        than `MOST_DEVICES` devices.

    Source:
        Camerini, The min-max spanning tree problem (1978).
    """
    from channels.rounds import least_snr_db

    nodes = np.flatnonzero(here)
    if not 1 < len(nodes) <= MOST_DEVICES:
        return None
    upper = np.triu_indices(len(nodes), 1)
    first, second = nodes[upper[0]], nodes[upper[1]]
    air, asked_db = channel.make(), least_db
    least_db = max(asked_db, least_snr_db(channel.settings))
    snr_db = air.mean_snr_db(first, second)
    tree = _bottleneck_tree(upper, np.maximum(least_db - snr_db, 0.0), len(nodes))
    lacking = tree[snr_db[tree] < least_db]
    if not len(lacking):
        return None
    apart = channel.positions_m[first[lacking]] - channel.positions_m[second[lacking]]
    found = zip(first[lacking].tolist(), second[lacking].tolist(), np.hypot(*apart.T).tolist(),
                snr_db[lacking].tolist(), strict=True)  # fmt: skip
    gaps = [Gap((a, b), length, snr, least_db - snr) for a, b, length, snr in found]
    rise_db = _rise_db(channel, first, second, snr_db, least_db)
    power = float(rise_db[_bottleneck_tree(upper, rise_db, len(nodes))].max())
    gaps.sort(key=lambda gap: -gap.missing_db)
    used = snr_db >= least_db - rounded_up(gaps[0].missing_db)
    decodes = least_db == asked_db and bool(
        np.isfinite(air.airtime_s_per_mb(first[used], second[used])).all()
    )
    weakest_db = min(gap.mean_snr_db for gap in gaps)
    threshold = _threshold_db(channel.settings, weakest_db) if weakest_db >= asked_db else None
    return Remedy(tuple(gaps), power, decodes, threshold)


def _threshold_db(settings: RadioSettings, snr_db: float) -> float | None:
    """`radio.sinr_min_db` with which links of a mean SNR decode, to half a dB; None where none in its range does."""
    from channels.rounds import least_snr_db

    value = settings.sinr_min_db - rounded_up(least_snr_db(settings) - snr_db)
    for further_db in (0.0, 0.5, 1.0, 2.0, 4.0):
        found = round(value - further_db, 1)
        if (
            found >= RADIO_RANGES["sinr_min_db"][0]
            and least_snr_db(replace(settings, sinr_min_db=found)) <= snr_db
        ):
            return found
    return None


def _rise_db(
    channel: ChannelSetup, first: np.ndarray, second: np.ndarray, snr_db: np.ndarray, least_db: float
) -> np.ndarray:
    """(pairs,) least rise in dB of the power of devices whose class sets none, to bring both ends to it; inf for none.

    The weaker end's power counts in a mean SNR, so each end's own SNR is that plus what it has above the weaker one.
    """
    own_dbm = channel.classes.tx_power_dbm
    free = np.isnan(own_dbm)
    power_dbm = np.where(free, channel.settings.tx_power_dbm, own_dbm)
    weaker = np.minimum(power_dbm[first], power_dbm[second])
    lack = [np.maximum(least_db - (snr_db + power_dbm[end] - weaker), 0.0) for end in (first, second)]
    ends = zip((first, second), lack, strict=True)
    return np.maximum(*[np.where((short > 0) & ~free[end], math.inf, short) for end, short in ends])


def _bottleneck_tree(upper: tuple[np.ndarray, np.ndarray], cost: np.ndarray, nodes: int) -> np.ndarray:
    """Places of the pairs of a minimum spanning tree over all pairs, by cost, then by place."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    # Ranks from 1 are never the zero that a sparse matrix leaves out, and make the tree unique.
    order = np.argsort(cost, kind="stable")
    rank = np.empty(len(cost))
    rank[order] = np.arange(1, len(cost) + 1)
    tree = minimum_spanning_tree(coo_array((rank, upper), shape=(nodes, nodes)).tocsr())
    return np.sort(order[np.asarray(tree.data, dtype=np.int64) - 1])


def rounded_up(value_db: float) -> float:
    """A number of dB rounded up to the next `STEP_DB`; what floating-point arithmetic adds is not a step."""
    return round(math.ceil(value_db / STEP_DB - 1e-9) * STEP_DB, 1)
