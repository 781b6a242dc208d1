"""`d_cliques`: small cliques whose joint data look like everyone's, joined sparsely."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from topology.arrays import FloatArray, IntArray
from topology.graphs.base import GraphInput, GraphLinks
from topology.registry import Within

SWAP_ROUNDS = 400


def d_cliques(
    inputs: GraphInput,
    *,
    clique_size: Annotated[int | None, Within(ge=2)] = None,
    between: Literal["ring", "small_world", "complete"] = "ring",
    far: Annotated[int, Within(ge=2)] = 2,
) -> GraphLinks:
    """Build D-Cliques: cliques of devices chosen so that each clique's task mixture is near the global one.

    Devices are dealt to cliques at random, then random pairs of devices in different cliques are swapped
    whenever that lowers the cliques' summed skew ‖mean mixture of the clique − global mixture‖₁. Many
    disjoint pairs of cliques are tried at once, so the cost does not depend on a loop over devices.

    Args:
        inputs: Devices, mixtures and candidate links.
        clique_size: Devices per clique, all in one if there are fewer; none = the number of tasks, between 2 and 10.
        between: How cliques are joined: ``ring`` (neighbouring cliques), ``small_world`` (a ring and, from each
            clique, links at distances 2, 4, 8, … cliques), or ``complete`` (every two cliques).
        far: For ``small_world``, base of the growing distances.

    Returns:
        The plan; the label of a device is its clique.

    Raises:
        ValueError: If a value is out of range.

    Source: Bellet, Kermarrec and Lavoie, "D-Cliques: compensating for data heterogeneity with topology in
        decentralized federated learning", SRDS 2022, Algorithm 1. Departures: swaps in parallel; links
        between two cliques start at the member with the fewest such links.
    """
    size = min(max(inputs.mixture.shape[1], 2), 10) if clique_size is None else clique_size
    if size < 2 or between not in ("ring", "small_world", "complete") or far < 2:
        raise ValueError(
            "d_cliques needs clique_size ≥ 2, between = ring, small_world or complete, and far ≥ 2, "
            f"got {size}, {between!r}, {far}"
        )
    seats = _even_cliques(inputs, min(size, max(inputs.nodes, 2)))
    inside = _inside(seats)
    joins = _joins(len(seats), between, far)
    edges = np.concatenate([inside, _bridge(seats, joins)])
    label = np.empty(inputs.nodes, np.int64)
    rows, columns = np.nonzero(seats >= 0)
    label[seats[rows, columns]] = rows
    return GraphLinks(edges[inputs.possible(edges)], cluster=label)


def _even_cliques(inputs: GraphInput, size: int) -> IntArray:
    """Cliques as rows of device numbers, −1 for an empty seat."""
    count = -(-inputs.nodes // size)
    seats = np.full(count * size, -1, np.int64)
    seats[: inputs.nodes] = inputs.rng.permutation(inputs.nodes)
    # Empty seats are spread over the cliques, one each.
    seats = seats.reshape(size, count).T.copy()
    average = inputs.mixture.mean(axis=0)
    weights = np.vstack([inputs.mixture, np.zeros(inputs.mixture.shape[1])])
    half = count // 2
    for _ in range(SWAP_ROUNDS if half else 0):
        order = inputs.rng.permutation(count)
        left, right = order[:half], order[half : 2 * half]
        at_left, at_right = inputs.rng.integers(size, size=half), inputs.rng.integers(size, size=half)
        give, take = seats[left, at_left], seats[right, at_right]
        sums = [weights[seats[side]].sum(axis=1) for side in (left, right)]
        members = [(seats[side] >= 0).sum(axis=1) for side in (left, right)]
        change = weights[take] - weights[give]
        before = _skew(sums[0], members[0], average) + _skew(sums[1], members[1], average)
        after = _skew(sums[0] + change, members[0], average) + _skew(sums[1] - change, members[1], average)
        better = (after < before - 1e-12) & (give >= 0) & (take >= 0)
        seats[left[better], at_left[better]] = take[better]
        seats[right[better], at_right[better]] = give[better]
    return seats


def _skew(sums: FloatArray, members: IntArray, average: FloatArray) -> FloatArray:
    return np.abs(sums / np.maximum(members, 1)[:, None] - average).sum(axis=1)


def _inside(seats: IntArray) -> IntArray:
    i, j = np.triu_indices(seats.shape[1], 1)
    edges = np.stack([seats[:, i].ravel(), seats[:, j].ravel()], axis=1)
    return edges[(edges >= 0).all(axis=1)]


def _joins(count: int, between: str, far: int) -> IntArray:
    """Pairs of cliques to be linked."""
    at = np.arange(count, dtype=np.int64)
    if between == "complete":
        i, j = np.triu_indices(count, 1)
        return np.stack([i, j], axis=1).astype(np.int64)
    steps = [1]
    while between == "small_world" and steps[-1] * far <= count // 2:
        steps.append(steps[-1] * far)
    pairs = np.concatenate([np.stack([at, (at + step) % count], axis=1) for step in steps])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0).reshape(-1, 2)


def _bridge(seats: IntArray, joins: IntArray) -> IntArray:
    """One link for each pair of cliques; a clique's members take turns."""
    if len(joins) == 0:
        return joins
    from topology.arrays import place_at_end

    members = (seats >= 0).sum(axis=1)
    ordered = np.take_along_axis(seats, np.argsort(seats < 0, axis=1, kind="stable"), axis=1)
    turn = place_at_end(joins) % members[joins]
    return ordered[joins, turn]
