"""Which node of a cluster hosts which devices: a balanced partition of the message graph with little crossing.

Pure and deterministic, without Ray. Messages between devices of one node stay in its memory; the others travel. The
problem, minimise the bytes between parts of given sizes, is balanced graph partitioning; it is solved by several
starts (the topology's clusters laid out in a row in many orders, regions grown from single devices), each refined by
moving devices between two parts at a time.

Source: Fiduccia and Mattheyses, "A linear-time heuristic for improving network partitions", DAC 1982; Kernighan and
Lin, "An efficient heuristic procedure for partitioning graphs", Bell Syst. Tech. J. 49, 1970. Departures: gains in a
heap instead of buckets, since bytes are no small integers; k parts by refining every pair that has a cut.
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
    """How many bytes pass between devices in a typical round.

    Attributes:
        count: Number of devices.
        pairs: (E, 2) int64, each pair of devices once.
        bytes: (E,) float64, both directions together.
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
        """
        low, high = np.minimum(source, destination), np.maximum(source, destination)
        keys, place = np.unique(low * count + high, return_inverse=True)
        weight = np.bincount(place, weights=size, minlength=len(keys))
        pairs = np.stack([keys // count, keys % count], axis=1).astype(np.int64)
        other = pairs[:, 0] != pairs[:, 1]
        return cls(count, pairs[other], weight[other])

    def crossing(self, part: np.ndarray) -> float:
        """Bytes between devices of different parts."""
        return float(self.bytes[part[self.pairs[:, 0]] != part[self.pairs[:, 1]]].sum())

    def neighbours(self) -> list[list[tuple[int, float]]]:
        """For each device its partners and the bytes between them, in the order of `pairs`."""
        out: list[list[tuple[int, float]]] = [[] for _ in range(self.count)]
        for (a, b), w in zip(self.pairs.tolist(), self.bytes.tolist(), strict=True):
            out[a].append((b, w))
            out[b].append((a, w))
        return out


def assign(
    graph: MessageGraph, cluster: np.ndarray, sizes: Sequence[int], limits: Sequence[int] | None = None
) -> np.ndarray:
    """Deal the devices to parts so that few bytes cross between parts.

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
    """Orders of the clusters: as numbered, all of a few, or chains of partners from each one."""
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
    """Fill part after part with the free device that exchanges most with it."""
    part = np.full(count, -1, np.int64)
    free = iter([seed, *range(count)])
    for number, size in enumerate(sizes):
        pull: dict[int, float] = {}
        heap: list[tuple[float, int]] = []
        for _ in range(size):
            device = _strongest(heap, pull, part)
            if device is None:
                device = next(d for d in free if part[d] < 0)
            part[device] = number
            for other, weight in neighbours[device]:
                if part[other] < 0:
                    pull[other] = pull.get(other, 0.0) + weight
                    heapq.heappush(heap, (-pull[other], other))
    return part


def _strongest(heap: list[tuple[float, int]], pull: dict[int, float], part: np.ndarray) -> int | None:
    while heap:
        negative, device = heapq.heappop(heap)
        if part[device] < 0 and -negative == pull[device]:
            return device
    return None


def _refine(
    start: np.ndarray, graph: MessageGraph, neighbours: list[list[tuple[int, float]]], limits: Sequence[int]
) -> np.ndarray:
    """Passes over all pairs of parts with a cut until none of them improves it."""
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
    """Move devices between two parts, each at most once, and keep the best stretch of moves; gives its gain."""
    side = _Sides(part, neighbours, p, q)
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


class _Sides:
    """The devices of two parts with what moving each to the other would save."""

    def __init__(self, part: list[int], neighbours: list[list[tuple[int, float]]], p: int, q: int) -> None:
        self.part, self.neighbours, self.other = part, neighbours, {p: q, q: p}
        self.size = {p: 0, q: 0}
        self.gain: dict[int, float] = {}
        self.heaps: dict[int, list[tuple[float, int]]] = {p: [], q: []}
        for device, own in enumerate(part):
            if own in self.other:
                self.size[own] += 1
                there = self.other[own]
                gain = sum(
                    w if part[o] == there else -w if part[o] == own else 0.0 for o, w in neighbours[device]
                )
                self.gain[device] = gain
                self.heaps[own].append((-gain, device))
        for heap in self.heaps.values():
            heapq.heapify(heap)

    def take(self, limits: Sequence[int]) -> tuple[int, float] | None:
        """Make the best move that leaves no part more than one device above its limit."""
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
        heap = self.heaps[own]
        while heap:
            negative, device = heap[0]
            if device in self.gain and -negative == self.gain[device] and self.part[device] == own:
                return device
            heapq.heappop(heap)
        return None
