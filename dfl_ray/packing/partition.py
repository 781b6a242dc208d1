"""Graph partitioning: which node of a cluster hosts which devices, so that few message bytes cross between nodes.

Pure and deterministic, without Ray. Messages between devices of one node stay in its memory; the others travel over
the network. With w(u, v) the bytes that devices u and v exchange and part(u) the node of u, this is balanced graph
partitioning, which is NP-hard:

    minimise    cut(part) = sum over pairs {u, v} with part(u) != part(v) of w(u, v)
    subject to  |{u : part(u) = p}| <= limit_p   for every node p

It is solved by local search from several starts: the topology's clusters laid out in a row in many orders and cut
into blocks, and greedy graph growing from single devices. Each start is refined by Fiduccia-Mattheyses passes between
two parts at a time: in a pass every device moves at most once, the move with the largest gain first even where that
gain is negative, and the prefix of moves with the smallest cut is kept.

Source: B. W. Kernighan and S. Lin, "An efficient heuristic procedure for partitioning graphs", Bell System Technical
Journal 49(2), 1970 (passes over pairs of parts, best prefix of moves); C. M. Fiduccia and R. M. Mattheyses, "A
linear-time heuristic for improving network partitions", DAC 1982 (single moves, gains updated along neighbours); G.
Karypis and V. Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs", SIAM Journal on
Scientific Computing 20(1), 1998 (greedy graph growing). Departures: gains in a heap instead of buckets, since bytes
are no small integers; k parts by refining every pair of parts that has a cut; a pass ends after `LONGEST_DESCENT`
moves without an improvement.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

TINY_GRAPH, SMALL_GRAPH = 64, 2000
"""Devices up to which 64 and 8 starts are refined; above it two, as each costs about a second for 10,000 devices."""
LONGEST_DESCENT = 400
"""Moves without an improvement after which a pass over two parts ends."""
MANY_CLUSTERS = 6
"""Clusters up to which every order of theirs is tried."""


@dataclass(frozen=True)
class Node:
    """One machine of a cluster.

    Attributes:
        name: What the cluster calls it.
        cpus: Its logical CPUs.
        gpus: Its logical GPUs.
        memory_bytes: Memory it offers.
        address: What a person calls it.
    """

    name: str
    cpus: float
    gpus: float = 0.0
    memory_bytes: float = float("inf")
    address: str = ""


@dataclass(frozen=True)
class MessageGraph:
    """Weighted undirected graph of the bytes that pass between devices in a typical round.

    Attributes:
        count: Number of devices.
        pairs: (E, 2) int64, each pair of devices once.
        bytes: (E,) float64, weight w of each pair: bytes a round, both directions together.
    """

    count: int
    pairs: np.ndarray
    bytes: np.ndarray

    @classmethod
    def build(cls, count: int, source: np.ndarray, destination: np.ndarray, size: np.ndarray) -> MessageGraph:
        """Sum messages over pairs of devices, whatever their direction.

        Args:
            count: Number of devices.
            source: (messages,) sender.
            destination: (messages,) receiver.
            size: (messages,) bytes.

        Returns:
            The graph; messages of a device to itself are left out.
        """
        low, high = np.minimum(source, destination), np.maximum(source, destination)
        keys, place = np.unique(low * count + high, return_inverse=True)
        weight = np.bincount(place, weights=size, minlength=len(keys))
        pairs = np.stack([keys // count, keys % count], axis=1).astype(np.int64)
        other = pairs[:, 0] != pairs[:, 1]
        return cls(count, pairs[other], weight[other])

    def crossing(self, part: np.ndarray) -> float:
        """Weight of the cut: bytes a round between devices of different parts.

        Args:
            part: (devices,) part of each device.

        Returns:
            Bytes a round; each pair counts once.
        """
        return float(self.bytes[part[self.pairs[:, 0]] != part[self.pairs[:, 1]]].sum())

    def neighbours(self) -> list[list[tuple[int, float]]]:
        """List each device's partners.

        Returns:
            For each device (partner, bytes a round), in the order of `pairs`.
        """
        out: list[list[tuple[int, float]]] = [[] for _ in range(self.count)]
        for (a, b), w in zip(self.pairs.tolist(), self.bytes.tolist(), strict=True):
            out[a].append((b, w))
            out[b].append((a, w))
        return out


def assign(
    graph: MessageGraph, cluster: np.ndarray, sizes: Sequence[int], limits: Sequence[int] | None = None
) -> np.ndarray:
    """Partition the devices so that few bytes cross between parts; see the module for the problem and the method.

    Never worse than the clusters laid out in a row and cut into blocks, which is one of its starts.

    Args:
        graph: Bytes between devices.
        cluster: (devices,) label of each.
        sizes: Devices wanted in each part; their sum is the number of devices.
        limits: Most devices a part may hold, at least `sizes`; None means exactly `sizes`.

    Returns:
        (devices,) int64 part of each.

    Raises:
        ValueError: The sizes do not add up to the devices, or a limit is below its size.
    """
    limits = list(sizes if limits is None else limits)
    if sum(sizes) != graph.count or any(low > high for low, high in zip(sizes, limits, strict=True)):
        raise ValueError(
            f"part sizes {list(sizes)} (sum {sum(sizes)}) with limits {limits} do not fit {graph.count} devices"
        )
    if sum(size > 0 for size in sizes) <= 1:
        return np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    found = {s.tobytes(): s for s in _starts(graph, cluster, sizes)}
    kept = 64 if graph.count <= TINY_GRAPH else 8 if graph.count <= SMALL_GRAPH else 2
    best = sorted(found.values(), key=graph.crossing)[:kept]
    neighbours = graph.neighbours()
    return min((_refine(s, graph, neighbours, limits) for s in best), key=graph.crossing)


def _starts(graph: MessageGraph, cluster: np.ndarray, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Initial partitions, (devices,) each: the clusters in several orders cut into blocks, and graph growing."""
    number = np.arange(graph.count)
    blocks = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    rank = np.unique(cluster, return_inverse=True)[1]
    for order in _cluster_orders(graph, rank):
        part = np.empty(graph.count, np.int64)
        part[np.lexsort((number, np.argsort(order)[rank]))] = blocks
        yield part
    neighbours = graph.neighbours()
    seeds = (
        number
        if graph.count <= TINY_GRAPH
        else number[:: graph.count // 8 if graph.count > SMALL_GRAPH else 16]
    )
    for seed in seeds.tolist():
        yield _grow(graph.count, neighbours, sizes, seed)


def _cluster_orders(graph: MessageGraph, rank: np.ndarray) -> Iterator[np.ndarray]:
    """Orders of the clusters: as numbered, all permutations of a few, or greedy chains along the heaviest exchange."""
    count = int(rank.max()) + 1
    yield np.arange(count)
    if count <= MANY_CLUSTERS:
        yield from map(np.array, itertools.permutations(range(count)))
        return
    between = np.zeros((count, count))
    np.add.at(between, (rank[graph.pairs[:, 0]], rank[graph.pairs[:, 1]]), graph.bytes)
    between += between.T
    for first in range(min(count, 16)):
        order, left = [first], set(range(count)) - {first}
        while left:
            order.append(max(sorted(left), key=lambda c: between[order[-1], c]))
            left.discard(order[-1])
        yield np.array(order)


def _grow(
    count: int, neighbours: list[list[tuple[int, float]]], sizes: Sequence[int], seed: int
) -> np.ndarray:
    """Greedy graph growing: fill part after part with the free device that exchanges most bytes with it."""
    part = np.full(count, -1, np.int64)
    free = iter([seed, *range(count)])
    for number, size in enumerate(sizes):
        weight_to_part: dict[int, float] = {}
        heap: list[tuple[float, int]] = []
        for _ in range(size):
            device = _heaviest(heap, weight_to_part, part)
            if device is None:
                device = next(d for d in free if part[d] < 0)
            part[device] = number
            for other, weight in neighbours[device]:
                if part[other] < 0:
                    weight_to_part[other] = weight_to_part.get(other, 0.0) + weight
                    heapq.heappush(heap, (-weight_to_part[other], other))
    return part


def _heaviest(
    heap: list[tuple[float, int]], weight_to_part: dict[int, float], part: np.ndarray
) -> int | None:
    """The free device with the largest weight; entries of the heap that are out of date are dropped."""
    while heap:
        negative, device = heapq.heappop(heap)
        if part[device] < 0 and -negative == weight_to_part[device]:
            return device
    return None


def _refine(
    start: np.ndarray, graph: MessageGraph, neighbours: list[list[tuple[int, float]]], limits: Sequence[int]
) -> np.ndarray:
    """Fiduccia-Mattheyses passes over all pairs of parts with a cut, until none of them improves it or ten rounds."""
    part = start.tolist()
    parts = len(limits)
    for _ in range(10):
        ends = np.array(part)[graph.pairs]
        cut = np.unique(np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1), axis=0)
        gains = [_pass(part, neighbours, limits, p, q) for p, q in cut.tolist() if parts > 1]
        if not any(gain > 0 for gain in gains):
            break
    return np.array(part, np.int64)


