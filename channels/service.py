"""What a channel remembers of its links: which were ever served, and which have been waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray
from channels.outer_loop import OuterLoop
from channels.transfers import DELIVERED, LATE, UNSERVED, Transfers


class LinkService:
    """Service of directed links over the rounds of a run.

    Attributes:
        links: (L,) sorted ids source·N + destination of the links wanted so far.
        served: (L,) whether anything was ever delivered.
        waited: (L,) rounds in a row in which the link was wanted and its turn never came before the deadline.
        age: (L,) rounds since the link's last delivery, or since it was first wanted.
        offset_db: (L,) offset of each link's outer loop in dB (`channels.outer_loop`).
    """

    def __init__(self, devices: int) -> None:
        """Start with no link known."""
        self._devices = devices
        self.links: IntArray = np.zeros(0, dtype=np.int64)
        self.served: BoolArray = np.zeros(0, dtype=bool)
        self.waited: IntArray = np.zeros(0, dtype=np.int64)
        self.age: IntArray = np.zeros(0, dtype=np.int64)
        self.offset_db: FloatArray = np.zeros(0)

    def outer_loop(self, wanted: Transfers, target: float | None, step_db: float) -> OuterLoop | None:
        """The outer loop of a round's links, as it stands.

        Args:
            wanted: M transfers.
            target: Share of attempts that is to be lost; None for no loop.
            step_db: Its step in dB.

        Returns:
            The loop, None without a target; links that were not wanted before start at 0 dB.
        """
        if target is None:
            return None
        links, number = np.unique(self._ids(wanted), return_inverse=True)
        offset_db, place = np.zeros(links.size), np.searchsorted(self.links, links)
        known = np.isin(links, self.links, assume_unique=True)
        offset_db[known] = self.offset_db[place[known]]
        return OuterLoop(target, step_db, number.reshape(-1), offset_db)

    def snapshot(self) -> dict[str, IntArray | BoolArray | FloatArray]:
        """State that `restore` needs, by name."""
        return {"links": self.links.copy(), "links_served": self.served.copy(),
                "links_waited": self.waited.copy(), "links_age": self.age.copy(),
                "links_offset_db": self.offset_db.copy()}  # fmt: skip

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave.

        Args:
            snapshot: It, and perhaps more.
        """
        self.links = np.array(snapshot["links"], dtype=np.int64)
        self.served = np.array(snapshot["links_served"], dtype=bool)
        self.waited = np.array(snapshot["links_waited"], dtype=np.int64)
        self.age = np.array(snapshot["links_age"], dtype=np.int64)
        self.offset_db = np.array(snapshot["links_offset_db"], dtype=np.float64)

    def neglect(self, wanted: Transfers, priority: str) -> IntArray:
        """How neglected the link of each transfer is.

        Args:
            wanted: M transfers.
            priority: `age` counts rounds since the last delivery (the age of what the receiver has), anything else
                rounds in a row without a turn.

        Returns:
            (M,) rounds; 0 for a link that was not wanted before, or was served, or had its turn, in the last round.
        """
        rounds = self.age if priority == "age" else self.waited
        out = np.zeros(len(wanted), dtype=np.int64)
        if self.links.size and len(wanted):
            ids = self._ids(wanted)
            place = np.minimum(np.searchsorted(self.links, ids), self.links.size - 1)
            known = self.links[place] == ids
            out[known] = rounds[place[known]]
        return out

    def update(self, wanted: Transfers, outcome: IntArray, loop: OuterLoop | None = None) -> None:
        """Take in what became of one round's transfers.

        Args:
            wanted: M transfers.
            outcome: (M,) codes into `channels.transfers.OUTCOMES`.
            loop: The round's outer loop after it, as `outer_loop` gave it before.
        """
        links, number = np.unique(self._ids(wanted), return_inverse=True)
        joined = np.union1d(self.links, links)
        served, waited = np.zeros(joined.size, dtype=bool), np.zeros(joined.size, dtype=np.int64)
        offset_db = np.zeros(joined.size)
        old, new = np.searchsorted(joined, self.links), np.searchsorted(joined, links)
        served[old], waited[old], offset_db[old] = self.served, self.waited, self.offset_db
        if loop is not None:
            offset_db[new] = loop.offset_db
        count = links.size
        arrived = np.bincount(number.reshape(-1), weights=outcome == DELIVERED, minlength=count) > 0
        kept = (
            np.bincount(number.reshape(-1), weights=np.isin(outcome, (LATE, UNSERVED)), minlength=count) > 0
        )
        served[new] |= arrived
        age = np.zeros(joined.size, dtype=np.int64)
        age[old] = self.age + 1
        age[new] = np.where(arrived, 0, np.maximum(age[new], 1))
        self.age = age
        waited[new] = np.where(kept & ~arrived, waited[new] + 1, 0)
        self.links, self.served, self.waited = joined.astype(np.int64), served, waited
        self.offset_db = offset_db

    @property
    def starved_fraction(self) -> float:
        """Share of the links wanted so far that have never delivered anything; 0 where none was wanted."""
        return float(1.0 - self.served.mean()) if self.served.size else 0.0

    def _ids(self, wanted: Transfers) -> IntArray:
        return wanted.source * self._devices + wanted.destination
