"""Fastest gossip weights against optima known in closed form, and against other weights where there is none."""

import networkx as nx
import numpy as np
import pytest

import topology
from dfl_ray.errors import InputError
from dfl_ray.network.comm_graph import comm_graph
from topology.fastest import MOST_DEVICES, fastest
from topology.mixing import laplacian, metropolis_hastings


def edges_of(graph):
    return np.array(list(nx.convert_node_labels_to_integers(graph).edges()), np.int64).reshape(-1, 2)


def radius(weights):
    nodes = weights.shape[0]
    return float(np.abs(np.linalg.eigvalsh(weights.toarray() - 1 / nodes)).max())


CLOSED = {
    "path of 2": (nx.path_graph(2), 0.0),
    # Boyd, Diaconis, Sun and Xiao, "Fastest mixing Markov chain on a path", Amer. Math. Monthly 2006: 1/2 everywhere.
    "path of 3": (nx.path_graph(3), np.cos(np.pi / 3)),
    "path of 12": (nx.path_graph(12), np.cos(np.pi / 12)),
    "complete": (nx.complete_graph(6), 0.0),
    # All links are alike, so all weights are: 1/(n − 1), the most that the centre's diagonal bears.
    "star": (nx.star_graph(6), 5 / 6),
    # Alike again: 1 − w (2 − 2 cos(2 pi k/n)) at k = 1 and at k = 4, of equal size where their sum is zero.
    "ring of 9": (
        nx.cycle_graph(9),
        (np.cos(2 * np.pi / 9) - np.cos(8 * np.pi / 9)) / (2 - np.cos(2 * np.pi / 9) - np.cos(8 * np.pi / 9)),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_known_optima(name):
    graph, expected = CLOSED[name]
    weights = fastest(edges_of(graph), len(graph))
    assert radius(weights) == pytest.approx(expected, abs=2e-3 * (1 - expected))


@pytest.mark.parametrize("seed", range(3))
def test_doubly_stochastic_and_faster_than_all_others(seed):
    graph = nx.random_geometric_graph(12, 0.5, seed=seed)
    edges = edges_of(graph.subgraph(max(nx.connected_components(graph), key=len)))
    nodes = int(edges.max()) + 1
    weights = fastest(edges, nodes)
    dense = weights.toarray()
    np.testing.assert_allclose(dense.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(dense, dense.T)
    linked = np.eye(nodes, dtype=bool)
    linked[edges[:, 0], edges[:, 1]] = linked[edges[:, 1], edges[:, 0]] = True
    assert dense.min() >= 0 and not dense[~linked].any()
    best = radius(weights)
    rng = np.random.default_rng(seed)
    assert best < min(radius(make(edges, nodes)) for make in (metropolis_hastings, laplacian))
    # No small step in any direction that keeps the weights feasible makes it faster by more than the tolerance.
    for _ in range(50):
        other = np.maximum(dense[edges[:, 0], edges[:, 1]] + rng.normal(0, 0.02, len(edges)), 0)
        other /= max(1.0, np.bincount(edges.ravel(), np.repeat(other, 2), nodes).max())
        moved = np.zeros((nodes, nodes))
        moved[edges[:, 0], edges[:, 1]] = moved[edges[:, 1], edges[:, 0]] = other
        moved += np.diag(1 - moved.sum(axis=1))
        assert np.abs(np.linalg.eigvalsh(moved - 1 / nodes)).max() > best - 2e-3 * (1 - best)


def test_parts_are_by_themselves_and_lonely_devices_keep_their_own():
    edges = np.array([[0, 1], [2, 3], [3, 4]])
    weights = fastest(edges, 6).toarray()
    np.testing.assert_allclose(weights[:2, :2], 0.5, atol=1e-12)
    np.testing.assert_allclose([weights[2, 3], weights[3, 4]], 0.5, atol=1e-3)
    assert weights[5, 5] == 1.0 and not weights[:2, 2:].any()
    np.testing.assert_array_equal(fastest(np.empty((0, 2)), 3).toarray(), np.eye(3))


def test_large_parts_are_refused_with_what_to_choose():
    with pytest.raises(ValueError, match=r"got one of 201; choose topology\.mixing=metropolis_hastings"):
        fastest(edges_of(nx.path_graph(MOST_DEVICES + 1)), MOST_DEVICES + 1)


def test_a_run_is_told_and_links_without_weight_carry_nothing():
    rng = np.random.default_rng(0)
    nodes = MOST_DEVICES + 1
    line = np.stack([np.arange(nodes - 1), np.arange(1, nodes)], axis=1)
    given = {"airtime_s_per_mb": np.ones(nodes - 1), "mean_snr_db": np.full(nodes - 1, 20.0), "rng": rng}
    made = topology.build("complete", positions_m=np.column_stack([np.arange(nodes), np.zeros(nodes)]),
                          mixture=np.ones((nodes, 1)), candidate_pairs=line, **given)  # fmt: skip
    with pytest.raises(InputError, match="choose topology"):
        comm_graph(made, mixing="fastest")
    # Here the optimum has no use for five of the links.
    edges = edges_of(nx.random_geometric_graph(13, 0.45, seed=1))
    count = len(edges)
    two = topology.build("complete", positions_m=rng.random((13, 2)), mixture=np.ones((13, 1)), candidate_pairs=edges,
                         airtime_s_per_mb=np.ones(count), mean_snr_db=np.full(count, 20.0), rng=rng)  # fmt: skip
    weights = fastest(edges, 13).toarray()
    used = {(i, j) for i, j in np.argwhere(weights > 0).tolist() if i != j}
    found = comm_graph(two, mixing="fastest").task_weights[0]
    assert {(i, j) for i, near in found.items() for j in near} == used
    assert len(used) == 2 * (count - 5)
