"""Velocities of devices, given with their moves or told by them: what the Doppler shift of each link follows from.

Where a move comes without velocities they are those at which the devices got there. A move that takes a device further
than it could have gone, `FASTEST_MPS`, is a jump then, and it keeps the velocity it had; a vehicle that leaves a road
and comes in at its other end is known for one only where that took little time. Before the first move that takes time
all stand still.

Fading in time follows from the way that each device has gone at its velocities, which changes of velocity and jumps do
not break, so that its phase never does either. Departure: where a move ends elsewhere than the velocity since the last
one says, by turns or jumps in between, fading goes on as if it had not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from channels.arrays import FloatArray
from channels.units import EXACT_SPEED_OF_LIGHT_M_S

FASTEST_MPS = 150.0


class Velocity:
    """Velocities from one move to the next, which hold until then.

    Attributes:
        velocity_mps: (N, 2) velocities in m/s; None where nobody asks for them.
    """

    def __init__(self, devices: int, *, wanted: bool) -> None:
        """Let all stand still.

        Args:
            devices: Number of devices N.
            wanted: Whether velocities are asked for; else nothing is kept.
        """
        self.velocity_mps: FloatArray | None = np.zeros((devices, 2)) if wanted else None
        self._way_m, self._since_s = np.zeros((devices, 2)), 0.0

    def moved(self, shift_m: FloatArray, now_s: float, velocity_mps: FloatArray | None = None) -> None:
        """Learn from a move.

        Args:
            shift_m: (N, 2) where each device has gone since the last one, in m.
            now_s: The virtual clock in s; a move that takes no time tells nothing.
            velocity_mps: (N, 2) velocities from now on in m/s; None: what the move tells.
        """
        took_s = now_s - self._since_s
        if self.velocity_mps is None or took_s <= 0:
            return
        self._way_m = self._way_m + self.velocity_mps * took_s
        if velocity_mps is not None:
            self.velocity_mps, self._since_s = np.array(velocity_mps, dtype=np.float64), now_s
            return
        found = shift_m / took_s
        possible = np.hypot(*found.T) <= FASTEST_MPS
        self.velocity_mps = np.where(possible[:, None], found, self.velocity_mps)
        self._since_s = now_s

    def motion(self, carrier_hz: float) -> FloatArray | None:
        """What fading in time takes of the devices; None where velocities are not asked for.

        Args:
            carrier_hz: Carrier frequency in Hz.

        Returns:
            (4, N): the way x gone along both axes, as x - v·t in wavelengths, the same at all times t of one velocity
            v, and v·carrier/c in Hz, along both axes.
        """
        if self.velocity_mps is None:
            return None
        start_m = self._way_m - self.velocity_mps * self._since_s
        return np.concatenate([start_m.T, self.velocity_mps.T]) * (carrier_hz / EXACT_SPEED_OF_LIGHT_M_S)

    def snapshot(self) -> dict[str, Any]:
        """All state as arrays and numbers; nothing where velocities are not asked for."""
        if self.velocity_mps is None:
            return {}
        return {
            "velocity_mps": self.velocity_mps.copy(),
            "way_m": self._way_m.copy(),
            "moved_at_s": self._since_s,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take the state of a snapshot; older ones know no ways, which begin anew."""
        if self.velocity_mps is not None:
            self.velocity_mps = np.array(snapshot["velocity_mps"], dtype=np.float64)
            self._way_m = np.array(snapshot.get("way_m", np.zeros_like(self.velocity_mps)), dtype=np.float64)
            self._since_s = float(snapshot["moved_at_s"])
