"""Compiled loops over links. Import this module only inside functions: it imports numba."""

from __future__ import annotations

import numpy as np

from topology.compiled import kernel


@kernel
def _join(parent, first, second):
    """Join the sets of two devices (union-find with halved paths); whether they were apart."""
    while parent[first] != first:
        parent[first] = parent[parent[first]]
        first = parent[first]
    while parent[second] != second:
        parent[second] = parent[parent[second]]
        second = parent[second]
    parent[max(first, second)] = min(first, second)
    return first != second


@kernel
def forest(pairs, order, nodes):
    """Kruskal's loop: of the links in the given order those that join what is apart.

    Args:
        pairs: (E, 2) int64 links.
        order: (Q,) int64 rows of `pairs`.
        nodes: Number of devices.

    Returns:
        Rows taken, in the order given.
    """
    parent = np.arange(nodes)
    taken = np.empty(min(nodes, len(order)), np.int64)
    count = 0
    for row in order:
        if _join(parent, pairs[row, 0], pairs[row, 1]):
            taken[count] = row
            count += 1
    return taken[:count]


@kernel
def group_forest(pairs, held, uses, order, nodes, most):
    """Kruskal's loop over the links of one group, those in use first.

    Args:
        pairs: (E, 2) int64 links, by cost.
        held: (E,) bool, links of the group.
        uses: (E,) integer, links in use are above 0; they are taken in the order of their rows.
        order: (E,) int64 rows in the order in which the others are taken.
        nodes: Number of devices.
        most: Number of links of the whole forest, to stop there.

    Returns:
        Rows taken, in the order in which they were.
    """
    parent = np.arange(nodes)
    taken = np.empty(min(most, len(order)), np.int64)
    count = 0
    for row in range(len(order)):
        if count < most and uses[row] > 0 and held[row] and _join(parent, pairs[row, 0], pairs[row, 1]):
            taken[count] = row
            count += 1
    for row in order:
        if count == most:
            break
        if held[row] and _join(parent, pairs[row, 0], pairs[row, 1]):
            taken[count] = row
            count += 1
    return taken[:count]
