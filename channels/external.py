"""Interference from outside: cells, access points or other devices that nobody here schedules.

Their places are a homogeneous Poisson field over the whole plane. It is drawn cell by cell with keyed draws, so that
what stands where depends on the seed alone, and stays where it is when devices move. Each transmitter is on in a slot
with chance `duty`, independently, over the whole band, and reaches receivers by the run's own path loss, line of
sight, shadowing and fading. The transmitters around a receiver, `LISTED` on average, are summed one by one; those
beyond count by their mean, duty·P·lambda·∫ 2·pi·r·E[G(r)] dr.

Senders and schedulers know the mean interference at each receiver, as one that listens for a while does, and not
which transmitters will be on. It adds to the noise there; SNRs by which graphs are built leave it out, and carrier
sense does not hear it.

Source:
    Haenggi, Stochastic Geometry for Wireless Networks (2012), chapter 5: for links of length r under Rayleigh fading
    and path loss r^-alpha, P(SINR > T) = exp(-lambda·duty·pi·r²·(T·P_e/P)^d·pi·d/sin(pi·d))·exp(-T·N·r^alpha/P) with
    d = 2/alpha (written from memory, and derived again: the Laplace transform of the interference at T·r^alpha/P).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.draws import keyed_uniform, stream_key
from channels.gains import pair_gains
from channels.largescale import LONGEST_M, LargeScale, weak_mean_gain
from channels.shadowing import build_sites
from channels.slot_fading import SlotFading
from channels.units import dbm_to_watt

if TYPE_CHECKING:
    from channels.settings import RadioSettings

LISTED = 64
"""Mean number of transmitters around a receiver that are summed one by one."""

_OFFSET = 1 << 19
_SQUARE_METRES = 1e6


@dataclass(frozen=True)
class ExternalField:
    """What reaches N receivers from outside on one sub-channel.

    Attributes:
        first: (N + 1,) first entry of each receiver in the lists.
        number: (entries,) number of each listed transmitter: the same at every receiver and in every round.
        level_w: (entries,) mean received power while it sends, in W.
        mean_w: (N,) mean received power of all, near and far, in W.
        far_w: The part of it from beyond the lists, in W.
        noise_w: Noise power without it in W.
        duty: Chance of sending in a slot.
        activity_key: Key of who sends; with the slot's own key.
    """

    first: IntArray
    number: IntArray
    level_w: FloatArray
    mean_w: FloatArray
    far_w: float
    noise_w: float
    duty: float
    activity_key: int

    def floor_w(self, receivers: IntArray, fading: SlotFading, now_s: float) -> FloatArray:
        """Noise and interference from outside in one slot.

        Args:
            receivers: (rows,) receiving devices.
            fading: The slot's fading; its packet key tells the slot.
            now_s: Start of the slot in s.

        Returns:
            (rows,) power in W.
        """
        from channels import fading_kernels

        count = np.diff(self.first)[receivers]
        row: IntArray = np.repeat(np.arange(receivers.shape[0], dtype=np.int64), count)
        begin: IntArray = (np.cumsum(count) - count).astype(np.int64)
        entry: IntArray = np.arange(row.shape[0], dtype=np.int64) - begin[row] + self.first[receivers][row]
        key = stream_key(self.activity_key, "external-activity", fading.success_key)
        on = keyed_uniform(key, self.number[entry], 0, ordered=True) < self.duty
        row, entry = row[on], entry[on]
        factor = fading_kernels.fading_factors(
            self.number[entry], receivers[row], np.full(entry.shape, now_s), *fading.law(1)
        )  # fmt: skip
        level_w = self.level_w[entry] * factor
        near_w: FloatArray = np.bincount(row, weights=level_w, minlength=receivers.shape[0]).astype(
            np.float64
        )
        return self.noise_w + self.far_w + near_w


def external_field(
    settings: RadioSettings, scale: LargeScale, positions_m: FloatArray, noise_w: float
) -> ExternalField | None:
    """Draw the transmitters around the devices and what reaches each.

    Args:
        settings: The radio settings.
        scale: The tabulated path-loss model; it holds the seed.
        positions_m: (N, 2) positions in m.
        noise_w: Noise power of one sub-channel in W.

    Returns:
        The field; None where `external_per_km2` is 0.
    """
    if settings.external_per_km2 == 0:
        return None
    from scipy.spatial import cKDTree

    density = settings.external_per_km2 / _SQUARE_METRES
    radius_m = min(math.sqrt(LISTED / (math.pi * density)), LONGEST_M)
    places_m, number = _drawn(scale.seed, density, radius_m, positions_m)
    tree = cKDTree(places_m)
    lists = [
        np.asarray(one, dtype=np.int64)
        for one in np.atleast_1d(tree.query_ball_point(positions_m, radius_m, return_sorted=True))
    ]
    count = np.array([one.size for one in lists], dtype=np.int64)
    entry: IntArray = np.concatenate(lists)
    devices = positions_m.shape[0]
    sites = build_sites(scale, np.concatenate([positions_m, places_m]), devices)
    receiver = np.repeat(np.arange(devices, dtype=np.int64), count)
    power_w = float(dbm_to_watt(settings.external_power_dbm)) / settings.subchannels
    level_w = power_w * pair_gains(scale, sites, receiver, devices + entry)
    far_w = settings.external_duty * power_w * density * _beyond_m2(scale, radius_m)
    if scale.around is not None:
        far_w *= scale.around.outside_share(scale.offsets_ln)
    listed_w: FloatArray = np.bincount(receiver, weights=level_w, minlength=devices).astype(np.float64)
    return ExternalField(
        first=np.concatenate(([0], np.cumsum(count))).astype(np.int64),
        number=number[entry],
        level_w=level_w,
        mean_w=settings.external_duty * listed_w + far_w,
        far_w=far_w,
        noise_w=noise_w,
        duty=settings.external_duty,
        activity_key=stream_key(scale.seed, "external"),
    )


def _drawn(
    seed: int, density: float, radius_m: float, positions_m: FloatArray
) -> tuple[FloatArray, IntArray]:
    """(M, 2) places of all transmitters in the cells within a radius of some device, and their numbers, all distinct.

    Cells are squares as wide as the radius; the number of transmitters in each is Poisson by its inverse distribution.
    """
    from scipy.stats import poisson

    cells = np.unique(np.floor(positions_m / radius_m).astype(np.int64), axis=0)
    steps = np.stack(np.meshgrid(np.arange(-1, 2), np.arange(-1, 2), indexing="ij"), axis=-1).reshape(-1, 2)
    cells = np.unique((cells[:, None, :] + steps).reshape(-1, 2), axis=0)
    key = stream_key(seed, "external-places")
    column, line = (cells + _OFFSET).T
    draw = keyed_uniform(key, column, line, ordered=True)
    count = np.asarray(poisson.ppf(draw, density * radius_m**2)).astype(np.int64)
    cell: IntArray = np.repeat(np.arange(cells.shape[0], dtype=np.int64), count)
    within = np.arange(cell.shape[0], dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
    # 20 bits a coordinate of the cell and 21 for the place in its list, above all numbers of devices: all distinct.
    number = (1 << 62) | (column[cell] << 42) | (line[cell] << 21) | within
    place = [keyed_uniform(stream_key(key, axis), number, 0, ordered=True) for axis in ("x", "y")]
    return (cells[cell] + np.stack(place, axis=1)) * radius_m, number.astype(np.int64)


def _beyond_m2(scale: LargeScale, radius_m: float) -> float:
    """Integral of 2·pi·r·E[gain] over r from a radius to 200 km, in m²."""
    if radius_m >= LONGEST_M:
        return 0.0
    log_r = np.linspace(math.log(radius_m), math.log(LONGEST_M), 4001)
    r = np.exp(log_r)
    return float(np.trapezoid(2 * np.pi * r**2 * weak_mean_gain(scale, r, math.inf), log_r))
