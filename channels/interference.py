"""Interference from beyond the near list: transmitters on a grid, summed by FFT, or a mean tail.

Both use the mean gain over LOS states and shadowing, whose log-normal factor is exp((sigma·ln10/10)²/2):
far interferers are many, so their sum is close to its mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from channels.arrays import FloatArray, IntArray
from channels.gains import LargeScale, mean_gain

_CELLS_PER_RADIUS = 8
_SUBSAMPLES = 6


@dataclass(frozen=True)
class FarField:
    """Mean interference at every device from transmitters farther away than the near radius.

    Attributes:
        kind: `grid` or `mean`.
        shape: (columns, rows) of the grid; (1, 1) for `mean`.
        corner: (N, 4) flat grid indices of the four nodes around each device.
        weight: (N, 4) bilinear weights of the four nodes.
        kernel: FFT of the gain from node to node, zero within the near radius; empty for `mean`.
        padded: Padded FFT shape.
        tail_m2: Integral of 2·pi·r·G(r) from the near radius outwards, in m², for `mean`.
        area_m2: Area of the devices' bounding box.
    """

    kind: str
    shape: tuple[int, int]
    corner: IntArray
    weight: FloatArray
    kernel: np.ndarray[tuple[int, int], np.dtype[np.complex128]]
    padded: tuple[int, int]
    tail_m2: float
    area_m2: float

    def at_devices(self, sources: IntArray, power_w: FloatArray) -> FloatArray:
        """Far interference power.

        Args:
            sources: (T,) transmitting devices.
            power_w: (T,) their radiated power in W.

        Returns:
            (N,) mean interference power at each device in W.
        """
        devices = self.corner.shape[0]
        if self.kind == "mean":
            return np.full(devices, float(np.sum(power_w)) / self.area_m2 * self.tail_m2)
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
        return np.maximum(np.einsum("nk,nk->n", near, self.weight), 0.0)


def build_far_field(
    scale: LargeScale, positions_m: FloatArray, radius_m: float, kind: str
) -> FarField | None:
    """Prepare the far field of a near list's radius.

    Args:
        scale: The tabulated path-loss model.
        positions_m: (N, 2) positions in m.
        radius_m: Near radius in m; inf leaves nothing to the far field.
        kind: `grid`, `mean` or `none`.

    Returns:
        The far field; None where there is none.
    """
    if kind == "none" or math.isinf(radius_m):
        return None
    low = positions_m.min(axis=0)
    extent = np.maximum(np.ptp(positions_m, axis=0), 1.0)
    if kind == "mean":
        nothing = np.zeros((positions_m.shape[0], 4), dtype=np.int64)
        empty = np.zeros((0, 0), dtype=np.complex128)
        tail, area = _tail_m2(scale, radius_m), float(extent[0] * extent[1])
        return FarField("mean", (1, 1), nothing, nothing.astype(np.float64), empty, (1, 1), tail, area)
    cell_m = radius_m / _CELLS_PER_RADIUS
    shape = (int(extent[0] / cell_m) + 2, int(extent[1] / cell_m) + 2)
    corner, weight = _bilinear((positions_m - low) / cell_m, shape)
    kernel, padded = _kernel(scale, shape, cell_m, radius_m)
    return FarField("grid", shape, corner, weight, kernel, padded, 0.0, float(extent[0] * extent[1]))


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


def _kernel(
    scale: LargeScale, shape: tuple[int, int], cell_m: float, radius_m: float
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.complex128]], tuple[int, int]]:
    from scipy import fft

    padded = (
        int(fft.next_fast_len(2 * shape[0], real=True)),
        int(fft.next_fast_len(2 * shape[1], real=True)),
    )
    lag_x = np.minimum(np.arange(padded[0]), padded[0] - np.arange(padded[0])) * cell_m
    lag_y = np.minimum(np.arange(padded[1]), padded[1] - np.arange(padded[1])) * cell_m
    # Where the near radius cuts a cell, only the part beyond it counts.
    sub = ((np.arange(_SUBSAMPLES) + 0.5) / _SUBSAMPLES - 0.5) * cell_m
    total = np.zeros(padded)
    for dx in sub:
        for dy in sub:
            distance = np.hypot.outer(np.abs(lag_x + dx), np.abs(lag_y + dy))
            total += np.where(distance >= radius_m, mean_gain(scale, distance), 0.0)
    return np.asarray(fft.rfft2(total / _SUBSAMPLES**2)), padded


def _tail_m2(scale: LargeScale, radius_m: float) -> float:
    """Integral of 2·pi·r·G(r) beyond the radius: for G = K·r^-a this is 2·pi·K·R^(2-a)/(a-2)."""
    log_r = np.linspace(math.log(radius_m), math.log(200e3), 4001)
    r = np.exp(log_r)
    return float(np.trapezoid(2 * np.pi * r**2 * mean_gain(scale, r), log_r))
