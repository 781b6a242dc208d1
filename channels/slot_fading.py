"""Fading of one slot, as the compiled loops take it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from channels.arrays import FloatArray

_NO_TABLE = np.zeros((2, 2))


@dataclass(frozen=True)
class SlotFading:
    """Fading of one slot, as the compiled loops take it (see `channels.kernels.fading_factor`).

    Attributes:
        doppler_hz: Doppler shift of fading in time in Hz, or below 0 for a fresh draw in each slot.
        kind: 0 none, 1 Rayleigh, 2 Rician, 3 by quantile table.
        shape: Linear K of Rician.
        table: (2, points) ln quantiles over ln of a Rayleigh power; row 1 holds the first ln power and the
            points per unit.
        key: Key of the draws: of the slot, or of the run for fading in time.
        success_key: Key of the slot's packet-error draws.
    """

    doppler_hz: float = -1.0
    kind: int = 0
    shape: float = 0.0
    table: FloatArray = field(default_factory=lambda: _NO_TABLE)
    key: int = 0
    success_key: int = 0
