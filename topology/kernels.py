"""Compiled loops over links. Import this module only inside functions: it imports numba."""

# numba ships no type information.
# pyright: basic

from __future__ import annotations

import numpy as np

from topology.compiled import kernel


@kernel
def forest(pairs, order, nodes, most):
    """Kruskal's loop: of the links in the given order those that join two components.

    Args:
        pairs: (E, 2) int64 links.
        order: (Q,) int64 rows of `pairs`, in the order in which they are offered; a row may come twice.
        nodes: Number of devices.
        most: Stop after so many; a forest has at most nodes − 1 links.

    Returns:
        Rows taken, in the order given.
    """
    parent = np.arange(nodes)
    taken = np.empty(min(most, len(order)), np.int64)
    count = 0
    for row in order:
        if count == most:
            break
        first, second = pairs[row, 0], pairs[row, 1]
        while parent[first] != first:
            parent[first] = parent[parent[first]]
            first = parent[first]
        while parent[second] != second:
            parent[second] = parent[parent[second]]
            second = parent[second]
        if first != second:
            parent[max(first, second)] = min(first, second)
            taken[count] = row
            count += 1
    return taken[:count]
