"""Spectral gaps against closed forms and dense eigenvalues."""

import networkx as nx
import numpy as np
import pytest

from topology import mixing
from topology.arrays import all_pairs


def edges_of(graph):
    return np.array(list(nx.convert_node_labels_to_integers(graph).edges()), np.int64).reshape(-1, 2)


def dense_gap(weights):
    values = np.linalg.eigvalsh(weights.toarray())
    return 1 - np.sort(np.abs(values))[-2]


@pytest.mark.parametrize("nodes", [5, 10, 101, 500, 501, 2_000, 5_001])
def test_ring(nodes):
    ring = edges_of(nx.cycle_graph(nodes))
    expected = 1 - (1 + 2 * np.cos(2 * np.pi / nodes)) / 3
    for make in (mixing.metropolis_hastings, mixing.uniform):
        assert mixing.spectral_gap(make(ring, nodes)) == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("nodes", [2, 7, 40, 600])
def test_complete_graph_averages_at_once(nodes):
    weights = mixing.metropolis_hastings(all_pairs(nodes), nodes)
    assert np.allclose(weights.toarray(), 1 / nodes, atol=1e-12)
    assert mixing.spectral_gap(weights) == pytest.approx(1.0, abs=1e-9)


def test_star_and_path():
    # Star of n: every link weighs 1/n, eigenvalues 1 − 1/n (n − 2 times) and 0.
    assert mixing.spectral_gap(mixing.metropolis_hastings(edges_of(nx.star_graph(8)), 9)) == pytest.approx(
        1 / 9
    )
    # Path of n: I − L/3 with L's eigenvalues 2 − 2·cos(πk/n).
    for nodes in (4, 12, 900):
        expected = (2 - 2 * np.cos(np.pi / nodes)) / 3
        weights = mixing.metropolis_hastings(edges_of(nx.path_graph(nodes)), nodes)
        assert mixing.spectral_gap(weights) == pytest.approx(expected, rel=1e-5)


def test_torus():
    # Periodic grid of 30 × 30: weight 1/5 each; λ₂ = (3 + 2·cos(2π/30))/5.
    weights = mixing.metropolis_hastings(edges_of(nx.grid_2d_graph(30, 30, periodic=True)), 900)
    assert mixing.spectral_gap(weights) == pytest.approx(1 - (3 + 2 * np.cos(2 * np.pi / 30)) / 5, rel=1e-6)


def test_two_devices_bipartite_extremes_count():
    # W = [[0, 1], [1, 0]] has λ_N = −1 and never mixes: the gap uses the largest modulus.
    from scipy.sparse import csr_array

    assert mixing.spectral_gap(csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))) == 0.0


def test_lowest_eigenvalue_decides_above_the_dense_size():
    from scipy.sparse import csr_array, eye_array

    graph = mixing.adjacency(602, edges_of(nx.complete_bipartite_graph(301, 301)))
    # Nearly bipartite: λ_N = −(1 − 2·0.01) while λ₂ = 0.01.
    weights = csr_array(graph * (0.99 / 301) + eye_array(602) * 0.01)
    assert mixing.spectral_gap(weights) == pytest.approx(0.02, rel=1e-6)


def test_partitioned_graphs_have_no_gap():
    for half in (5, 400):
        two = nx.disjoint_union(nx.cycle_graph(half), nx.cycle_graph(half))
        weights = mixing.metropolis_hastings(edges_of(two), 2 * half)
        assert mixing.spectral_gap(weights) == pytest.approx(0.0, abs=1e-12)
    assert mixing.spectral_gap(mixing.metropolis_hastings(np.empty((0, 2)), 1)) == 1.0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [mixing.metropolis_hastings, mixing.uniform, mixing.laplacian])
def test_sparse_solver_equals_dense_eigenvalues(make, seed):
    graph = nx.random_geometric_graph(700, 0.09, seed=seed)
    part = graph.subgraph(max(nx.connected_components(graph), key=len))
    weights = make(edges_of(part), len(part))
    assert len(part) > 500
    assert mixing.spectral_gap(weights) == pytest.approx(dense_gap(weights), rel=1e-5)


def test_laplacian_uses_the_best_constant():
    graph = nx.random_regular_graph(6, 80, seed=1)
    values = np.sort(nx.laplacian_spectrum(graph))
    best = 2 / (values[1] + values[-1])
    assert best < 1 / 6
    weights = mixing.laplacian(edges_of(graph), 80)
    assert weights[0, next(iter(graph[0]))] == pytest.approx(best)
    assert dense_gap(weights) >= dense_gap(mixing.uniform(edges_of(graph), 80))


@pytest.mark.parametrize(
    ("graph", "gap"), [(nx.path_graph(2), 1.0), (nx.cycle_graph(4), 2 / 3), (nx.complete_graph(4), 1.0)]
)
def test_devices_without_links_leave_the_best_constant_of_the_others_alone(graph, gap):
    # On a task's graph all devices that do not hold it are without links; two holders with ε = 1 swap for ever.
    own = len(graph)
    alone = mixing.laplacian(edges_of(graph), own)
    assert mixing.spectral_gap(alone) == pytest.approx(gap)
    among = mixing.laplacian(edges_of(graph) + 3, own + 7).toarray()
    assert np.allclose(among[3 : 3 + own, 3 : 3 + own], alone.toarray(), atol=1e-15)
    assert np.array_equal(np.delete(np.diag(among), np.s_[3 : 3 + own]), np.ones(7))
    ring = edges_of(nx.cycle_graph(9))
    both = mixing.laplacian(np.concatenate([ring, edges_of(graph) + 9]), 9 + own).toarray()
    assert np.allclose(both[:9, :9], mixing.laplacian(ring, 9).toarray(), atol=1e-15)
    assert np.allclose(both[9:, 9:], alone.toarray(), atol=1e-15)


def test_slow_mode_is_the_second_eigenvector():
    for nodes in (60, 150, 700):
        weights = mixing.metropolis_hastings(edges_of(nx.path_graph(nodes)), nodes)
        vector = mixing.slow_mode(weights)
        second = np.sort(np.linalg.eigvalsh(weights.toarray()))[-2]
        assert float(vector @ (weights @ vector)) == pytest.approx(second, abs=0.01 * (1 - second))
        assert np.linalg.norm(vector) == pytest.approx(1) and abs(vector.sum()) < 1e-3


def test_averaging_shrinks_disagreement_as_the_gap_promises():
    graph = nx.random_geometric_graph(60, 0.25, seed=2)
    weights = mixing.metropolis_hastings(edges_of(graph), 60)
    value = np.random.default_rng(0).normal(size=60)
    rate = 1 - mixing.spectral_gap(weights)
    for _ in range(30):
        mixed = weights @ value
        assert mixed.mean() == pytest.approx(value.mean(), abs=1e-12)
        spread, before = np.linalg.norm(mixed - mixed.mean()), np.linalg.norm(value - value.mean())
        assert spread <= rate * before + 1e-12
        value = mixed
