"""Clusterings against worked examples, broadcast trees against exact Steiner trees."""

import itertools

import networkx as nx
import numpy as np
import pytest

import topology
from topology.arrays import all_pairs
from topology.clustering import adjusted_rand_index, by_similarity, by_tasks
from topology.files import as_networkx


def test_adjusted_rand_index_by_hand():
    # Table [[2, 1], [0, 3]]: Σ C(n_ij, 2) = 4, rows 3 + 3 = 6, columns 1 + 6 = 7, C(6, 2) = 15,
    # so E = 6·7/15 = 2.8 and ARI = (4 − 2.8)/(6.5 − 2.8).
    assert adjusted_rand_index([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]) == pytest.approx(1.2 / 3.7)
    # Two pairs cut across: no pair agrees, E = 2·2/6.
    assert adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx((0 - 2 / 3) / (2 - 2 / 3))
    assert adjusted_rand_index(["a", "a", "b"], [7, 7, 3]) == 1.0
    assert adjusted_rand_index([0, 0, 0], [1, 1, 1]) == 1.0
    assert adjusted_rand_index([0, 1, 2], [0, 0, 0]) == 0.0


def test_adjusted_rand_index_is_the_corrected_pair_count():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(4, size=15), rng.integers(3, size=15)
        same_a = np.array([x == y for x, y in itertools.combinations(a.tolist(), 2)])
        same_b = np.array([x == y for x, y in itertools.combinations(b.tolist(), 2)])
        expected = same_a.sum() * same_b.sum() / len(same_a)
        value = ((same_a & same_b).sum() - expected) / ((same_a.sum() + same_b.sum()) / 2 - expected)
        assert adjusted_rand_index(a, b) == pytest.approx(value)


def test_adjusted_rand_index_is_zero_on_average_for_chance():
    rng = np.random.default_rng(1)
    values = [adjusted_rand_index(rng.integers(5, size=60), rng.integers(4, size=60)) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20


def test_single_task_devices_are_their_task():
    label = np.random.default_rng(0).integers(5, size=40)
    assert np.array_equal(by_tasks(np.eye(5)[label]), label)


def test_ties_are_dealt_evenly_and_follow_the_links():
    mixture = np.tile([0.5, 0.5], (6, 1))
    assert np.bincount(by_tasks(mixture)).tolist() == [3, 3]
    # Two triangles of undecided devices, each tied to one that holds a single task: nothing need be cut.
    mixture = np.vstack([mixture, [[1, 0], [0, 1]]])
    edges = np.array(
        [[0, 1], [1, 2], [0, 2], [3, 4], [4, 5], [3, 5], [0, 6], [1, 6], [2, 6], [3, 7], [4, 7], [5, 7]]
    )
    assert by_tasks(mixture, edges).tolist() == [0, 0, 0, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_similarity_finds_planted_clusters(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=60)
    features = rng.normal(size=(4, 50))[truth] + 0.5 * rng.normal(size=(60, 50))
    assert adjusted_rand_index(by_similarity(features), truth) == 1.0
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert adjusted_rand_index(by_similarity(np.maximum(unit @ unit.T, 0)), truth) == 1.0
    assert adjusted_rand_index(by_similarity(features, 4), truth) == 1.0
    assert len(np.unique(by_similarity(features, 2))) == 2


def test_similarity_without_structure_scores_near_chance():
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=200)
    assert abs(adjusted_rand_index(by_similarity(rng.normal(size=(200, 30)), 4), truth)) < 0.1


def test_clustered_by_similarity_uses_the_found_groups():
    rng = np.random.default_rng(3)
    truth = np.repeat([0, 1, 2], 6)
    features = rng.normal(size=(3, 40))[truth] + 0.3 * rng.normal(size=(18, 40))
    pairs = all_pairs(18)
    made = topology.build(
        "clustered",
        positions_m=rng.random((18, 2)) * 100,
        mixture=np.eye(3)[truth],
        candidate_pairs=pairs,
        airtime_s_per_mb=rng.lognormal(size=len(pairs)),
        mean_snr_db=np.zeros(len(pairs)),
        rng=rng,
        options={"by": "similarity", "features": features},
    )
    assert adjusted_rand_index(made.cluster, truth) == 1.0
    assert [len(made.task_components(task)) for task in range(3)] == [1, 1, 1]


def random_topology(seed, nodes=9):
    rng = np.random.default_rng(seed)
    pairs = all_pairs(nodes)
    pairs = pairs[rng.random(len(pairs)) < 0.45]
    return topology.build(
        "complete",
        positions_m=rng.random((nodes, 2)),
        mixture=np.ones((nodes, 1)),
        candidate_pairs=pairs,
        airtime_s_per_mb=rng.lognormal(size=len(pairs)),
        mean_snr_db=np.zeros(len(pairs)),
        rng=rng,
    )


def weighted(made):
    graph = as_networkx(made)
    return graph, lambda hops: sum(graph.edges[hop]["airtime_s_per_mb"] for hop in hops)


def exact_steiner(graph, wanted):
    """Cheapest tree over `wanted`: a minimum spanning tree of the best set of devices to pass through."""
    others = [node for node in graph if node not in wanted]
    best = np.inf
    for size in range(len(others) + 1):
        for through in itertools.combinations(others, size):
            part = graph.subgraph([*wanted, *through])
            if nx.is_connected(part):
                tree = nx.minimum_spanning_tree(part, weight="airtime_s_per_mb")
                best = min(best, tree.size(weight="airtime_s_per_mb"))
    return best


def test_broadcast_to_all_is_the_minimum_spanning_tree():
    for seed in range(10):
        made = random_topology(seed, 14)
        graph, cost = weighted(made)
        part = graph.subgraph(nx.node_connected_component(graph, 3))
        tree = nx.minimum_spanning_tree(part, weight="airtime_s_per_mb")
        assert cost(made.broadcast_tree(3)) == pytest.approx(tree.size(weight="airtime_s_per_mb"))


def test_broadcast_to_some_is_near_the_exact_steiner_tree():
    ratios = []
    for seed in range(25):
        made = random_topology(seed)
        graph, cost = weighted(made)
        audience = np.random.default_rng(seed).choice(9, 4, replace=False)
        reached = nx.node_connected_component(graph, 0)
        wanted = {0, *(int(device) for device in audience)} & reached
        best = exact_steiner(graph.subgraph(reached), wanted)
        if best > 0:
            ratios.append(cost(made.broadcast_tree(0, audience)) / best)
    assert len(ratios) > 15
    assert min(ratios) >= 1 - 1e-9 and max(ratios) <= 2 and np.mean(ratios) < 1.06


def test_parts_and_paths_equal_networkx():
    for seed in range(10):
        made = random_topology(seed, 12)
        graph, cost = weighted(made)
        groups = list(nx.connected_components(graph))
        assert made.components.max() + 1 == len(groups)
        assert all(len(np.unique(made.components[sorted(group)])) == 1 for group in groups)
        for a, b in itertools.combinations(range(12), 2):
            if graph.has_edge(a, b):
                assert made.path(a, b).tolist() == [a, b]
            elif nx.has_path(graph, a, b):
                length = nx.dijkstra_path_length(graph, a, b, weight="airtime_s_per_mb")
                assert cost(itertools.pairwise(made.path(a, b).tolist())) == pytest.approx(length)
            else:
                with pytest.raises(ValueError, match="no path"):
                    made.path(a, b)
