"""Spanning forests and trees of task groups against plain Python, the filter of slow modes against its closed form."""

import networkx as nx
import numpy as np
import pytest

from topology import mixing, overlay
from topology.arrays import all_pairs, degrees, spanning_forest


def kruskal(pairs, order):
    """Rows that join what was apart, by networkx's union-find."""
    joined = nx.utils.UnionFind()
    taken = []
    for row in order:
        a, b = pairs[row].tolist()
        if joined[a] != joined[b]:
            joined.union(a, b)
            taken.append(int(row))
    return taken


def drawn(seed, nodes=14, density=0.5, costs=None):
    rng = np.random.default_rng(seed)
    pairs = all_pairs(nodes)
    pairs = pairs[rng.random(len(pairs)) < density]
    cost = rng.lognormal(size=len(pairs)) if costs is None else rng.choice(costs, len(pairs))
    return pairs, cost, rng


@pytest.mark.parametrize("costs", [None, (1.0, 2.0, 5.0), (-1.0, 0.0)])
@pytest.mark.parametrize("seed", range(8))
def test_forest_is_the_cheapest_and_equal_costs_go_by_row(seed, costs):
    pairs, cost, _ = drawn(seed, density=0.15 + 0.1 * seed, costs=costs)
    rows = spanning_forest(14, pairs, cost)
    assert rows.tolist() == sorted(kruskal(pairs, np.argsort(cost, kind="stable")))
    graph = nx.Graph()
    graph.add_weighted_edges_from((a, b, c) for (a, b), c in zip(pairs.tolist(), cost.tolist(), strict=True))
    cheapest = nx.minimum_spanning_tree(graph).size(weight="weight")
    assert cost[rows].sum() == pytest.approx(cheapest, abs=1e-12)


def plain_trees(pairs, cost, shared, fixed):
    """The sweeps as `overlay` describes them: what others use is nearly free, a link of m groups counts less."""
    groups = np.argsort(shared.sum(axis=0), kind="stable").tolist()
    served = np.maximum(shared.sum(axis=1), 1)
    tree = {group: [] for group in groups}
    best, least = set(np.flatnonzero(fixed).tolist()), np.inf
    for sweep in range(overlay.SWEEPS):
        for group in groups:
            used = set(np.flatnonzero(fixed).tolist()).union(*(tree[g] for g in groups if g != group))
            mine = np.flatnonzero(shared[:, group]).tolist()
            price = {
                r: cost[r] * 1e-9 if r in used else cost[r] / (1 + (served[r] - 1) * 0.5**sweep) for r in mine
            }
            tree[group] = kruskal(pairs, sorted(mine, key=lambda row: (price[row], row)))
        chosen = set(np.flatnonzero(fixed).tolist()).union(*tree.values())
        total = cost[sorted(chosen)].sum()
        if total >= least * (1 - 1e-6) and sweep > 1:
            break
        if total < least:
            best, least = chosen, total
    return best


@pytest.mark.parametrize("seed", range(12))
def test_trees_are_those_of_the_description(seed):
    # Costs of a radio: many short links of one and the same least airtime.
    pairs, cost, rng = drawn(seed, nodes=18)
    cost = np.maximum(cost, np.quantile(cost, 0.4))
    member = np.column_stack([rng.random((18, 4)) < 0.5, np.ones(18, bool)])
    shared = member[pairs[:, 0]] & member[pairs[:, 1]]
    fixed = rng.random(len(pairs)) < 0.03
    found = overlay._trees(18, pairs, cost, shared, fixed)
    assert set(np.flatnonzero(found).tolist()) == plain_trees(pairs, cost, shared, fixed)
    assert degrees(18, pairs[found]).min() > 0


def test_the_mixture_of_slow_modes_of_a_large_ring_is_the_filter_on_its_spectrum():
    nodes = mixing.LARGE_MODE_NODES + 2
    ring = np.stack([np.arange(nodes), (np.arange(nodes) + 1) % nodes], axis=1)
    weights = mixing.metropolis_hastings(ring, nodes)
    eigenvalues = (1 + 2 * np.cos(2 * np.pi * np.arange(nodes) / nodes)) / 3
    # T_k on the interval [-1, 1 - gap], by its definitions inside and above it.
    scaled = (eigenvalues + mixing.SLOW_GAP / 2) / (1 - mixing.SLOW_GAP / 2)
    inside = np.cos(mixing.FILTER_DEGREE * np.arccos(np.clip(scaled, -1, 1)))
    filtered = np.where(scaled > 1, np.cosh(mixing.FILTER_DEGREE * np.arccosh(np.maximum(scaled, 1))), inside)
    filtered[0] = 0.0  # the mean
    expected = np.fft.ifft(np.fft.fft(mixing._start(nodes)) * filtered).real
    mode = mixing.slow_mode(weights)
    np.testing.assert_allclose(mode, expected / np.linalg.norm(expected), atol=1e-9)
    assert np.linalg.norm(mode) == pytest.approx(1)
