"""What is under way to and from a device that waits for nobody: part of its state, saved with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dfl_ray.methods.laws import Planned
from dfl_ray.network.local_rounds import Inbox
from dfl_ray.wire.message import Kind


@dataclass
class Fate:
    """What became of one of a device's own messages, as arrays, so that it can be saved.

    Attributes:
        figures: (7,) int64: kind, task, payload bytes, version, exact, kept and in_force of `laws.Planned`.
        destinations: (D,) int64, for whom it was meant.
        reached: (R,) int64, those of them that get it.
    """

    figures: np.ndarray
    destinations: np.ndarray
    reached: np.ndarray

    @classmethod
    def of(cls, planned: Planned, reached: Sequence[int]) -> Fate:
        """Write down a message and who gets it."""
        p = planned
        figures = (int(p.kind), p.task, p.payload_bytes, p.version, int(p.exact), p.kept, p.in_force)
        return cls(*(np.array(values, np.int64) for values in (figures, p.destinations, reached)))

    @property
    def planned(self) -> Planned:
        """What the traffic law said of the message."""
        kind, task, payload_bytes, version, exact, kept, in_force = self.figures.tolist()
        to = tuple(self.destinations.tolist())
        return Planned(Kind(kind), task, to, payload_bytes, version, bool(exact), kept, in_force)


@dataclass
class Waiting(Inbox[np.ndarray]):
    """What is under way to and from a device; messages are (bytes,) uint8.

    Attributes:
        fates: Number -> what becomes of the messages it sent at the end of its last local round. It learns so by the
            end of the next one: a device sends only when its last messages have left.
    """

    fates: dict[int, Fate] = field(default_factory=dict)
