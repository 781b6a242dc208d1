"""The clustered builder against exact answers.

Oracle: the cheapest set of links in which every group induces a connected graph, with the degree bound, as a
mixed-integer programme (one unit of flow from a group's first member to each other one, over links that are
bought), solved by SciPy's HiGHS; and brute force over all link sets on five devices.
"""

import itertools

import networkx as nx
import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

import topology
from topology.arrays import all_pairs, degrees
from topology.links import collision_count, link_cost, make_links
from topology.overlay import connect_groups


def instance(seed, nodes, tasks, per_device, keep):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 300, (nodes, 2))
    held = np.zeros((nodes, tasks), bool)
    for device in range(nodes):
        held[device, rng.choice(tasks, per_device, replace=False)] = True
    pairs = all_pairs(nodes)
    length = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    cost = (length / 100) ** 1.5 * np.exp(rng.normal(0, 0.5, len(pairs))) + 0.2
    near = length <= np.quantile(length, keep)
    return pairs[near], cost[near], np.column_stack([held, np.ones(nodes, bool)])


def joined(pairs, member):
    graph = nx.Graph([tuple(pair) for pair in pairs.tolist()])
    graph.add_nodes_from(range(len(member)))
    return all(
        nx.is_connected(graph.subgraph(np.flatnonzero(group).tolist())) for group in member.T if group.any()
    )


def exact(pairs, cost, member, max_degree):
    """Cost of the best feasible link set, inf if there is none."""
    count, nodes = len(pairs), len(member)
    rows, columns, data, low, high = [], [], [], [], []
    variables = count

    def constrain(entries, at_least, at_most):
        for column, value in entries:
            rows.append(len(low))
            columns.append(column)
            data.append(value)
        low.append(at_least)
        high.append(at_most)

    for group in member.T:
        members = np.flatnonzero(group)
        inside = np.flatnonzero(group[pairs].all(axis=1))
        for sink in members[1:]:
            flow = {
                edge: (variables + 2 * k, variables + 2 * k + 1) for k, edge in enumerate(inside.tolist())
            }
            variables += 2 * len(inside)
            for edge, both in flow.items():
                for one in both:
                    constrain([(one, 1), (edge, -1)], -np.inf, 0)
            for node in members:
                out = [
                    (flow[edge][side], 1 if pairs[edge, side] == node else -1)
                    for edge in flow
                    for side in (0, 1)
                    if node in pairs[edge]
                ]
                wanted = 1 if node == members[0] else -1 if node == sink else 0
                constrain(out, wanted, wanted)
    for node in range(nodes):
        constrain([(edge, 1) for edge in np.flatnonzero((pairs == node).any(axis=1))], 0, max_degree)
    matrix = csr_array((data, (rows, columns)), shape=(len(low), variables))
    price = np.r_[cost, np.zeros(variables - count)]
    whole = np.r_[np.ones(count), np.zeros(variables - count)]
    found = milp(
        price, constraints=LinearConstraint(matrix, low, high), integrality=whole, bounds=Bounds(0, 1)
    )
    return np.inf if found.x is None else float(found.fun)


def test_the_programme_agrees_with_brute_force():
    compared = 0
    for seed in range(12):
        pairs, cost, member = instance(seed, 5, 3, 2, keep=0.9)
        best = np.inf
        for size in range(4, len(pairs) + 1):
            for rows in itertools.combinations(range(len(pairs)), size):
                chosen = list(rows)
                if degrees(5, pairs[chosen]).max() <= 3 and joined(pairs[chosen], member):
                    best = min(best, cost[chosen].sum())
        assert exact(pairs, cost, member, 3) == (pytest.approx(best) if np.isfinite(best) else np.inf)
        compared += np.isfinite(best)
    assert compared >= 4


