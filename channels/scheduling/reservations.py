"""What devices have reserved and heard of each other, for schedulers by reservations (`channels.scheduling.sidelink`).

Time is counted in slots of one length. A resource is a slot's place in the period and a sub-channel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from channels.arrays import BoolArray, IntArray

NEVER = -(2**30)
"""A slot long before the first."""

_Slots = np.ndarray[tuple[int, int], np.dtype[np.int32]]


def _none() -> IntArray:
    return np.zeros(0, dtype=np.int64)


@dataclass
class Reservations:
    """The reservations of N devices, all with one period of P slots; empty until `ready` is called.

    Attributes:
        slot: (N,) slot in which each device sends next, by its own reservation; `NEVER` without one.
        band: (N,) its sub-channel.
        uses: (N,) uses that are left of it before it is drawn whether to keep it.
        begin: (N,) slot from which a device without one may choose.
        fresh: (N,) devices that have sent something whose fate they have not looked at.
        told_slot: (N,) next slot that each device has announced to all who heard it; `NEVER` for none.
        told_band: (N,) its sub-channel.
        sent_slot: (N, P) slot in which each device last sent at each place of the period.
    """

    slot: IntArray = field(default_factory=_none)
    band: IntArray = field(default_factory=_none)
    uses: IntArray = field(default_factory=_none)
    begin: IntArray = field(default_factory=_none)
    told_slot: IntArray = field(default_factory=_none)
    told_band: IntArray = field(default_factory=_none)
    fresh: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    sent_slot: _Slots = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))

    def ready(self, devices: int, period: int) -> None:
        """Start with nothing reserved and nothing sent, unless that was done before.

        Args:
            devices: Number of devices N.
            period: Slots of a period P.
        """
        if self.slot.shape[0] == devices:
            return
        self.slot, self.told_slot = (np.full(devices, NEVER, dtype=np.int64) for _ in range(2))
        self.band, self.uses, self.begin, self.told_band = (
            np.zeros(devices, dtype=np.int64) for _ in range(4)
        )
        self.fresh = np.zeros(devices, dtype=bool)
        self.sent_slot = np.full((devices, period), NEVER, dtype=np.int32)
