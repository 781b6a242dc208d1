"""Interference from pairs that no near list holds: transmitters on a grid, summed by FFT, or a mean tail.

The near list holds every pair within its search radius whose gain reaches a bound. What is left is weak and
comes from many transmitters, so its sum is close to its mean: within the radius E[G·1(G < bound)], beyond it E[G]
(where devices of different kinds have radii of their own, by their shares of the pairs), both over LOS states and
shadowing (for which E brings the factor exp((sigma·ln10/10)²/2)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.gains import NearGains
from channels.largescale import LargeScale, weak_mean_gain
from channels.shadowing import Sites

_CELLS_PER_RADIUS = 8
_MOST_CELLS = 1024


@dataclass(frozen=True)
class FarField:
    """Mean interference at every device from the transmitters that its near list does not hold.

    Attributes:
        kind: `grid` or `mean`.
        shape: (columns, rows) of the grid; (1, 1) for `mean`.
        corner: (N, 4) flat grid indices of the four nodes around each device.
        weight: (N, 4) bilinear weights of the four nodes.
        kernel: FFT of the mean weak gain from node to node; empty for `mean`.
        padded: Padded FFT shape.
        tail_m2: Integral of 2·pi·r·(mean weak gain) over r, in m², for `mean`.
        area_m2: Area of the devices' bounding box.
        shares: (N,) what surrounds each device lets through, over its mean; empty where nothing does.
    """

    kind: str
    shape: tuple[int, int]
    corner: IntArray
    weight: FloatArray
    kernel: np.ndarray[tuple[int, int], np.dtype[np.complex128]]
    padded: tuple[int, int]
    tail_m2: float
    area_m2: float
    shares: FloatArray = field(default_factory=lambda: np.zeros(0))

    @cached_property
    def per_watt(self) -> FloatArray:
        """(N,) mean interference power at each device for each watt sent by a device anywhere."""
        devices = self.weight.shape[0]
        even: FloatArray = np.ones(devices) / devices
        return self.at_devices(np.arange(devices, dtype=np.int64), even)

    def at_devices(self, sources: IntArray, power_w: FloatArray) -> FloatArray:
        """Far interference power.

        Args:
            sources: (T,) transmitting devices.
            power_w: (T,) their radiated power in W.

        Returns:
            (N,) mean interference power at each device in W.
        """
        if self.shares.size:
            plain = replace(self, shares=np.zeros(0))
            return self.shares * plain.at_devices(sources, power_w * self.shares[sources])
        if self.kind == "mean":
            level_w = float(np.sum(power_w)) / self.area_m2 * self.tail_m2
            return np.full_like(self.weight[:, 0], level_w)
        from scipy import fft

        cells = self.shape[0] * self.shape[1]
        spread = (power_w[:, None] * self.weight[sources]).reshape(-1)
        grid = np.bincount(self.corner[sources].reshape(-1), weights=spread, minlength=cells).reshape(
            self.shape
        )
        spectrum = np.asarray(fft.rfft2(grid, self.padded)) * self.kernel
        field = np.asarray(fft.irfft2(spectrum, self.padded))[: self.shape[0], : self.shape[1]]
        near = field.reshape(-1)[self.corner]
        # Rounding of the FFT may leave tiny negative powers.
        return np.maximum((near * self.weight).sum(axis=1), 0.0)


def build_far_field(scale: LargeScale, sites: Sites, near: NearGains, kind: str) -> FarField | None:
    """Prepare the far field that belongs to a near list.

    Args:
        scale: The tabulated path-loss model.
        sites: Where the devices are.
        near: The near list; a complete one leaves nothing to the far field.
        kind: `grid`, `mean` or `none`.

    Returns:
        The far field; None where there is none.
    """
    if kind == "none" or near.complete:
        return None
    positions_m, shares = sites.positions_m, _shares(scale, sites)
    low = positions_m.min(axis=0)
    extent = np.maximum(np.ptp(positions_m, axis=0), 1.0)
    area_m2, devices = float(extent[0] * extent[1]), positions_m.shape[0]
    if kind == "mean":
        nothing = np.zeros((devices, 4), dtype=np.int64)
        empty = np.zeros((0, 0), dtype=np.complex128)
        tail, weight = _tail_m2(scale, near), nothing.astype(np.float64)
        return FarField("mean", (1, 1), nothing, weight, empty, (1, 1), tail, area_m2, shares)
    # Radius of a disc with as many devices as a row of the list: where weak gains start to matter.
    scale_m = math.sqrt(area_m2 * near.index.shape[0] / devices**2 / math.pi)
    cell_m = max(scale_m / _CELLS_PER_RADIUS, float(extent.max()) / _MOST_CELLS)
    shape = (int(extent[0] / cell_m) + 2, int(extent[1] / cell_m) + 2)
    corner, weight = _bilinear((positions_m - low) / cell_m, shape)
    kernel, padded = _kernel(scale, shape, cell_m, near)
    return FarField("grid", shape, corner, weight, kernel, padded, 0.0, area_m2, shares)


def _shares(scale: LargeScale, sites: Sites) -> FloatArray:
    return np.zeros(0) if scale.around is None else scale.around.device_shares(sites.local)


def _bilinear(place: FloatArray, shape: tuple[int, int]) -> tuple[IntArray, FloatArray]:
    base = np.floor(place).astype(np.int64)
    fraction = place - base
    corner = np.empty((place.shape[0], 4), dtype=np.int64)
    weight = np.empty((place.shape[0], 4), dtype=np.float64)
    for k, (dx, dy) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        corner[:, k] = (base[:, 0] + dx) * shape[1] + base[:, 1] + dy
        along = fraction[:, 0] if dx else 1 - fraction[:, 0]
        weight[:, k] = along * (fraction[:, 1] if dy else 1 - fraction[:, 1])
    return corner, weight


def _weak_gain(scale: LargeScale, near: NearGains, distance_m: FloatArray) -> FloatArray:
    listed = weak_mean_gain(scale, distance_m, near.min_gain)
    if near.beyond.size:
        apart_m, gain = near.beyond
        missed: FloatArray = listed + np.asarray(np.interp(distance_m, apart_m, gain), dtype=np.float64)
        return np.where(distance_m <= apart_m[-1], missed, weak_mean_gain(scale, distance_m, math.inf))
    return np.where(distance_m < near.radius_m, listed, weak_mean_gain(scale, distance_m, math.inf))


def _kernel(
    scale: LargeScale, shape: tuple[int, int], cell_m: float, near: NearGains
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.complex128]], tuple[int, int]]:
    from scipy import fft

    padded = (
        int(fft.next_fast_len(2 * shape[0], real=True)),
        int(fft.next_fast_len(2 * shape[1], real=True)),
    )
    lag_x = np.minimum(np.arange(padded[0]), padded[0] - np.arange(padded[0])) * cell_m
    lag_y = np.minimum(np.arange(padded[1]), padded[1] - np.arange(padded[1])) * cell_m
    distance = np.hypot.outer(lag_x, lag_y)
    # The gain depends on distance alone, so it is read from a fine curve and not computed per node.
    curve_m = np.linspace(0.0, float(distance.max()) + 1.0, 20001)
    gain = np.interp(distance, curve_m, _weak_gain(scale, near, curve_m))
    return np.asarray(fft.rfft2(gain)), padded


def _tail_m2(scale: LargeScale, near: NearGains) -> float:
    """Integral of 2·pi·r·E[weak gain]: for G = K·r^-a beyond R this is 2·pi·K·R^(2-a)/(a-2)."""
    log_r = np.linspace(0.0, math.log(200e3), 8001)
    r = np.exp(log_r)
    return float(np.trapezoid(2 * np.pi * r**2 * _weak_gain(scale, near, r), log_r))