@pytest.mark.parametrize(
    ("nodes", "tasks", "per_device", "max_degree"),
    [(8, 4, 2, 99), (10, 6, 2, 99), (10, 6, 2, 4), (9, 3, 2, 3)],
)
def test_close_to_the_cheapest_feasible_link_set(nodes, tasks, per_device, max_degree):
    ratios = []
    for seed in range(40):
        pairs, cost, member = instance(seed, nodes, tasks, per_device, keep=0.8)
        if not joined(pairs, member):
            continue
        best = exact(pairs, cost, member, max_degree)
        if not np.isfinite(best):
            continue
        chosen = connect_groups(pairs, cost, member, max_degree=max_degree)
        assert joined(pairs[chosen], member)
        assert degrees(nodes, pairs[chosen]).max() <= max_degree
        ratios.append(cost[chosen].sum() / best)
        if len(ratios) == 6:
            break
    assert len(ratios) == 6
    assert min(ratios) >= 1 - 1e-6
    assert np.mean(ratios) <= 1.02 and max(ratios) <= 1.06


def test_one_task_is_the_minimum_spanning_tree():
    rng = np.random.default_rng(5)
    points = rng.random((40, 2)) * 100
    pairs = all_pairs(40)
    airtime = rng.lognormal(size=len(pairs))
    made = topology.build(
        "clustered",
        positions_m=points,
        mixture=np.ones((40, 1)),
        candidate_pairs=pairs,
        airtime_s_per_mb=airtime,
        mean_snr_db=np.zeros(len(pairs)),
        rng=rng,
        options={"energy_weight": 0.0, "collision_weight": 0.0, "min_gap": 0.0, "max_degree": 39},
    )
    graph = nx.Graph()
    graph.add_weighted_edges_from((int(a), int(b), w) for (a, b), w in zip(pairs, airtime, strict=True))
    tree = {tuple(sorted(edge)) for edge in nx.minimum_spanning_tree(graph).edges()}
    assert {tuple(edge) for edge in made.edges.tolist()} == tree


def test_disjoint_clusters_get_the_cheapest_gateways():
    """Three far apart clusters of one task each: intra trees, and a tree of cheapest links between them."""
    rng = np.random.default_rng(9)
    centres = np.repeat([[0.0, 0.0], [1000.0, 0.0], [0.0, 1200.0]], 5, axis=0)
    points = centres + rng.random((15, 2)) * 100
    label = np.repeat([0, 1, 2], 5)
    pairs = all_pairs(15)
    airtime = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    made = topology.build(
        "clustered",
        positions_m=points,
        mixture=np.eye(3)[label],
        candidate_pairs=pairs,
        airtime_s_per_mb=airtime,
        mean_snr_db=np.zeros(len(pairs)),
        rng=rng,
        options={"min_gap": 0.0, "max_degree": 14, "energy_weight": 0.0, "collision_weight": 0.0},
    )
    gates = made.edges[np.array(made.kind) == "gateway"]
    between = label[pairs]
    cheapest = {
        (a, b): pairs[np.argmin(np.where((between == (a, b)).all(axis=1), airtime, np.inf))].tolist()
        for a, b in ((0, 1), (0, 2), (1, 2))
    }
    assert np.array_equal(made.cluster, label)
    assert sorted(gates.tolist()) == sorted([cheapest[0, 1], cheapest[0, 2]])
    assert made.kind.count("intra") == 12 and made.kind.count("relay") == 0


def test_relays_take_the_cheapest_way_round():
    """Holders 0 and 3 of task 0 cannot hear one another; of two ways between them the cheaper is taken."""
    pairs = np.array([[0, 1], [1, 3], [0, 2], [2, 3]])
    made = topology.build(
        "clustered",
        positions_m=np.array([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0], [2.0, 0.0]]),
        mixture=np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]),
        candidate_pairs=pairs,
        airtime_s_per_mb=[1.0, 5.0, 2.0, 2.0],
        mean_snr_db=np.zeros(4),
        rng=np.random.default_rng(0),
        options={"energy_weight": 0.0, "collision_weight": 0.0},
    )
    assert made.task_edges(0).tolist() == [[0, 3]]
    assert made.path(0, 3).tolist() == [0, 2, 3] and made.path(3, 0).tolist() == [3, 2, 0]
    # Holders 1 and 2 of task 1 go round by 0 (1 + 2), not by 3 (5 + 2).
    assert made.task_edges(1).tolist() == [[1, 2]] and made.path(2, 1).tolist() == [2, 0, 1]
    assert dict(zip(map(tuple, made.edges.tolist()), made.kind, strict=True)) == {
        (0, 1): "relay",
        (0, 2): "relay",
        (2, 3): "relay",
    }


