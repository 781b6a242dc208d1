"""Dealing devices to nodes: sizes kept, never worse than blocks of clusters, best where all can be tried."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfl_ray.packing.partition import MessageGraph, assign


@st.composite
def problems(draw, most=24):
    count = draw(st.integers(2, most))
    parts = draw(st.integers(1, min(4, count)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    edges = draw(st.integers(0, 3 * count))
    graph = MessageGraph.build(
        count, rng.integers(0, count, edges), rng.integers(0, count, edges), rng.integers(1, 1000, edges)
    )
    cluster = rng.integers(0, draw(st.integers(1, 8)), count)
    cuts = np.sort(rng.integers(0, count + 1, parts - 1))
    return graph, cluster, np.diff([0, *cuts, count]).tolist()


def blocks(cluster, sizes):
    part = np.empty(len(cluster), np.int64)
    part[np.lexsort((np.arange(len(cluster)), cluster))] = np.repeat(np.arange(len(sizes)), sizes)
    return part


def crossing(graph, part):
    """Bytes between parts, edge by edge."""
    return sum(
        w for (a, b), w in zip(graph.pairs.tolist(), graph.bytes.tolist(), strict=True) if part[a] != part[b]
    )


@given(problems(), st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_sizes_are_kept_and_blocks_of_clusters_never_beaten(problem, slack):
    graph, cluster, sizes = problem
    limits = [s + slack for s in sizes]
    part = assign(graph, cluster, sizes, limits)
    counts = np.bincount(part, minlength=len(sizes))
    assert counts.sum() == graph.count
    assert (counts <= limits).all()
    if slack == 0:
        assert counts.tolist() == sizes
    assert crossing(graph, part) == pytest.approx(graph.crossing(part))
    assert crossing(graph, part) <= crossing(graph, blocks(cluster, sizes)) + 1e-6
    assert (part == assign(graph, cluster, sizes, limits)).all()


def test_small_graphs_are_cut_nearly_as_well_as_can_be():
    found, best = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        count, parts = int(rng.integers(6, 9)), int(rng.integers(2, 4))
        ends = rng.integers(0, count, (2, 3 * count))
        graph = MessageGraph.build(count, ends[0], ends[1], rng.integers(1, 1000, 3 * count))
        labels = np.sort(np.arange(count) % parts)
        sizes = np.bincount(labels).tolist()
        found.append(crossing(graph, assign(graph, rng.integers(0, 3, count), sizes)))
        best.append(min(crossing(graph, p) for p in set(itertools.permutations(labels.tolist()))))
    assert np.mean(np.isclose(found, best)) >= 0.95
    assert sum(found) <= 1.01 * sum(best)


def test_hidden_groups_are_found_whatever_the_clusters_say():
    rng = np.random.default_rng(3)
    group = rng.permutation(np.repeat(np.arange(4), 50))
    pairs = rng.integers(0, 200, (4000, 2))
    weight = np.where(group[pairs[:, 0]] == group[pairs[:, 1]], 10.0, 0.2)
    graph = MessageGraph.build(200, pairs[:, 0], pairs[:, 1], weight)
    part = assign(graph, np.zeros(200, int), [50] * 4)
    assert graph.crossing(part) == pytest.approx(graph.crossing(group))


def test_impossible_sizes_are_refused():
    graph = MessageGraph.build(3, np.array([0]), np.array([1]), np.array([5.0]))
    with pytest.raises(ValueError, match="do not fit 3 devices"):
        assign(graph, np.zeros(3, int), [1, 1])


def test_both_directions_and_repeats_are_summed():
    graph = MessageGraph.build(
        4, np.array([2, 1, 2, 3]), np.array([1, 2, 1, 3]), np.array([1.0, 2.0, 4.0, 9.0])
    )
    assert graph.pairs.tolist() == [[1, 2]]
    assert graph.bytes.tolist() == [7.0]
