"""Fading of one slot, as the compiled loops take it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from channels.arrays import FloatArray, IntArray

COHERENCE = math.sqrt(3.0) / (2.0 * math.pi)
"""Shift in frequency at which the gain's correlation 1/(1 + j·2·pi·df·(delay spread)) is 1/2, over 1/(delay spread)."""

_NO_TABLE = np.zeros((2, 2))
_NO_MOTION = np.zeros((4, 0))
_MOST_SAMPLES = 16
_SAMPLES_PER_PERIOD = 4.0
_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class SlotFading:
    """Fading of one slot, as the compiled loops take it (see `channels.fading_kernels`).

    Attributes:
        doppler_hz: Doppler shift of fading in time in Hz, or below 0 for a fresh draw in each slot; where devices have
            a `motion`, the part of it that comes from what is around them.
        kind: 0 none, 1 Rayleigh, 2 Rician, 3 by quantile table.
        shape: Linear K of Rician.
        table: (2, points) ln quantiles over ln of a Rayleigh power; row 1 holds the first ln power and the
            points per unit.
        key: Key of the draws: of the slot, or of the run for fading in time.
        success_key: Key of the slot's packet-error draws.
        motion: (4, N) ways of devices in wavelengths and velocities as Doppler shifts in Hz (see
            `channels.velocity.Velocity.motion`), or (4, 0) where all links have one shift.
        delay_spread_s: Delay spread in s, 0 for flat fading.
        bandwidth_hz: Bandwidth of a sub-channel in Hz.
        subchannels: Their number.
    """

    doppler_hz: float = -1.0
    kind: int = 0
    shape: float = 0.0
    table: FloatArray = field(default_factory=lambda: _NO_TABLE)
    key: int = 0
    success_key: int = 0
    motion: FloatArray = field(default_factory=lambda: _NO_MOTION)
    delay_spread_s: float = 0.0
    bandwidth_hz: float = 1.0
    subchannels: int = 1

    @property
    def holds(self) -> bool:
        """Whether the fading is one number a link and slot: neither in time nor over frequency."""
        return self.doppler_hz < 0 and self.delay_spread_s == 0

    def samples(self, source: IntArray, destination: IntArray, length_s: FloatArray) -> int:
        """How often transmissions sample their fading: four times a Doppler period and once a coherence bandwidth.

        The period is that of the largest shift, of both ends and what is around them in one direction. The coherence
        bandwidth is that of correlation 1/2, 0.276 over the delay spread; at most 16 times.

        Args:
            source: (rows,) senders.
            destination: (rows,) receivers.
            length_s: (rows,) lengths in s.
        """
        shift = np.full(source.shape, max(self.doppler_hz, 0.0))
        if self.motion.shape[1]:
            own = np.hypot(*self.motion[2:])
            shift += own[source] + own[destination]
        in_time = math.ceil(_SAMPLES_PER_PERIOD * float((length_s * shift).max(initial=0.0)))
        over_band = math.ceil(self.bandwidth_hz * self.delay_spread_s / COHERENCE)
        return min(max(in_time, over_band, 1), _MOST_SAMPLES)

    def turns(self, samples: int) -> FloatArray:
        """(sub-channels, samples) frequencies f of the samples times the delay spread.

        They spread over the sub-channel by the golden ratio, so that they do not go with the samples' times; a single
        one is its middle.
        """
        place: FloatArray = np.arange(samples, dtype=np.float64) + 0.5
        share: FloatArray = (place * _GOLDEN_RATIO) % 1.0 if samples > 1 else place
        frequency_hz = (np.arange(self.subchannels)[:, None] + share) * self.bandwidth_hz
        return frequency_hz * self.delay_spread_s

    def law(self, samples: int, band: int = 0) -> tuple[Any, ...]:
        """What `channels.fading_kernels.fading_factors` takes after pairs and times.

        Args:
            samples: Over how many frequencies of a sub-channel the power is averaged.
            band: The sub-channel.
        """
        return (
            self.doppler_hz, self.kind, self.shape, self.table, np.uint64(self.key), self.motion, self.delay_spread_s,
            self.turns(samples)[band],
        )  # fmt: skip
