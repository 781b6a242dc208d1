"""Invariants of partitions, graphs, mixing and movement, over drawn inputs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import topology
from topology import mixing, mobility
from topology.arrays import all_pairs, capped, component_labels
from topology.clustering import adjusted_rand_index, by_tasks
from topology.graphs import GRAPHS
from topology.partition import split_rows, task_mixture

seeds = st.integers(0, 2**32 - 1)


def drawn_scene(seed, nodes, tasks=4, density=0.6):
    """Random devices, mixture and candidate links, with costs that need not follow distance."""
    rng = np.random.default_rng(seed)
    pairs = all_pairs(nodes)
    pairs = pairs[rng.random(len(pairs)) < density]
    held = rng.random((nodes, tasks)) < 0.4
    held[np.arange(nodes), rng.integers(tasks, size=nodes)] = True
    return {
        "positions_m": rng.random((nodes, 2)) * 200,
        "mixture": held / held.sum(axis=1, keepdims=True),
        "candidate_pairs": pairs,
        "airtime_s_per_mb": rng.lognormal(size=len(pairs)),
        "energy_j_per_mb": rng.lognormal(size=len(pairs)),
        "mean_snr_db": rng.normal(20, 8, len(pairs)),
    }


@settings(deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 8), st.integers(1, 4))
def test_balanced_mixture_invariants(seed, devices, tasks, per_device):
    per_device = min(per_device, tasks)
    holders = devices * per_device // tasks
    mixture = task_mixture(
        "balanced",
        devices,
        tasks,
        rng=np.random.default_rng(seed),
        tasks_per_device=per_device,
        min_holders=holders,
    )
    held = mixture > 0
    assert (held.sum(axis=1) == per_device).all()
    assert np.ptp(held.sum(axis=0)) <= 1 and held.sum(axis=0).min() >= holders
    assert np.allclose(mixture.sum(axis=1), 1, atol=1e-12)


@settings(deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 8), st.floats(0.01, 50), st.integers(0, 6))
def test_dirichlet_mixture_invariants(seed, devices, tasks, alpha, min_holders):
    min_holders = min(min_holders, devices)
    mixture = task_mixture(
        "dirichlet", devices, tasks, rng=np.random.default_rng(seed), alpha=alpha, min_holders=min_holders
    )
    assert np.allclose(mixture.sum(axis=1), 1, atol=1e-12)
    assert ((mixture > 0).sum(axis=0) >= min_holders).all()
    assert (mixture >= 0).all() and ((mixture > 0).sum(axis=1) >= 1).all()


@settings(deadline=None)
@given(
    seeds, st.integers(1, 25), st.integers(1, 5), st.integers(0, 300), st.sampled_from(["equal", "lognormal"])
)
def test_rows_are_dealt_once_each(seed, devices, tasks, extra, sizes):
    rng = np.random.default_rng(seed)
    mixture = task_mixture("dirichlet", devices, tasks, rng=rng, min_holders=0)
    holders = (mixture > 0).sum(axis=0)
    counts = holders + rng.integers(0, extra + 1, size=tasks)
    parts = split_rows(counts, mixture, rng=rng, sizes=sizes)
    for task in range(tasks):
        dealt = [part[task] for part in parts if task in part]
        assert len(dealt) == holders[task] and all(len(rows) for rows in dealt)
        every = np.concatenate([*dealt, np.empty(0, np.int64)])
        assert np.array_equal(np.sort(every), np.arange(counts[task] if holders[task] else 0))
    assert all(set(part) == set(np.flatnonzero(row > 0)) for part, row in zip(parts, mixture, strict=True))


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 14), st.integers(1, 6), st.sampled_from([0.15, 0.4, 0.9]))
def test_clustered_joins_all_that_can_be_joined(seed, nodes, max_degree, density):
    inputs = drawn_scene(seed, nodes, density=density)
    made = topology.build(
        "clustered", rng=np.random.default_rng(0), options={"max_degree": max_degree}, **inputs
    )
    possible = component_labels(nodes, np.asarray(inputs["candidate_pairs"]))
    assert np.array_equal(made.components, possible)
    for task in range(made.tasks):
        holders = made.holders(task)
        assert len(made.task_components(task)) == len(np.unique(possible[holders]))
        assert (made.mixture[made.task_edges(task), task] > 0).all()
    candidates = {tuple(pair) for pair in inputs["candidate_pairs"].tolist()}
    assert {tuple(pair) for pair in made.edges.tolist()} <= candidates


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(2, 14), st.sampled_from([0.15, 0.3, 0.6]))
def test_relayed_paths_run_over_links_and_pass_no_holder(seed, nodes, density):
    inputs = drawn_scene(seed, nodes, density=density)
    made = topology.build("clustered", rng=np.random.default_rng(0), **inputs)
    links = {tuple(pair) for pair in made.edges.tolist()}
    for (a, b), task in zip(made.relayed.tolist(), made.relayed_task.tolist(), strict=True):
        for start, end in ((a, b), (b, a)):
            path = made.path(start, end).tolist()
            assert path[0] == start and path[-1] == end
            assert all((min(hop), max(hop)) in links for hop in itertools.pairwise(path))
        assert (made.mixture[[a, b], task] > 0).all()
        assert not made.mixture[made.path(a, b)[1:-1], task].any()
        assert (a, b) not in links


def options_for(kind, nodes):
    return {"degree": 2} if kind in ("k_regular", "small_world", "k_nearest") else {}


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(3, 16), st.sampled_from(["respect", "relay", "ignore"]))
@pytest.mark.parametrize("kind", [name for name in GRAPHS if name != "file"])
def test_every_graph_is_simple_seeded_and_in_reach(kind, seed, nodes, reach):
    inputs = drawn_scene(seed, nodes, density=0.5)
    options = options_for(kind, nodes)
    made = topology.build(kind, rng=np.random.default_rng(seed), reach=reach, options=options, **inputs)
    again = topology.build(kind, rng=np.random.default_rng(seed), reach=reach, options=options, **inputs)
    for name, values in made.to_arrays().items():
        assert np.array_equal(values, again.to_arrays()[name], equal_nan=values.dtype == np.float64)
    assert (made.edges[:, 0] < made.edges[:, 1]).all()
    assert len(np.unique(made.edges, axis=0)) == len(made.edges)
    known = np.isfinite(made.mean_snr_db)
    candidates = {tuple(pair): row for row, pair in enumerate(inputs["candidate_pairs"].tolist())}
    for edge, snr, airtime in zip(made.edges.tolist(), made.mean_snr_db, made.airtime_s_per_mb, strict=True):
        row = candidates.get(tuple(edge))
        assert np.isnan(snr) if row is None else snr == inputs["mean_snr_db"][row]
        assert np.isnan(airtime) if row is None else airtime == inputs["airtime_s_per_mb"][row]
    assert known.all() or reach == "ignore"


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(2, 14), st.data())
def test_broadcast_tree_reaches_exactly_who_can_be_reached(seed, nodes, data):
    made = topology.build(
        "k_nearest",
        options={"degree": 1},
        rng=np.random.default_rng(0),
        **drawn_scene(seed, nodes, density=0.4),
    )
    root = data.draw(st.integers(0, nodes - 1))
    audience = data.draw(st.none() | st.lists(st.integers(0, nodes - 1), max_size=nodes))
    hops = made.broadcast_tree(root, None if audience is None else np.array(audience, np.int64))
    reached = {root}
    for parent, child in hops:
        assert parent in reached and child not in reached
        assert child in made.neighbours(parent)
        reached.add(child)
    mine = set(np.flatnonzero(made.components == made.components[root]).tolist())
    assert (mine if audience is None else mine & set(audience)) <= reached
    if audience is not None:
        leaves = {child for _, child in hops} - {parent for parent, _ in hops}
        assert leaves <= set(audience)


@settings(deadline=None)
@given(seeds, st.integers(1, 30), st.floats(0, 1))
@pytest.mark.parametrize("make", [mixing.metropolis_hastings, mixing.uniform, mixing.laplacian])
def test_mixing_is_doubly_stochastic_on_the_graph(make, seed, nodes, density):
    pairs = all_pairs(nodes)
    pairs = pairs[np.random.default_rng(seed).random(len(pairs)) < density]
    weights = make(pairs, nodes).toarray()
    assert np.abs(weights.sum(axis=0) - 1).max() <= 1e-12 and np.abs(weights.sum(axis=1) - 1).max() <= 1e-12
    assert weights.min() >= -1e-15 and np.array_equal(weights, weights.T)
    linked = np.eye(nodes, dtype=bool)
    linked[pairs[:, 0], pairs[:, 1]] = linked[pairs[:, 1], pairs[:, 0]] = True
    assert not weights[~linked].any()


@settings(deadline=None)
@given(seeds, st.integers(2, 25), st.floats(0, 1), st.integers(0, 4))
def test_capped_is_the_sequential_greedy(seed, nodes, density, cap):
    rng = np.random.default_rng(seed)
    pairs = all_pairs(nodes)
    pairs = pairs[rng.random(len(pairs)) < density]
    priority = rng.integers(0, 5, size=len(pairs)).astype(float)
    free, expected = np.full(nodes, cap), np.zeros(len(pairs), bool)
    for row in np.argsort(priority, kind="stable"):
        if (free[pairs[row]] > 0).all():
            expected[row] = True
            free[pairs[row]] -= 1
    assert np.array_equal(capped(pairs, priority, np.full(nodes, cap)), expected)


@settings(deadline=None)
@given(seeds, st.integers(1, 30), st.integers(1, 5))
def test_labels_by_tasks_are_tasks_held_most(seed, nodes, tasks):
    mixture = task_mixture("dirichlet", nodes, tasks, rng=np.random.default_rng(seed), min_holders=0)
    label = by_tasks(mixture)
    assert np.array_equal(mixture[np.arange(nodes), label], mixture.max(axis=1))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40),
    st.permutations(range(5)),
)
def test_adjusted_rand_index_symmetries(pairs, names):
    a, b = np.array(pairs).T
    value = adjusted_rand_index(a, b)
    assert value == pytest.approx(adjusted_rand_index(b, a))
    assert value == pytest.approx(adjusted_rand_index(np.array(names)[a], b))
    assert value <= 1 + 1e-12 and adjusted_rand_index(a, a) == 1


MOVING = {
    "static": {},
    "random_direction": {"mean_leg_s": 5.0, "speed_max_mps": 30.0},
    "random_waypoint": {"pause_s": 2.0, "speed_max_mps": 30.0},
    "gauss_markov": {"mean_speed_mps": 20.0, "sigma_mps": 10.0, "memory_s": 3.0},
}


@settings(deadline=None, max_examples=25)
@given(seeds, st.lists(st.floats(0, 25), min_size=1, max_size=5))
@pytest.mark.parametrize("kind", list(MOVING))
def test_movement_stays_inside_and_does_not_depend_on_the_steps(kind, seed, steps):
    area = (120.0, 30.0)
    start = np.random.default_rng(seed).random((12, 2)) * area
    made = [
        mobility.create(kind, start, area_m=area, rng=np.random.default_rng(seed), **MOVING[kind])
        for _ in range(3)
    ]
    for dt in steps:
        here = made[0].step(dt)
        assert (here >= 0).all() and (here <= area).all()
    assert np.allclose(made[1].step(sum(steps)), here, atol=1e-6)
    made[2].restore(made[0].snapshot())
    assert np.array_equal(made[2].step(7.0), made[0].step(7.0))