def _pass(
    part: list[int], neighbours: list[list[tuple[int, float]]], limits: Sequence[int], p: int, q: int
) -> float:
    """One Fiduccia-Mattheyses pass between parts p and q; changes `part` and returns the bytes saved.

    Every device moves at most once; the prefix of moves with the largest total gain that keeps the limits is kept.
    """
    side = _Gains(part, neighbours, p, q)
    moves: list[int] = []
    total, best, kept = 0.0, 0.0, 0
    while len(moves) - kept < LONGEST_DESCENT:
        found = side.take(limits)
        if found is None:
            break
        device, gain = found
        moves.append(device)
        total += gain
        fits = side.size[p] <= limits[p] and side.size[q] <= limits[q]
        if fits and total > best * (1 + 1e-12) + 1e-9:
            best, kept = total, len(moves)
    for device in moves[kept:]:
        part[device] = p if part[device] == q else q
    return best


class _Gains:
    """Gains of all moves between parts p and q.

    gain(u) = sum of w(u, v) over v in the other part - sum of w(u, v) over v in u's own part

    is the number of bytes by which the cut shrinks when u moves to the other part. A device that has moved is locked:
    it has no gain any more.
    """

    def __init__(self, part: list[int], neighbours: list[list[tuple[int, float]]], p: int, q: int) -> None:
        self.part, self.neighbours, self.other = part, neighbours, {p: q, q: p}
        self.size = {p: 0, q: 0}
        self.gain: dict[int, float] = {}
        self.heaps: dict[int, list[tuple[float, int]]] = {p: [], q: []}
        for device, own in enumerate(part):
            if own in self.other:
                there = self.other[own]
                gain = sum(
                    w if part[o] == there else -w if part[o] == own else 0.0 for o, w in neighbours[device]
                )
                self.size[own] += 1
                self.gain[device] = gain
                self.heaps[own].append((-gain, device))
        for heap in self.heaps.values():
            heapq.heapify(heap)

    def take(self, limits: Sequence[int]) -> tuple[int, float] | None:
        """Make the move with the largest gain that leaves no part more than one device above its limit.

        Returns:
            The device and its gain in bytes, or None if no move is left.
        """
        options = [
            (self.gain[d], -d)
            for own, there in self.other.items()
            if self.size[there] <= limits[there] and (d := self._top(own)) is not None
        ]
        if not options:
            return None
        gain, negative = max(options)
        device = -negative
        own = self.part[device]
        there = self.other[own]
        heapq.heappop(self.heaps[own])
        del self.gain[device]
        self.part[device] = there
        self.size[own] -= 1
        self.size[there] += 1
        for other, weight in self.neighbours[device]:
            if other in self.gain:
                self.gain[other] += 2 * weight if self.part[other] == own else -2 * weight
                heapq.heappush(self.heaps[self.part[other]], (-self.gain[other], other))
        return device, gain

    def _top(self, own: int) -> int | None:
        """The unlocked device of a part with the largest gain; entries of the heap that are out of date are dropped."""
        heap = self.heaps[own]
        while heap:
            negative, device = heap[0]
            if device in self.gain and -negative == self.gain[device] and self.part[device] == own:
                return device
            heapq.heappop(heap)
        return None
