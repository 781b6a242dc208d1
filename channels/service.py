"""What a channel remembers of its links: which were ever served, and which have been waiting."""

from __future__ import annotations

import numpy as np

from channels.arrays import BoolArray, IntArray
from channels.transfers import DELIVERED, LATE, UNSERVED, Transfers


class LinkService:
    """Service of directed links over the rounds of a run.

    Attributes:
        links: (L,) sorted ids source·N + destination of the links wanted so far.
        served: (L,) whether anything was ever delivered.
        waited: (L,) rounds in a row in which the link was wanted and its turn never came before the deadline.
    """

    def __init__(self, devices: int) -> None:
        """Start with no link known."""
        self._devices = devices
        self.links: IntArray = np.zeros(0, dtype=np.int64)
        self.served: BoolArray = np.zeros(0, dtype=bool)
        self.waited: IntArray = np.zeros(0, dtype=np.int64)

    def waited_rounds(self, wanted: Transfers) -> IntArray:
        """Rounds in a row in which the link of each transfer had no turn.

        Args:
            wanted: M transfers.

        Returns:
            (M,) rounds; 0 for a link that was not wanted before or had its turn in the last round.
        """
        out = np.zeros(len(wanted), dtype=np.int64)
        if self.links.size and len(wanted):
            ids = self._ids(wanted)
            place = np.minimum(np.searchsorted(self.links, ids), self.links.size - 1)
            known = self.links[place] == ids
            out[known] = self.waited[place[known]]
        return out

    def update(self, wanted: Transfers, outcome: IntArray) -> None:
        """Take in what became of one round's transfers.

        Args:
            wanted: M transfers.
            outcome: (M,) codes into `channels.transfers.OUTCOMES`.
        """
        links, number = np.unique(self._ids(wanted), return_inverse=True)
        joined = np.union1d(self.links, links)
        served, waited = np.zeros(joined.size, dtype=bool), np.zeros(joined.size, dtype=np.int64)
        old, new = np.searchsorted(joined, self.links), np.searchsorted(joined, links)
        served[old], waited[old] = self.served, self.waited
        count = links.size
        arrived = np.bincount(number.reshape(-1), weights=outcome == DELIVERED, minlength=count) > 0
        kept = (
            np.bincount(number.reshape(-1), weights=np.isin(outcome, (LATE, UNSERVED)), minlength=count) > 0
        )
        served[new] |= arrived
        waited[new] = np.where(kept & ~arrived, waited[new] + 1, 0)
        self.links, self.served, self.waited = joined.astype(np.int64), served, waited

    @property
    def starved_fraction(self) -> float:
        """Share of the links wanted so far that have never delivered anything; 0 where none was wanted."""
        return float(1.0 - self.served.mean()) if self.served.size else 0.0

    def _ids(self, wanted: Transfers) -> IntArray:
        return wanted.source * self._devices + wanted.destination
