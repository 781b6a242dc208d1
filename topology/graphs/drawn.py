"""Random graphs: `erdos_renyi`, `k_regular`, `small_world`."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from topology.arrays import IntArray, as_pairs, capped, find_pairs
from topology.graphs.base import GraphInput, GraphLinks
from topology.graphs.regular import Order, visiting_order
from topology.registry import Within

EXACT_REGULAR_DEVICES = 5_000


def erdos_renyi(
    inputs: GraphInput,
    *,
    probability: Annotated[float | None, Within(ge=0, le=1)] = None,
    mean_degree: Annotated[float, Within(ge=0)] = 6.0,
) -> GraphLinks:
    """Each possible link is there with the same probability.

    The links are drawn independently with p = ``probability``, or p = min(1, ``mean_degree``·N/2/M), M being
    the number of possible links: N·(N−1)/2 with free reach, else the number of candidates.

    Args:
        inputs: Devices and candidate links.
        probability: Chance of a link; none = derived from ``mean_degree``.
        mean_degree: Expected number of neighbours (at most all), used if there is no ``probability``.

    Returns:
        The plan.

    Raises:
        ValueError: If a value is out of range.

    Source: Gilbert, "Random graphs", Ann. Math. Statist. 30, 1959, the model G(N, p). Departure: without free
        reach only candidate links are drawn.
    """
    nodes = inputs.nodes
    possible = nodes * (nodes - 1) // 2 if inputs.free_choice else len(inputs.links.pairs)
    chance = min(1.0, mean_degree * nodes / 2 / max(possible, 1)) if probability is None else probability
    if not 0 <= chance <= 1:
        raise ValueError(f"erdos_renyi: probability must lie in 0..1 and mean_degree be ≥ 0, got {chance}")
    if not inputs.free_choice:
        return GraphLinks(inputs.links.pairs[inputs.rng.random(possible) < chance])
    wanted = int(inputs.rng.binomial(possible, chance))
    rows = (
        inputs.rng.choice(possible, wanted, replace=False, shuffle=False) if wanted else np.empty(0, np.int64)
    )
    return GraphLinks(_unrank(np.asarray(rows, np.int64)))


def _unrank(rows: IntArray) -> IntArray:
    """The pair (i < j) with number j·(j−1)/2 + i."""
    high = ((1 + np.sqrt(1 + 8 * rows.astype(np.float64))) / 2).astype(np.int64)
    # The square root may round across a whole number in either direction.
    high -= high * (high - 1) // 2 > rows
    high += (high + 1) * high // 2 <= rows
    return np.stack([rows - high * (high - 1) // 2, high], axis=1)


def k_regular(inputs: GraphInput, *, degree: Annotated[int, Within(ge=1)] = 4) -> GraphLinks:
    """Random graph in which every device has the same number of neighbours k.

    Among candidates: links are taken in random order while both ends have fewer than k, so some devices may
    end below k. With free reach: exactly k, drawn by networkx up to 5,000 devices and, above, as the union of
    random circles (and, for odd k, a random matching), repeated links being re-drawn.

    Args:
        inputs: Devices and candidate links.
        degree: Neighbours k of a device, 1 ≤ k < N; k·N even with free reach.

    Returns:
        The plan.

    Raises:
        ValueError: If no such graph exists.
    """
    nodes = inputs.nodes
    if not 1 <= degree < nodes:
        raise ValueError(
            f"k_regular: degree must lie in 1..{nodes - 1} for {nodes} devices, got {degree}; "
            "change topology.degree or the number of devices"
        )
    if not inputs.free_choice:
        pairs = inputs.links.pairs
        return GraphLinks(pairs[capped(pairs, inputs.rng.random(len(pairs)), np.full(nodes, degree))])
    if degree * nodes % 2:
        raise ValueError(
            f"k_regular: {nodes} devices cannot all have {degree} neighbours (odd sum); change "
            "topology.degree or the number of devices by one"
        )
    if nodes <= EXACT_REGULAR_DEVICES:
        import networkx as nx

        graph = nx.random_regular_graph(degree, nodes, seed=int(inputs.rng.integers(2**31)))
        return GraphLinks(np.array(list(graph.edges()), np.int64).reshape(-1, 2))
    edges = np.empty((0, 2), np.int64)
    for step in range((degree + 1) // 2):
        cycle = step < degree // 2
        edges = np.concatenate([edges, _fresh_layer(inputs.rng, nodes, edges, cycle=cycle)])
    return GraphLinks(edges)


def _fresh_layer(rng: np.random.Generator, nodes: int, edges: IntArray, *, cycle: bool) -> IntArray:
    """A random circle (or matching) that repeats no link of `edges`."""
    table = as_pairs(edges, nodes)[0]
    line = rng.permutation(nodes)
    while True:
        layer = np.stack([line, np.roll(line, -1)], axis=1) if cycle else line.reshape(-1, 2)
        repeated = np.flatnonzero(find_pairs(layer, table, nodes) >= 0)
        if len(repeated) == 0:
            return layer.astype(np.int64)
        for row in repeated.tolist():
            here, there = row if cycle else 2 * row, int(rng.integers(nodes))
            line[[here, there]] = line[[there, here]]


def small_world(
    inputs: GraphInput,
    *,
    degree: Annotated[int, Within(ge=2)] = 4,
    rewire: Annotated[float, Within(ge=0, le=1)] = 0.1,
    order: Order = "tour",
) -> GraphLinks:
    """Watts–Strogatz: a ring in which each device knows its k nearest, some links re-laid at random.

    Among candidates the lattice keeps only links in reach, and a re-laid link goes to a random device in
    reach of its first end.

    Args:
        inputs: Devices and candidate links.
        degree: Neighbours k on the ring, even, 2 ≤ k < N.
        rewire: Chance that a link is re-laid.
        order: The ring's order, as in `ring`.

    Returns:
        The plan.

    Raises:
        ValueError: If a value is out of range.

    Source: Watts and Strogatz, "Collective dynamics of small-world networks", Nature 393, 1998. Departure: a
        re-laid link that falls on an existing one is dropped, not drawn again.
    """
    if not 2 <= degree < inputs.nodes or degree % 2 or not 0 <= rewire <= 1:
        raise ValueError(
            f"small_world: degree must be even and lie in 2..{inputs.nodes - 1} for {inputs.nodes} devices, "
            f"and rewire in 0..1, got {degree}, {rewire}; change topology.degree, topology.rewire or the number of "
            "devices"
        )
    line = visiting_order(inputs, order)
    lattice = np.concatenate([np.stack([line, np.roll(line, -s)], axis=1) for s in range(1, degree // 2 + 1)])
    moved = inputs.rng.random(len(lattice)) < rewire
    target = _random_partner(inputs, lattice[moved, 0])
    lattice[moved, 1] = np.where(target >= 0, target, lattice[moved, 1])
    lattice = lattice[lattice[:, 0] != lattice[:, 1]]
    return GraphLinks(lattice[inputs.possible(lattice)])


def _random_partner(inputs: GraphInput, devices: IntArray) -> IntArray:
    """A random device for each, among those it can be linked with; −1 if there is none."""
    if inputs.free_choice:
        return (devices + 1 + inputs.rng.integers(inputs.nodes - 1, size=len(devices))) % inputs.nodes
    both = np.concatenate([inputs.links.pairs, inputs.links.pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    start = np.searchsorted(both[:, 0], devices)
    count = np.searchsorted(both[:, 0], devices, side="right") - start
    pick = start + (inputs.rng.random(len(devices)) * count).astype(np.int64)
    return (
        np.where(count > 0, both[np.minimum(pick, max(len(both) - 1, 0)), 1], -1) if len(both) else count - 1
    )
