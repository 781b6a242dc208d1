"""Improve a set of links in which groups are connected: drop what is redundant, try single exchanges."""

from __future__ import annotations

import numpy as np

from topology.arrays import BoolArray, FloatArray, IntArray

PRUNE_DEVICES = 5_000
EXCHANGE_BUDGET = 12_000


class LinkSet:
    """A set of links under test: who is whose neighbour, and which groups a link serves (as bit masks)."""

    def __init__(self, pairs: IntArray, member: BoolArray, chosen: BoolArray) -> None:
        """Start from the chosen links; `member` is (N, G)."""
        powers = [1 << group for group in range(member.shape[1])]
        self.groups = [sum(p for p, held in zip(powers, row, strict=True) if held) for row in member.tolist()]
        self._pairs = pairs
        self.near: list[set[int]] = [set() for _ in range(len(member))]
        self.chosen: set[int] = set()
        for row in np.flatnonzero(chosen).tolist():
            self.add(row)

    def ends(self, row: int) -> tuple[int, int]:
        """The two devices of a link.

        Args:
            row: Row of the link in the candidate pairs.

        Returns:
            The device numbers, in the order of the row.
        """
        return int(self._pairs[row, 0]), int(self._pairs[row, 1])

    def add(self, row: int) -> None:
        """Put a link in, by its row in the candidate pairs."""
        a, b = self.ends(row)
        self.near[a].add(b)
        self.near[b].add(a)
        self.chosen.add(row)

    def drop(self, row: int) -> None:
        """Take a link out, by its row in the candidate pairs."""
        a, b = self.ends(row)
        self.near[a].discard(b)
        self.near[b].discard(a)
        self.chosen.discard(row)

    def redundant(self, row: int) -> bool:
        """Whether every group that uses the link stays connected without it.

        For each group that both ends belong to, another path between the ends inside the group is sought by
        breadth-first search from both sides.

        Args:
            row: Row of a link in the candidate pairs.

        Returns:
            True if there is such a path in every shared group; true as well if the ends share no group.
        """
        a, b = self.ends(row)
        shared = self.groups[a] & self.groups[b]
        while shared:
            bit = shared & -shared
            if not self._around(a, b, bit):
                return False
            shared ^= bit
        return True

    def _around(self, a: int, b: int, bit: int) -> bool:
        """Search from both ends inside one group, never over the link a–b itself."""
        sides = ({a}, {b})
        fronts = [[a], [b]]
        while fronts[0] and fronts[1]:
            turn = 0 if len(fronts[0]) <= len(fronts[1]) else 1
            reached: list[int] = []
            for node in fronts[turn]:
                for other in self.near[node]:
                    if (node == a and other == b) or (node == b and other == a):
                        continue
                    if other in sides[1 - turn]:
                        if self.groups[other] & bit:
                            return True
                    elif other not in sides[turn] and self.groups[other] & bit:
                        sides[turn].add(other)
                        reached.append(other)
            fronts[turn] = reached
        return False

    def excess(self, row: int, max_degree: int) -> int:
        """How many of the link's ends have more neighbours than wanted.

        Args:
            row: Row of the link in the candidate pairs.
            max_degree: Wanted largest number of neighbours.

        Returns:
            0, 1 or 2.
        """
        return sum(len(self.near[end]) > max_degree for end in self.ends(row))

    def total_excess(self, max_degree: int) -> int:
        """Neighbours above the wanted number, over all devices: Σ_i max(d_i − max_degree, 0).

        Args:
            max_degree: Wanted largest number of neighbours.

        Returns:
            The sum; 0 if every device keeps the bound.
        """
        return sum(max(len(near) - max_degree, 0) for near in self.near)


def polish(
    pairs: IntArray,
    cost: FloatArray,
    member: BoolArray,
    chosen: BoolArray,
    *,
    max_degree: int,
    locked: BoolArray,
) -> BoolArray:
    """Drop redundant links and, on small instances, exchange links while that helps.

    An exchange adds one link and drops what it makes redundant; it is kept if it lowers first the number of
    neighbours above ``max_degree``, then the cost. Above 5,000 devices nothing is done: re-routing in
    `topology.overlay` leaves few redundant links there (1–3 % of cost in tests).

    Args:
        pairs: (E, 2) candidate links.
        cost: (E,) cost of each.
        member: (N, G) group membership.
        chosen: (E,) links to start from, every group connected where it can be.
        max_degree: Wanted largest number of neighbours.
        locked: (E,) links that stay.

    Returns:
        (E,) mask, every group as connected as before.
    """
    nodes = len(member)
    if nodes > PRUNE_DEVICES:
        return chosen
    links = LinkSet(pairs, member, chosen)
    keep = set(np.flatnonzero(locked).tolist())
    _prune(links, cost, keep, max_degree)
    if small(pairs, chosen) or _worth_relief(links, max_degree, len(pairs)):
        _exchange(links, cost, keep, max_degree)
    result = np.zeros(len(pairs), np.bool_)
    result[sorted(links.chosen)] = True
    return result


def small(pairs: IntArray, chosen: BoolArray) -> bool:
    """Whether an instance is small enough for exchanges: E · (chosen links) ≤ `EXCHANGE_BUDGET`.

    Args:
        pairs: (E, 2) candidate links.
        chosen: (E,) mask of the chosen links.

    Returns:
        True if exchanges are tried.
    """
    return len(pairs) * int(chosen.sum()) <= EXCHANGE_BUDGET


def _worth_relief(links: LinkSet, max_degree: int, candidates: int) -> bool:
    """A few overloaded devices justify a longer search."""
    return links.total_excess(max_degree) > 0 and candidates * len(links.chosen) <= 8 * EXCHANGE_BUDGET


def _prune(links: LinkSet, price: FloatArray, keep: set[int], max_degree: int) -> list[int]:
    """Drop redundant links, those at overloaded devices first, then the dearest; returns what went."""
    dropped: list[int] = []
    order = sorted(links.chosen - keep, key=lambda row: (-links.excess(row, max_degree), -price[row], row))
    for row in order:
        if links.redundant(row):
            links.drop(row)
            dropped.append(row)
    return dropped


def _exchange(links: LinkSet, price: FloatArray, keep: set[int], max_degree: int) -> None:
    order = sorted(range(len(price)), key=lambda row: (price[row], row))
    improved = True
    while improved:
        improved = False
        for row in order:
            if row not in links.chosen and _try(links, row, price, keep, max_degree):
                improved = True


def _try(links: LinkSet, row: int, price: FloatArray, keep: set[int], max_degree: int) -> bool:
    before = links.total_excess(max_degree)
    links.add(row)
    dropped = _prune(links, price, keep | {row}, max_degree)
    gain = float(price[dropped].sum() - price[row])
    after = links.total_excess(max_degree)
    if (after, -gain) < (before, -1e-9):
        return True
    for other in dropped:
        links.add(other)
    links.drop(row)
    return False
