"""Routes over links: cheapest paths, trees that reach an audience, relays between groups of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from topology.arrays import FloatArray, IntArray, adjacency, both_ends, spanning_forest

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def cheapest_path(nodes: int, pairs: IntArray, cost: FloatArray, source: int, target: int) -> IntArray | None:
    """Cheapest path between two devices.

    Args:
        nodes: Number of devices.
        pairs: (E, 2) links.
        cost: (E,) cost of each, > 0.
        source: Where the path starts.
        target: Where it ends.

    Returns:
        Device numbers from source to target, both included; None if there is no path.

    Source: Dijkstra, "A note on two problems in connexion with graphs", Numer. Math. 1, 1959.
    """
    from scipy.sparse.csgraph import dijkstra

    graph = adjacency(nodes, pairs, cost)
    # scipy's stubs know no scalar `indices`.
    distance, before = dijkstra(graph, indices=source, return_predecessors=True)  # pyrefly: ignore
    if not np.isfinite(distance[target]):
        return None
    return _walk_back(before, source, target)


def _walk_back(before: np.ndarray, source: int, target: int) -> IntArray:
    path = [target]
    while path[-1] != source:
        path.append(int(before[path[-1]]))
    return np.array(path[::-1], np.int64)


def routes(nodes: int, pairs: IntArray, cost: FloatArray, wanted: IntArray) -> list[IntArray | None]:
    """Cheapest path for each of many pairs, one Dijkstra for each first end.

    Args:
        nodes: Number of devices.
        pairs: (E, 2) links.
        cost: (E,) cost of each, > 0.
        wanted: (Q, 2) pairs to route.

    Returns:
        For each wanted pair the devices along its path, or None where there is no path.
    """
    from scipy.sparse.csgraph import dijkstra

    graph = adjacency(nodes, pairs, cost)
    found: list[IntArray | None] = [None] * len(wanted)
    for source in np.unique(wanted[:, 0]).tolist():
        distance, before = dijkstra(graph, indices=source, return_predecessors=True)
        for row in np.flatnonzero(wanted[:, 0] == source).tolist():
            target = int(wanted[row, 1])
            if np.isfinite(distance[target]):
                found[row] = _walk_back(before, source, target)
    return found


def _voronoi(graph: csr_array, terminals: IntArray) -> tuple[FloatArray, IntArray, IntArray]:
    """Distance to the nearest terminal, the predecessor on the way from it, and which terminal it is."""
    from scipy.sparse.csgraph import dijkstra

    distance, before, owner = dijkstra(graph, indices=terminals, return_predecessors=True, min_only=True)
    return np.asarray(distance), np.asarray(before, np.int64), np.asarray(owner, np.int64)


def joining_paths(
    nodes: int, pairs: IntArray, cost: FloatArray, terminals: IntArray, group: IntArray
) -> list[IntArray]:
    """Cheapest paths that join groups of terminals into as few groups as the links allow.

    A minimum spanning tree over the groups, the distance between two being the length of a shortest path
    that meets no terminal on its way: at most twice the cost of the best Steiner tree.

    Args:
        nodes: Number of devices.
        pairs: (E, 2) links.
        cost: (E,) cost of each, > 0.
        terminals: (K,) devices to join.
        group: (nodes,) group of every terminal (terminals of one group count as joined); others are ignored.

    Returns:
        Paths (device numbers, ends are terminals of different groups, no terminal between them).

    Source: Mehlhorn, "A faster approximation algorithm for the Steiner problem in graphs", Inf. Process.
        Lett. 27, 1988.
    """
    if len(terminals) < 2 or len(pairs) == 0:
        return []
    distance, before, owner = _voronoi(adjacency(nodes, pairs, cost), terminals)
    bridges = np.flatnonzero(both_ends(np.isfinite(distance), pairs))
    ends = np.sort(group[owner[pairs[bridges]]], axis=1)
    bridges, ends = bridges[ends[:, 0] != ends[:, 1]], ends[ends[:, 0] != ends[:, 1]]
    length = distance[pairs[bridges, 0]] + distance[pairs[bridges, 1]] + cost[bridges]
    order = np.argsort(length, kind="stable")
    _, first = np.unique(ends[order, 0] * nodes + ends[order, 1], return_index=True)
    best = np.sort(order[first])
    bridges = bridges[best][spanning_forest(nodes, ends[best], length[best])]
    paths: list[IntArray] = []
    for row in bridges.tolist():
        a, b = int(pairs[row, 0]), int(pairs[row, 1])
        first = _walk_back(before, int(owner[a]), a)
        second = _walk_back(before, int(owner[b]), b)
        paths.append(np.concatenate([first, second[::-1]]))
    return paths


def steiner_tree(
    nodes: int, pairs: IntArray, cost: FloatArray, root: int, audience: IntArray | None
) -> IntArray:
    """A cheapest tree from a root to an audience, as hops in the order they are made.

    For the whole component this is the minimum spanning tree, which is optimal. For a part of it, the
    cheaper of two trees: the minimum spanning tree without the branches nobody needs, and Mehlhorn's
    2-approximation of the Steiner tree.

    Args:
        nodes: Number of devices.
        pairs: (E, 2) canonical links.
        cost: (E,) cost of each, > 0.
        root: The device that has the message.
        audience: (K,) devices that want it; None for everyone the links reach. Unreachable ones are left out.

    Returns:
        (H, 2) int64 hops (parent, child), every parent reached before it sends; the same for the same input.

    Source: Mehlhorn, "A faster approximation algorithm for the Steiner problem in graphs", Inf. Process.
        Lett. 27, 1988, for the second of the two trees.
    """
    spanning = spanning_forest(nodes, pairs, cost)
    hops = _directed(nodes, pairs[spanning], root)
    if audience is None:
        return hops
    pruned = _prune(nodes, hops, audience)
    reached = np.intersect1d(np.r_[hops[:, 1], root], np.r_[audience, root])
    if len(reached) > len(hops):  # everyone: joining them all by cheapest paths gives the spanning tree again
        return hops
    paths = joining_paths(nodes, pairs, cost, reached, np.arange(nodes))
    if not paths:
        return pruned
    used = np.concatenate([np.stack([path[:-1], path[1:]], axis=1) for path in paths])
    keys = np.unique(used.min(axis=1) * nodes + used.max(axis=1))
    row = np.searchsorted(pairs[:, 0] * nodes + pairs[:, 1], keys)
    row = row[spanning_forest(nodes, pairs[row], cost[row])]
    other = _prune(nodes, _directed(nodes, pairs[row], root), audience)
    return other if _total(nodes, pairs, cost, other) < _total(nodes, pairs, cost, pruned) else pruned


def _total(nodes: int, pairs: IntArray, cost: FloatArray, hops: IntArray) -> float:
    keys = hops.min(axis=1, initial=nodes) * nodes + hops.max(axis=1, initial=-1)
    return float(cost[np.searchsorted(pairs[:, 0] * nodes + pairs[:, 1], keys)].sum())


def _directed(nodes: int, tree: IntArray, root: int) -> IntArray:
    from scipy.sparse.csgraph import breadth_first_order

    order, before = breadth_first_order(adjacency(nodes, tree), root, directed=False)
    children = np.asarray(order, np.int64)[1:]
    return np.stack([np.asarray(before, np.int64)[children], children], axis=1)


def _prune(nodes: int, hops: IntArray, audience: IntArray) -> IntArray:
    """Drop the branches that end at nobody of the audience, leaf by leaf."""
    wanted = np.zeros(nodes, np.bool_)
    wanted[audience] = True
    while True:
        parents = np.zeros(nodes, np.bool_)
        parents[hops[:, 0]] = True
        keep = wanted[hops[:, 1]] | parents[hops[:, 1]]
        if keep.all():
            return hops
        hops = hops[keep]
