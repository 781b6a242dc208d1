"""Velocities of devices, given with their moves or told by them: what the Doppler shift of each link follows from.

Where a move comes without velocities they are those at which the devices got there. A move that takes a device further
than it could have gone, `FASTEST_MPS`, is a jump then, and it keeps the velocity it had; a vehicle that leaves a road
and comes in at its other end is known for one only where that took little time. Before the first move that takes time
all stand still.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from channels.arrays import FloatArray

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
        self._since_s = 0.0

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
        if velocity_mps is not None:
            self.velocity_mps, self._since_s = np.array(velocity_mps, dtype=np.float64), now_s
            return
        found = shift_m / took_s
        possible = np.hypot(*found.T) <= FASTEST_MPS
        self.velocity_mps = np.where(possible[:, None], found, self.velocity_mps)
        self._since_s = now_s

    def snapshot(self) -> dict[str, Any]:
        """All state as arrays and numbers; nothing where velocities are not asked for."""
        if self.velocity_mps is None:
            return {}
        return {"velocity_mps": self.velocity_mps.copy(), "moved_at_s": self._since_s}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take the state of a snapshot."""
        if self.velocity_mps is not None:
            self.velocity_mps = np.array(snapshot["velocity_mps"], dtype=np.float64)
            self._since_s = float(snapshot["moved_at_s"])