def test_cost_terms_are_what_they_say():
    """α·airtime + β·energy + γ·collision, each over its median, recomputed by hand."""
    rng = np.random.default_rng(4)
    points, pairs = rng.random((12, 2)) * 100, all_pairs(12)
    airtime, energy = rng.lognormal(size=len(pairs)), rng.lognormal(size=len(pairs))
    links = make_links(
        points, pairs, mean_snr_db=np.zeros(len(pairs)), airtime_s_per_mb=airtime, energy_j_per_mb=energy
    )
    distance = np.hypot(*(points[:, None] - points[None]).T)
    silenced = np.zeros(len(pairs))
    for row, (a, b) in enumerate(pairs.tolist()):
        for end, other in ((a, b), (b, a)):
            near = np.flatnonzero(distance[end] <= 1.5 * distance[a, b])
            silenced[row] += len(set(near.tolist()) - {end, other})
    expected = (
        2 * airtime / np.median(airtime)
        + 0.5 * energy / np.median(energy)
        + 0.3 * silenced / np.median(silenced)
    )
    assert np.allclose(
        link_cost(points, links, airtime_weight=2, energy_weight=0.5, collision_weight=0.3),
        expected,
        atol=1e-6,
    )


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 1.5])
def test_silenced_devices_are_those_within_reach_of_an_end_but_the_ends(factor):
    """Counted one by one; below a factor of 1 the other end is out of reach anyway. Two devices stand in one spot."""
    rng = np.random.default_rng(6)
    points, pairs = rng.random((60, 2)) * 100, all_pairs(60)
    points[1] = points[0]
    ones = np.ones(len(pairs))
    links = make_links(points, pairs, mean_snr_db=ones, airtime_s_per_mb=ones)
    distance = np.hypot(*(points[:, None] - points[None]).T)
    silenced = [
        sum(
            distance[end, other] <= factor * distance[a, b]
            for end in (a, b)
            for other in set(range(60)) - {a, b}
        )
        for a, b in pairs.tolist()
    ]
    assert collision_count(points, links, factor).tolist() == silenced


def test_gap_is_reached_when_links_allow_it():
    rng = np.random.default_rng(3)
    points, pairs = rng.random((40, 2)) * 100, all_pairs(40)
    length = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    common = {
        "positions_m": points,
        "mixture": np.eye(2)[np.arange(40) % 2],
        "candidate_pairs": pairs,
        "airtime_s_per_mb": length,
        "mean_snr_db": np.zeros(len(pairs)),
        "rng": rng,
    }

    def gaps(made):
        for task in (0, 1):
            edges = np.searchsorted(made.holders(task), made.task_edges(task))
            weights = np.zeros((20, 20))
            degree = degrees(20, edges)
            for a, b in edges.tolist():
                weights[a, b] = weights[b, a] = 1 / (1 + max(degree[a], degree[b]))
            weights += np.diag(1 - weights.sum(axis=1))
            yield 1 - np.sort(np.abs(np.linalg.eigvalsh(weights)))[-2]

    tree, wide = (
        topology.build("clustered", options={"min_gap": gap, "max_degree": 8}, **common) for gap in (0.0, 0.2)
    )
    assert max(gaps(tree)) < 0.1 and min(gaps(wide)) >= 0.2
    assert wide.degree.max() <= 8
    assert len(wide.edges) > len(tree.edges)


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_gateways_per_pair(wanted):
    rng = np.random.default_rng(2)
    label = np.repeat([0, 1], 8)
    points = rng.random((16, 2)) * 50 + np.array([[0.0, 0.0], [200.0, 0.0]])[label]
    pairs = all_pairs(16)
    made = topology.build(
        "clustered",
        positions_m=points,
        mixture=np.eye(2)[label],
        candidate_pairs=pairs,
        airtime_s_per_mb=np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T),
        mean_snr_db=np.zeros(len(pairs)),
        rng=rng,
        options={"gateways_per_pair": wanted},
    )
    gates = made.edges[np.array(made.kind) == "gateway"]
    assert len(gates) == wanted and len(np.unique(gates)) == 2 * wanted
