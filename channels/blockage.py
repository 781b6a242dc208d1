"""Blockage by people and vehicles near a device, over azimuth: model A of TR 38.901.

`others`: around each device stand `blockers` of width x (15 to 45° indoors at 2 m, else 5 to 15° at 10 m) at uniform
azimuths. Within x of a blocker's centre it takes

    L = -20·lg(1 - (F_A1 + F_A2)·(F_Z1 + F_Z2)),    F = atan(±(pi/2)·sqrt((pi/lambda)·r·(1/cos(A) - 1)))/pi,

A the angles to its edges, the sign + inside and - beyond the nearer edge; losses of blockers add up. `portrait` and
`landscape` add the holder of the device: 30 dB over 120° or 160° about a keyed heading of its own. Blockers stay while
the device is within one cell of random lines, so that each is redrawn by exp(-Delta/d_corr), d_corr = 10 m outdoors and
5 m indoors, and a device that comes back finds those it left.

Departures: the loss is taken at both ends of the straight line and not cluster by cluster; links are level; blockers do
not move by themselves (no t_corr).

Source:
    3GPP TR 38.901 V16.1.0, clause 7.6.4.1, equations 7.6-22 to 7.6-27, tables 7.6.4.1-1 to -4. The equations and
    signs were checked against ns-3's `CalcAttenuationOfBlockage`; the tables' numbers are from memory.
"""

from __future__ import annotations

import math

import numpy as np

from channels.arrays import FloatArray, IntArray, KeyArray
from channels.draws import keyed_uniform, stream_key
from channels.units import SPEED_OF_LIGHT_M_S

BLOCKAGES: tuple[str, ...] = ("none", "others", "portrait", "landscape")
"""Names of what may stand in the way."""

HOLDER_DB = 30.0
_HOLDER_DEG = {"portrait": 120.0, "landscape": 160.0}
# Least and most width, height (least and most) in degrees, distance in m, decorrelation distance in m.
_INDOORS = ((15.0, 45.0), (5.0, 15.0), 2.0, 5.0)
_OUTDOORS = ((5.0, 15.0), (5.0, 5.0), 10.0, 10.0)


def blockers_decorrelation_m(indoors: bool) -> float:
    """Distance over which blockers are redrawn, in m."""
    return (_INDOORS if indoors else _OUTDOORS)[3]


def blocker_db(
    off_deg: FloatArray, width_deg: FloatArray, height_deg: FloatArray, distance_m: float, carrier_hz: float
) -> FloatArray:
    """Loss behind one blocker, on its level.

    Args:
        off_deg: Azimuth from its centre in degrees, from -180 to 180, any shape.
        width_deg: Its width x in degrees; broadcasts.
        height_deg: Its height y in degrees; broadcasts.
        distance_m: Its distance r in m.
        carrier_hz: Carrier in Hz.

    Returns:
        Loss in dB, 0 from x off its centre on; 6 dB at the edge of a blocker much larger than the Fresnel zone.
    """
    per_m = np.pi * carrier_hz / SPEED_OF_LIGHT_M_S

    def edge(angle_deg: FloatArray) -> FloatArray:
        bent = np.sqrt(per_m * distance_m * (1 / np.cos(np.deg2rad(angle_deg)) - 1))
        return np.arctan(np.pi / 2 * bent) / np.pi

    off = np.where(np.abs(off_deg) < width_deg, off_deg, 0.0)
    upper = np.where(off > width_deg / 2, -1.0, 1.0) * edge(off - width_deg / 2)
    lower = np.where(off <= -width_deg / 2, -1.0, 1.0) * edge(off + width_deg / 2)
    loss = -20 * np.log10(1 - (upper + lower) * 2 * edge(height_deg / 2))
    return np.where(np.abs(off_deg) < width_deg, np.maximum(loss, 0.0), 0.0)


def blockage_losses_db(
    kind: str,
    blockers: int,
    indoors: bool,
    carrier_hz: float,
    device: IntArray,
    cell: KeyArray,
    bins: int,
    *,
    seed: int,
) -> FloatArray:
    """Losses of devices towards evenly spaced azimuths; of each blocker, only those it may reach are reckoned.

    Args:
        kind: One of `BLOCKAGES` but none.
        blockers: Blockers around each device, >= 0.
        indoors: Whether they are as large and near as in an office.
        carrier_hz: Carrier in Hz.
        device: (N,) device indices.
        cell: (N,) hash of the cell each device is in; blockers stay as long as it does.
        bins: Number of azimuths, from 0 on round the circle.
        seed: The experiment's seed.

    Returns:
        (N, bins) loss in dB, >= 0.
    """
    widths, heights, distance_m, _ = _INDOORS if indoors else _OUTDOORS
    step_deg = 360.0 / bins
    loss: FloatArray = np.zeros((device.size, bins))
    reach = min(math.ceil(widths[1] / step_deg) + 1, (bins - 1) // 2)
    near: IntArray = np.arange(-reach, reach + 1, dtype=np.int64)
    row: IntArray = np.arange(device.size, dtype=np.int64)[:, None]
    for number in range(blockers):

        def drawn(what: int, low: float, high: float, number: int = number) -> FloatArray:
            key = stream_key(seed, "blockers", number, what)
            return (low + (high - low) * keyed_uniform(key, device, cell, ordered=True))[:, None]

        centre = drawn(0, 0.0, 360.0)
        bin_ = (np.rint(centre / step_deg).astype(np.int64) + near) % bins
        off = _turned(bin_ * step_deg - centre)
        loss[row, bin_] += blocker_db(off, drawn(1, *widths), drawn(2, *heights), distance_m, carrier_hz)
    if kind in _HOLDER_DEG:
        heading = 360.0 * keyed_uniform(stream_key(seed, "holders"), device, 0, ordered=True)[:, None]
        off = _turned(np.arange(bins) * step_deg - heading)
        loss += np.where(np.abs(off) <= _HOLDER_DEG[kind] / 2, HOLDER_DB, 0.0)
    return loss


def _turned(angle_deg: FloatArray) -> FloatArray:
    """Angles in degrees as those from -180 to 180."""
    return (angle_deg + 180.0) % 360.0 - 180.0
