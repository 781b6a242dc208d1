"""What every graph builder gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from topology.arrays import BoolArray, FloatArray, IntArray
from topology.links import Links


@dataclass(frozen=True, eq=False)
class GraphInput:
    """Devices, tasks and candidate links: the input of a graph builder.

    Attributes:
        positions_m: (N, 2) positions, metres.
        mixture: (N, T) task weights.
        links: Candidate links with their costs.
        rng: Source of every draw.
        free_choice: True if links may be laid without regard to reach (``reach`` is ``ignore`` or ``relay``);
            False if only candidate links exist.
    """

    positions_m: FloatArray
    mixture: FloatArray
    links: Links
    rng: np.random.Generator
    free_choice: bool

    @property
    def nodes(self) -> int:
        """Number of devices."""
        return len(self.positions_m)

    def possible(self, pairs: IntArray) -> BoolArray:
        """Which of the given pairs may be linked: all with free choice, else the candidate links.

        Args:
            pairs: (Q, 2) device numbers, ends in either order.

        Returns:
            (Q,) mask on ``pairs``.
        """
        if self.free_choice:
            return np.ones(len(pairs), np.bool_)
        return self.links.lookup(pairs) >= 0


@dataclass(frozen=True, eq=False)
class GraphLinks:
    """What a builder decided.

    Attributes:
        edges: (L, 2) links between devices that talk to each other, any order.
        hops: (H, 2) further links that serve only as hops of relays.
        relays: (task, path) for pairs joined by relays; task −1 for every task both hold.
        cluster: (N,) labels, or None for the default ones.
    """

    edges: IntArray
    hops: IntArray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    relays: tuple[tuple[int, IntArray], ...] = ()
    cluster: IntArray | None = None


Builder = Callable[..., GraphLinks]
