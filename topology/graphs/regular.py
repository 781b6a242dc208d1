"""Graphs with a fixed pattern: `complete`, `ring`, `grid`, `exponential`, and `file`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from topology.arrays import FloatArray, IntArray, all_pairs
from topology.files import read_edges
from topology.graphs.base import GraphInput, GraphLinks
from topology.registry import Within

Order = Literal["tour", "index", "random"]


def complete(inputs: GraphInput) -> GraphLinks:
    """Link everyone with everyone, or with everyone in reach.

    Args:
        inputs: Devices and candidate links.

    Returns:
        The plan: all N·(N−1)/2 pairs with free reach, else every candidate link.
    """
    return GraphLinks(all_pairs(inputs.nodes) if inputs.free_choice else inputs.links.pairs)


def ring(inputs: GraphInput, *, order: Order = "tour") -> GraphLinks:
    """Link devices in a circle.

    Args:
        inputs: Devices and candidate links.
        order: Order of the devices on the ring. ``tour``: along a Hilbert curve through the area, so that
            neighbours are near; ``index``: by number; ``random``: a seeded shuffle.

    Returns:
        The plan; links out of reach are left out unless reach is free.

    Raises:
        ValueError: If the order is unknown.
    """
    line = visiting_order(inputs, order)
    edges = np.stack([line, np.roll(line, -1)], axis=1)
    return _within(inputs, edges[: 0 if inputs.nodes < 2 else 1 if inputs.nodes == 2 else None])


def visiting_order(inputs: GraphInput, order: str) -> IntArray:
    """Put the devices in a row: ``tour`` (Hilbert curve), ``index`` or ``random``.

    Args:
        inputs: Devices; ``random`` draws from ``inputs.rng``.
        order: One of the three orders.

    Returns:
        (N,) int64 device numbers, a permutation of 0..N−1.

    Raises:
        ValueError: If the order is unknown.
    """
    if order == "tour":
        return np.argsort(hilbert_rank(inputs.positions_m), kind="stable").astype(np.int64)
    if order == "index":
        return np.arange(inputs.nodes, dtype=np.int64)
    if order == "random":
        return inputs.rng.permutation(inputs.nodes).astype(np.int64)
    raise ValueError(f"order must be tour, index or random, got {order!r}")


def hilbert_rank(positions_m: FloatArray, levels: int = 16) -> IntArray:
    """Place of each point along a Hilbert curve over the bounding square; close ranks are close points.

    Args:
        positions_m: (N, 2) positions.
        levels: The square is cut into 4^levels cells.

    Returns:
        (N,) int64 ranks in 0 .. 4^levels − 1.

    Source: Hilbert 1891; the rotation form in Warren, "Hacker's Delight", 2nd ed., §16.
    """
    low = positions_m.min(axis=0)
    side = max(float((positions_m.max(axis=0) - low).max()), 1e-12)
    cells = 1 << levels
    cell: IntArray = np.minimum((positions_m - low) / side * cells, cells - 1).astype(np.int64)
    x: IntArray = cell[:, 0]
    y: IntArray = cell[:, 1]
    rank = np.zeros(len(x), np.int64)
    half = cells >> 1
    while half:
        right, top = (x & half) > 0, (y & half) > 0
        rank += half * half * ((3 * right) ^ top)
        x, y = x & (half - 1), y & (half - 1)
        flip = ~top & right
        x, y = np.where(flip, half - 1 - x, x), np.where(flip, half - 1 - y, y)
        x, y = np.where(top, x, y), np.where(top, y, x)
        half >>= 1
    return rank


def grid(
    inputs: GraphInput, *, columns: Annotated[int | None, Within(ge=1)] = None, wrap: bool = False
) -> GraphLinks:
    """Link devices as on squared paper; devices are put into rows by y and, within a row, ordered by x.

    Args:
        inputs: Devices and candidate links.
        columns: Devices per row; none = the square root of their number. The last row may be shorter.
        wrap: Join opposite borders (a torus); only for full rows.

    Returns:
        The plan.

    Raises:
        ValueError: If columns is out of range, or wrap is asked for with a last row that is not full.
    """
    nodes = inputs.nodes
    width = round(nodes**0.5) if columns is None else columns
    if not 1 <= width <= nodes:
        raise ValueError(f"grid: columns must lie in 1..{nodes}, got {columns}; change topology.columns")
    if wrap and nodes % width:
        raise ValueError(
            f"grid: {nodes} devices do not fill rows of {width}; change topology.columns, or set topology.wrap=false"
        )
    by_y = np.argsort(inputs.positions_m[:, 1], kind="stable")
    row_of = np.arange(nodes) // width
    cells = by_y[np.lexsort((inputs.positions_m[by_y, 0], row_of))].astype(np.int64)
    at = np.arange(nodes)
    right = at[(at % width < width - 1) & (at + 1 < nodes)]
    edges = [np.stack([right, right + 1], axis=1), np.stack([at[: nodes - width], at[width:]], axis=1)]
    if wrap and width > 2:
        edges.append(np.stack([at[::width], at[::width] + width - 1], axis=1))
    if wrap and nodes // width > 2:
        edges.append(np.stack([at[:width], at[-width:]], axis=1))
    return _within(inputs, cells[np.concatenate(edges)])


def exponential(inputs: GraphInput) -> GraphLinks:
    """Static exponential graph: device i is linked with i + 1, i + 2, i + 4, … (modulo N), both ways.

    The jumps are the powers of two below N, so a device has about 2·log₂ N neighbours.

    Args:
        inputs: Devices and candidate links.

    Returns:
        The plan; links out of reach are left out unless reach is free.

    Source: Ying et al., "Exponential graph is provably efficient for decentralized deep training", NeurIPS
        2021. Departure: undirected, as radio links are.
    """
    at = np.arange(inputs.nodes, dtype=np.int64)
    jumps = [1 << power for power in range(max(inputs.nodes - 1, 0).bit_length())]
    edges = [np.stack([at, (at + jump) % inputs.nodes], axis=1) for jump in jumps if jump < inputs.nodes]
    return _within(inputs, np.concatenate(edges) if edges else np.empty((0, 2), np.int64))


def from_file(inputs: GraphInput, *, path: str | Path) -> GraphLinks:
    """Links of the user's: GraphML, or an edge-list CSV with columns ``source,target``.

    Args:
        inputs: Devices and candidate links.
        path: GraphML, or an edge-list CSV with columns ``source,target``.

    Returns:
        The plan; links out of reach are left out unless reach is free.

    Raises:
        ValueError: If the file is missing or malformed.
    """
    return _within(inputs, read_edges(path, inputs.nodes))


def _within(inputs: GraphInput, edges: IntArray) -> GraphLinks:
    return GraphLinks(edges[inputs.possible(edges)])
