"""Array helpers every part of the package shares: pairs of devices, components, forests, capped choice.

A *pair* is an unordered link written ``(i, j)`` with ``i < j``; a table of pairs is an int64 array of shape
``(E, 2)``, sorted by ``i`` then ``j`` and free of repeats. Nothing here loops over devices in Python. SciPy is
imported inside the functions that use it: the configuration reads the graphs' options and must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]


def as_pairs(pairs: ArrayLike, nodes: int, what: str = "edges") -> tuple[IntArray, IntArray]:
    """Bring links into the canonical form: sorted ends, sorted rows, each link once.

    Args:
        pairs: (E, 2) device numbers in any order; a link given twice, or in both directions, counts once.
        nodes: Number of devices; every number must lie in ``0 .. nodes-1``.
        what: Name of the argument, for the message.

    Returns:
        The canonical pairs (E', 2) and, for each, the row of ``pairs`` that first mentions it, (E',).

    Raises:
        ValueError: If the shape is wrong, a number is out of range or a device is linked to itself.
    """
    table = np.asarray(pairs, dtype=np.int64)
    if table.size == 0:
        return np.empty((0, 2), np.int64), np.empty(0, np.int64)
    if table.ndim != 2 or table.shape[1] != 2:
        raise ValueError(f"{what}: expected an array of shape (E, 2), got {table.shape}")
    # Column by column: reductions over an axis of length 2 are ten times slower.
    low, high = np.minimum(table[:, 0], table[:, 1]), np.maximum(table[:, 0], table[:, 1])
    if low.min() < 0 or high.max() >= nodes:
        raise ValueError(
            f"{what}: device numbers must lie in 0..{nodes - 1}, got {low.min()}..{high.max()}; "
            "number the devices in the order of their positions"
        )
    if np.any(low == high):
        raise ValueError(f"{what}: device {low[low == high][0]} is linked to itself; remove that row")
    keys = low * nodes + high
    if (keys[1:] > keys[:-1]).all():
        return np.stack([low, high], axis=1), np.arange(len(keys), dtype=np.int64)
    _, first = np.unique(keys, return_index=True)
    return np.stack([low[first], high[first]], axis=1), first.astype(np.int64)


def pair_keys(pairs: IntArray, nodes: int) -> IntArray:
    """Number each pair ``i*nodes + j`` (ends in either order), so that sets of links are sets of integers.

    Args:
        pairs: (E, 2) device numbers.
        nodes: Number of devices.

    Returns:
        (E,) int64 keys; ascending for a canonical table.
    """
    a, b = pairs[:, 0], pairs[:, 1]
    return np.minimum(a, b) * nodes + np.maximum(a, b)


def find_pairs(pairs: IntArray, table: IntArray, nodes: int) -> IntArray:
    """Find the rows of a canonical table in which given pairs stand.

    Args:
        pairs: (Q, 2) pairs to look up, ends in either order.
        table: (E, 2) canonical pairs.
        nodes: Number of devices.

    Returns:
        (Q,) row in ``table``, −1 where the pair is not in it.
    """
    if len(table) == 0 or len(pairs) == 0:
        return np.full(len(pairs), -1, np.int64)
    keys, wanted = pair_keys(table, nodes), pair_keys(pairs, nodes)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1).astype(np.int64)


def both_ends(mask: BoolArray, pairs: IntArray) -> BoolArray:
    """Links whose two ends are both marked.

    Args:
        mask: (N,) marks on devices.
        pairs: (E, 2) links.

    Returns:
        (E,) mask on links.
    """
    return mask[pairs[:, 0]] & mask[pairs[:, 1]]


def all_pairs(nodes: int) -> IntArray:
    """List every pair of ``nodes`` devices.

    Args:
        nodes: Number of devices N, ≥ 0.

    Returns:
        (N·(N−1)/2, 2) int64 canonical pairs.
    """
    i, j = np.triu_indices(nodes, 1)
    return np.stack([i, j], axis=1).astype(np.int64)


def adjacency(nodes: int, pairs: IntArray, weights: FloatArray | None = None) -> csr_array:
    """Symmetric sparse adjacency matrix of links.

    Args:
        nodes: Number of devices.
        pairs: (E, 2) links.
        weights: (E,) weights, 1 if None.

    Returns:
        csr_array of shape (nodes, nodes).
    """
    from scipy.sparse import coo_array, csr_array

    data = np.ones(len(pairs)) if weights is None else weights
    rows = np.concatenate([pairs[:, 0], pairs[:, 1]])
    cols = np.concatenate([pairs[:, 1], pairs[:, 0]])
    return csr_array(coo_array((np.concatenate([data, data]), (rows, cols)), shape=(nodes, nodes)))


def degrees(nodes: int, pairs: IntArray) -> IntArray:
    """Number of links at each device.

    Args:
        nodes: Number of devices N.
        pairs: (E, 2) links, each once.

    Returns:
        (N,) int64 numbers of links.
    """
    return np.bincount(pairs.ravel(), minlength=nodes).astype(np.int64)


def component_labels(nodes: int, pairs: IntArray) -> IntArray:
    """Label the connected component of every device, numbered by their smallest device.

    Args:
        nodes: Number of devices.
        pairs: (E, 2) links.

    Returns:
        (nodes,) labels 0, 1, … in the order in which the components' first devices come.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(nodes, nodes))
    _, raw = connected_components(graph, directed=False)
    _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def linked_parts(nodes: int, pairs: IntArray) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Go through the connected components that have links.

    Args:
        nodes: Number of devices.
        pairs: (E, 2) canonical links.

    Yields:
        Number n of the component's devices; rows of ``pairs`` that are its links, (e,); and their ends among the
        component's devices in ascending order, (e, 2) numbers 0 … n−1, canonical as well.
    """
    if len(pairs) == 0:
        return
    label = component_labels(nodes, pairs)
    size = np.bincount(label)
    by_label = np.argsort(label, kind="stable")
    place = np.empty(nodes, np.int64)
    place[by_label] = np.arange(nodes) - np.repeat(np.cumsum(size) - size, size)
    owner = label[pairs[:, 0]]
    rows = np.argsort(owner, kind="stable")
    found, first = np.unique(owner[rows], return_index=True)
    for part, mine in zip(found.tolist(), np.split(rows, first[1:]), strict=True):
        yield int(size[part]), mine, place[pairs[mine]]


def spanning_forest(nodes: int, pairs: IntArray, cost: FloatArray) -> IntArray:
    """Minimum spanning forest; equal costs are settled by row, so the answer is unique.

    Only the order of the costs matters: zero and negative costs are welcome.

    Args:
        nodes: Number of devices.
        pairs: (E, 2) links.
        cost: (E,) cost of each.

    Returns:
        Rows of ``pairs`` in the forest, ascending.

    Source: Kruskal, "On the shortest spanning subtree of a graph and the traveling salesman problem", Proc.
        Amer. Math. Soc. 7, 1956.
    """
    if len(pairs) == 0:
        return np.empty(0, np.int64)
    from topology.kernels import forest

    return np.sort(forest(np.ascontiguousarray(pairs), np.argsort(cost, kind="stable"), nodes))


def capped(pairs: IntArray, priority: FloatArray, free: IntArray) -> BoolArray:
    """Take links in order of priority while both ends have a free port.

    The same choice as going through the links one by one, made in a few vectorised passes: in each, a link
    that is among the first ``free`` remaining ones at both its ends is settled.

    Args:
        pairs: (E, 2) links.
        priority: (E,) smallest first; ties by row.
        free: (N,) how many links each device can still take.

    Returns:
        (E,) mask of the links taken.
    """
    taken = np.zeros(len(pairs), np.bool_)
    left = np.maximum(free, 0).astype(np.int64)
    rest = np.argsort(priority, kind="stable")
    while True:
        rest = rest[both_ends(left > 0, pairs[rest])]
        if len(rest) == 0:
            return taken
        first = place_at_end(pairs[rest]) < left[pairs[rest]]
        settled = rest[first[:, 0] & first[:, 1]]
        taken[settled] = True
        left -= np.bincount(pairs[settled].ravel(), minlength=len(left))
        rest = rest[~taken[rest]]


def place_at_end(pairs: IntArray) -> IntArray:
    """Count, for both ends of every row, how many earlier rows touch the same device.

    Args:
        pairs: (E, 2) links, the order of rows matters.

    Returns:
        (E, 2) counts: 0 where a device is met for the first time.
    """
    ends = pairs.ravel()
    order = np.argsort(ends, kind="stable")
    grouped = ends[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    group_start = np.repeat(starts, np.diff(np.r_[starts, len(grouped)]))
    place = np.empty(len(ends), np.int64)
    place[order] = np.arange(len(ends)) - group_start
    return place.reshape(pairs.shape)
