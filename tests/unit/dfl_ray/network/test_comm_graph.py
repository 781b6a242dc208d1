"""Ways and authors of the communication graph against a derivation by dictionaries, on drawn clustered graphs."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.network.comm_graph import comm_graph
from dfl_ray.network.deployment import build_deployment
from topology import Topology, build
from topology.trees import steiner_tree


def drawn(seed: int, devices: int = 60, side_m: float = 1000.0, reach_m: float = 170.0) -> Topology:
    rng = np.random.default_rng(seed)
    positions = rng.random((devices, 2)) * side_m
    pairs = np.argwhere(np.triu(np.ones((devices, devices)), 1))
    length = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    pairs, length = pairs[length < reach_m], length[length < reach_m]
    mixture = np.eye(4)[rng.integers(4, size=devices)]
    return build(
        "clustered", positions_m=positions, mixture=mixture, candidate_pairs=pairs,
        airtime_s_per_mb=1.0 + length / 100, mean_snr_db=40.0 - length / 10, rng=rng,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_ways_are_those_stored_for_pairs_without_a_link(seed: int) -> None:
    made = drawn(seed)
    links = {frozenset(pair) for pair in made.edges.tolist()}
    stored: dict[frozenset[int], list[int]] = {}
    for row, pair in enumerate(made.relayed.tolist()):
        way = made.relay_hops[made.relay_start[row] : made.relay_start[row + 1]].tolist()
        stored.setdefault(frozenset(pair), way)
    wanted: dict[tuple[int, int], tuple[int, ...]] = {}
    for edges in (made.gossip_edges, *(made.task_edges(task) for task in range(made.tasks))):
        for a, b in edges.tolist():
            assert made.path(a, b).tolist() == made.path(b, a).tolist()[::-1]
            if frozenset((a, b)) in links:
                assert made.path(a, b).tolist() == [a, b]
                continue
            way = stored[frozenset((a, b))]
            wanted[way[0], way[-1]], wanted[way[-1], way[0]] = tuple(way), tuple(way[::-1])
    assert wanted and dict(comm_graph(made, mixing="metropolis_hastings").relays) == wanted
    assert made.path(7, 7).tolist() == [7]


@pytest.mark.parametrize("seed", range(6))
def test_ways_through_a_tree_take_its_links_and_share_them(seed: int) -> None:
    made = drawn(seed)
    links = {frozenset(pair) for pair in made.edges.tolist()}
    plain = comm_graph(made, mixing="metropolis_hastings")
    found = comm_graph(made, mixing="metropolis_hastings", through=True)
    assert {pair: found.relays[pair] for pair in plain.relays} == dict(plain.relays)
    assert found.everyone == plain.everyone and found.task_weights == plain.task_weights
    through = dict(found.relays)
    assert len(through) == len(found.relays) > len(plain.relays)
    for root in {author for _, author in found.everyone}:
        part = nx.node_connected_component(nx.Graph([tuple(pair) for pair in links] + [(root, root)]), root)
        reached: dict[int, int] = {}
        for to in part - {root}:
            way = through.get((root, to), (root, to))
            assert (way[0], way[-1]) == (root, to) and len(set(way)) == len(way)
            if (root, to) in plain.relays:
                continue
            assert all(frozenset(hop) in links for hop in pairwise(way))
            # Nothing takes a way round to a device that the root has a link to.
            assert all(frozenset((root, other)) not in links for other in way[2:])
            for before, after in pairwise(way):
                assert reached.setdefault(after, before) == before
    with pytest.raises(KeyError):
        found.relays[-1, 0]


@pytest.mark.parametrize("seed", range(6))
def test_the_author_of_a_part_is_its_first_holder(seed: int) -> None:
    made = drawn(seed)
    graph = nx.Graph(made.edges.tolist())
    graph.add_nodes_from(range(made.nodes))
    wanted: dict[tuple[int, int], int] = {}
    for part in nx.connected_components(graph):
        for task in range(made.tasks):
            holders = [d for d in part if made.mixture[d, task] > 0]
            if holders:
                wanted |= {(task, d): min(holders) for d in part}
    found = comm_graph(made, mixing="metropolis_hastings")
    assert dict(found.authority) == wanted
    assert set(found.everyone) == {(task, author) for (task, _), author in wanted.items()}
    assert len(set(made.components.tolist())) > 1


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_in_the_numbers_of_its_part_is_that_in_the_numbers_of_all(seed: int) -> None:
    made = drawn(seed)
    for root in range(made.nodes):
        everyone = np.flatnonzero(made.components == made.components[root])
        for audience in (None, everyone, np.flatnonzero(made.mixture[:, seed] > 0), np.array([], np.int64)):
            found = made.broadcast_tree(root, audience)
            cost = made.airtime_s_per_mb
            wanted = steiner_tree(made.nodes, made.edges, cost, root, audience)
            assert found == [(parent, child) for parent, child in wanted.tolist()]
        graph = nx.Graph()
        graph.add_weighted_edges_from((a, b, w) for (a, b), w in zip(made.edges.tolist(), cost, strict=True))
        tree = graph.edge_subgraph(made.broadcast_tree(root, everyone)).size(weight="weight")
        part = graph.subgraph(everyone.tolist())
        assert tree == pytest.approx(nx.minimum_spanning_tree(part).size(weight="weight"))


@pytest.mark.parametrize("graph", ["k_regular", "small_world"])
def test_a_graph_that_so_few_devices_cannot_have_names_its_key(graph: str) -> None:
    config = load_config(None, [f"topology={graph}", "devices.count=3", "devices.min_holders=1"])
    with pytest.raises(InputError, match=rf"`topology` cannot be carried out: {graph}: .*topology\.degree"):
        build_deployment(config, 6)


def test_weights_that_are_none_name_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    from topology.tables import MIXINGS

    monkeypatch.setitem(MIXINGS._loaded, "own", lambda edges, nodes: 2 * np.eye(nodes))
    with pytest.raises(
        InputError, match=r"`topology\.mixing` cannot be carried out: .*'own' gave .* sums to 2"
    ):
        comm_graph(drawn(0), mixing="own")
