"""Comparison graphs, the Topology record, files, links' hysteresis and rebuilding: behaviour and refusals."""

import itertools

import networkx as nx
import numpy as np
import pytest

import topology
from topology import files, mobility
from topology.arrays import all_pairs, as_pairs
from topology.files import as_networkx
from topology.graphs import GRAPHS
from topology.graphs.regular import hilbert_rank


def inputs(nodes=12, seed=0, reach_m=None, tasks=3):
    rng = np.random.default_rng(seed)
    points = rng.random((nodes, 2)) * 100
    pairs = all_pairs(nodes)
    length = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    near = length < (reach_m or 1e9)
    return {
        "positions_m": points,
        "mixture": np.eye(tasks)[np.arange(nodes) % tasks],
        "candidate_pairs": pairs[near],
        "airtime_s_per_mb": length[near] ** 2,
        "mean_snr_db": -length[near],
        "rng": np.random.default_rng(seed),
    }


def graph_of(kind, nodes=12, **options):
    return as_networkx(topology.build(kind, reach="ignore", options=options, **inputs(nodes)))


def same(graph, other):
    return nx.is_isomorphic(graph, other)


def test_textbook_graphs_equal_networkx():
    assert same(graph_of("complete"), nx.complete_graph(12))
    assert same(graph_of("ring"), nx.cycle_graph(12))
    assert same(graph_of("ring", order="random"), nx.cycle_graph(12))
    assert set(graph_of("ring", order="index").edges) == {(i, i + 1) for i in range(11)} | {(0, 11)}
    assert same(graph_of("grid", columns=4), nx.grid_2d_graph(3, 4))
    assert same(graph_of("grid", columns=4, wrap=True), nx.grid_2d_graph(3, 4, periodic=True))
    assert same(graph_of("exponential"), nx.circulant_graph(12, [1, 2, 4, 8]))
    assert same(graph_of("small_world", degree=4, rewire=0.0), nx.watts_strogatz_graph(12, 4, 0.0))
    assert same(graph_of("erdos_renyi", probability=1.0), nx.complete_graph(12))
    assert graph_of("erdos_renyi", probability=0.0).number_of_edges() == 0


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_tiny_graphs(nodes):
    for kind in (
        "complete",
        "ring",
        "grid",
        "exponential",
        "minimum_spanning_tree",
        "k_nearest",
        "clustered",
        "d_cliques",
    ):
        made = topology.build(kind, **inputs(nodes, tasks=2))
        assert made.components.max() == 0, kind
        assert len(made.edges) <= nodes * (nodes - 1) // 2


def test_random_graphs_have_their_statistics():
    assert all(degree == 3 for _, degree in graph_of("k_regular", degree=3).degree())
    edges = [graph_of("erdos_renyi", 200, probability=0.1).number_of_edges()]
    assert edges[0] == pytest.approx(1990, abs=4 * np.sqrt(1990 * 0.9))
    rewired = graph_of("small_world", 200, degree=4, rewire=1.0)
    lattice = graph_of("small_world", 200, degree=4, rewire=0.0)
    assert nx.average_clustering(rewired) < 0.2 < nx.average_clustering(lattice)


def test_large_regular_graph_is_simple_and_regular():
    for k in (4, 5):
        made = topology.build(
            "k_regular",
            options={"degree": k},
            reach="ignore",
            positions_m=np.random.default_rng(0).random((6_000, 2)),
            mixture=np.ones((6_000, 1)),
            candidate_pairs=np.empty((0, 2)),
            airtime_s_per_mb=[],
            mean_snr_db=[],
            rng=np.random.default_rng(1),
        )
        assert (made.degree == k).all() and len(made.edges) == 3_000 * k


def test_distance_graphs_equal_brute_force():
    given = inputs(40)
    points = given["positions_m"]
    distance = np.hypot(*(points[:, None] - points[None]).T)
    made = topology.build("geometric", options={"radius_m": 30.0}, **given)
    assert {tuple(e) for e in made.edges.tolist()} == {
        (a, b) for a, b in all_pairs(40).tolist() if distance[a, b] <= 30
    }
    wanted = {tuple(sorted((a, int(b)))) for a in range(40) for b in np.argsort(distance[a])[1:4]}
    for reach in ("respect", "ignore"):
        made = topology.build("k_nearest", options={"degree": 3}, reach=reach, **given)
        assert {tuple(e) for e in made.edges.tolist()} == wanted
    for count in (40, 60):
        given = inputs(count)
        full = nx.Graph()
        for a, b in all_pairs(count).tolist():
            full.add_edge(a, b, weight=float(np.hypot(*(given["positions_m"][a] - given["positions_m"][b]))))
        tree = {tuple(sorted(edge)) for edge in nx.minimum_spanning_tree(full).edges}
        for reach in ("respect", "ignore"):
            made = topology.build("minimum_spanning_tree", reach=reach, **given)
            assert {tuple(e) for e in made.edges.tolist()} == tree


def test_d_cliques_have_even_mixtures():
    given = inputs(40, tasks=4)
    given["mixture"] = np.eye(4)[np.sort(np.arange(40) % 4)]
    made = topology.build("d_cliques", options={"clique_size": 4}, reach="ignore", **given)
    for clique in range(10):
        members = np.flatnonzero(made.cluster == clique)
        assert len(members) == 4
        assert sorted(np.argmax(given["mixture"][members], axis=1).tolist()) == [0, 1, 2, 3]
    inside = made.cluster[made.edges[:, 0]] == made.cluster[made.edges[:, 1]]
    assert inside.sum() == 10 * 6 and (~inside).sum() == 10
    assert made.components.max() == 0


def test_relay_carries_links_beyond_reach():
    given = inputs(12, reach_m=55.0)
    made = topology.build("complete", reach="relay", **given)
    assert len(as_pairs(np.concatenate([made.edges, made.relayed]), 12)[0]) == 66
    assert len(made.relayed) == 66 - len(given["candidate_pairs"])
    graph = as_networkx(made)
    for a, b in made.relayed.tolist():
        best = nx.dijkstra_path_length(graph, a, b, weight="airtime_s_per_mb")
        hops = made.path(a, b).tolist()
        assert sum(
            graph.edges[x, y]["airtime_s_per_mb"] for x, y in itertools.pairwise(hops)
        ) == pytest.approx(best)
    assert len(made.gossip_edges) == 66


def test_partitioned_radio_is_reported_and_each_part_goes_on():
    left, right = inputs(6, 1), inputs(6, 2)
    made = topology.build(
        "clustered",
        positions_m=np.vstack([left["positions_m"], right["positions_m"] + 1e6]),
        mixture=np.vstack([left["mixture"], right["mixture"]]),
        candidate_pairs=np.vstack([left["candidate_pairs"], right["candidate_pairs"] + 6]),
        airtime_s_per_mb=np.r_[left["airtime_s_per_mb"], right["airtime_s_per_mb"]],
        mean_snr_db=np.r_[left["mean_snr_db"], right["mean_snr_db"]],
        rng=np.random.default_rng(0),
    )
    assert made.components.tolist() == [0] * 6 + [1] * 6
    assert [[part.tolist() for part in made.task_components(task)] for task in range(3)] == [
        [[0, 3], [6, 9]],
        [[1, 4], [7, 10]],
        [[2, 5], [8, 11]],
    ]
    assert {child for _, child in made.broadcast_tree(0)} == {1, 2, 3, 4, 5}


def test_strict_refuses_what_the_bound_cannot_carry():
    star = {
        "positions_m": np.random.default_rng(0).random((5, 2)),
        "mixture": np.ones((5, 1)),
        "candidate_pairs": [[0, 1], [0, 2], [0, 3], [0, 4]],
        "airtime_s_per_mb": np.ones(4),
        "mean_snr_db": np.ones(4),
        "rng": np.random.default_rng(0),
    }
    assert topology.build("clustered", options={"max_degree": 2}, **star).degree.max() == 4
    with pytest.raises(ValueError, match=r"device 0 needs 4; raise topology\.max_degree"):
        topology.build("clustered", options={"max_degree": 2, "strict": True}, **star)


def test_arrays_round_trip():
    made = topology.build("clustered", **inputs(15, reach_m=45.0))
    again = topology.Topology.from_arrays(made.to_arrays())
    assert again.name == made.name
    for name, values in made.to_arrays().items():
        assert np.array_equal(values, again.to_arrays()[name], equal_nan=values.dtype == np.float64)
    with pytest.raises(ValueError, match="lack"):
        topology.Topology.from_arrays({"edges": made.edges})


@pytest.mark.parametrize("suffix", [".graphml", ".csv"])
def test_files_round_trip(tmp_path, suffix):
    made = topology.build("clustered", **inputs(15, reach_m=45.0))
    path = tmp_path / f"graph{suffix}"
    (files.write_graphml if suffix == ".graphml" else files.write_edge_list)(made, path)
    again = topology.build("file", options={"path": path}, **inputs(15, reach_m=45.0))
    assert np.array_equal(again.edges, made.edges)
    assert np.array_equal(again.mean_snr_db, made.mean_snr_db)


def test_graphml_carries_the_attributes(tmp_path):
    made = topology.build("clustered", **inputs(9))
    files.write_graphml(made, tmp_path / "g.graphml")
    graph = nx.read_graphml(tmp_path / "g.graphml")
    assert graph.nodes["4"]["x_m"] == made.positions_m[4, 0] and graph.nodes["4"]["tasks"] == "1"
    a, b = made.edges[3].tolist()
    assert graph.edges[str(a), str(b)]["airtime_s_per_mb"] == made.airtime_s_per_mb[3]
    assert graph.edges[str(a), str(b)]["kind"] == made.kind[3]


def test_networkx_nodes_and_edges():
    made = topology.build("clustered", **inputs(9))
    graph = as_networkx(made)
    assert graph.nodes[5] == {
        "position": tuple(made.positions_m[5]),
        "tasks": [2],
        "cluster": int(made.cluster[5]),
    }
    for device in range(9):
        assert sorted(graph[device]) == made.neighbours(device).tolist()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.csv", "a,b\n0,1\n", "expected columns"),
        ("e.csv", "source,target\n0,one\n", "line 2"),
        ("e.csv", "source,target\n0,99\n", "0..11"),
        ("e.csv", "source,target\n3,3\n", "linked to itself"),
        ("e.graphml", "<graphml>", "not a GraphML file"),
    ],
)
def test_bad_topology_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        topology.build("file", options={"path": tmp_path / name}, **inputs())


def test_missing_topology_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        topology.build("file", options={"path": tmp_path / "none.csv"}, **inputs())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("circle", {}, "expected one of clustered"),
        (
            "ring",
            {"odrer": "index"},
            "option of graph .ring. .odrer.; expected one of order. Did you mean .order.",
        ),
        ("ring", {"order": "x"}, "order is .x.; expected one of tour, index, random"),
        ("ring", {"reach": "far"}, "reach must be"),
        ("grid", {"columns": 13}, "columns"),
        ("grid", {"columns": 5, "wrap": True}, "do not fill"),
        ("k_regular", {"degree": 12}, "degree must lie"),
        ("k_regular", {"degree": 0}, "degree is 0; expected a whole number >= 1"),
        ("erdos_renyi", {"probability": 1.5}, "probability"),
        ("small_world", {"degree": 3}, "even"),
        ("geometric", {"radius_m": 0.0}, "radius_m"),
        ("k_nearest", {"degree": 0}, "degree is 0; expected a whole number >= 1"),
        ("d_cliques", {"clique_size": 1}, "clique_size"),
        ("clustered", {"max_degree": 0}, "max_degree"),
        ("clustered", {"strict": "no"}, "graph .clustered.: strict is .no.; expected true or false"),
        ("clustered", {"clusters": 2.5}, "clusters is 2.5; expected a whole number >= 1 or none"),
        ("file", {"path": 3}, "path is 3; expected a text or a path"),
        ("clustered", {"min_gap": 2.0}, "min_gap"),
        ("clustered", {"by": "similarity"}, "features"),
        ("clustered", {"by": "similarity", "features": np.eye(3)}, "3 rows for 12"),
        ("clustered", {"alpha": -1.0}, "alpha"),
        ("clustered", {"mixture": np.zeros((12, 3))}, "mixture"),
        ("clustered", {"mean_snr_db": [1.0]}, "mean_snr_db"),
        ("clustered", {"airtime_s_per_mb": np.zeros(66)}, "airtime_s_per_mb"),
        ("clustered", {"positions_m": np.zeros((12, 3))}, "positions_m"),
        ("clustered", {"candidate_pairs": np.zeros((66, 3))}, "candidate_pairs"),
    ],
)
def test_bad_requests_say_what_to_change(kind, options, message):
    with pytest.raises(ValueError, match=message):
        own = {name: value for name, value in options.items() if name not in {*inputs(), "reach"}}
        given = {name: value for name, value in options.items() if name not in own}
        topology.build(kind, **{**inputs(), **given}, options=own)


def test_a_clique_of_more_devices_than_there_are_holds_all_of_them():
    made = [
        topology.build("d_cliques", options={"clique_size": size}, **inputs()) for size in (12, 13, 10**12)
    ]
    assert all(len(one.edges) == 66 and not one.cluster.any() for one in made)


def test_odd_regular_graph_is_refused():
    with pytest.raises(ValueError, match="odd sum"):
        topology.build("k_regular", options={"degree": 3}, reach="ignore", **inputs(11))


def test_every_graph_has_a_line_in_the_table():
    named = "clustered complete ring grid k_regular erdos_renyi geometric k_nearest small_world exponential"
    assert set(GRAPHS) == {*named.split(), "minimum_spanning_tree", "d_cliques", "file"}


def test_questions_about_unknown_devices_and_tasks():
    made = topology.build("ring", **inputs())
    for ask in (lambda: made.neighbours(12), lambda: made.path(0, -1), lambda: made.broadcast_tree(12)):
        with pytest.raises(ValueError, match=r"0\.\.11"):
            ask()
    with pytest.raises(ValueError, match="task must lie"):
        made.task_edges(3)
    with pytest.raises(ValueError, match=r"0\.\.11"):
        made.broadcast_tree(0, np.array([3, 12]))


def test_hilbert_curve_visits_cell_after_cell():
    side = 8
    points = np.array([[x + 0.5, y + 0.5] for x in range(side) for y in range(side)])
    spanning = np.vstack([points, [[0.0, 0.0], [side, side]]])
    rank = hilbert_rank(spanning, levels=3)[:-2]
    assert sorted(rank.tolist()) == list(range(side * side))
    steps = np.abs(np.diff(points[np.argsort(rank)], axis=0)).sum(axis=1)
    assert (steps == 1).all()


def test_hysteresis():
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    limits = {"appear_db": 6.0, "vanish_db": 3.0, "nodes": 3}
    rows = mobility.update_links(np.empty((0, 2)), pairs, np.array([5.0, 7.0, 2.0]), **limits)
    assert rows.tolist() == [1]
    rows = mobility.update_links(pairs[rows], pairs, np.array([5.0, 4.0, 6.0]), **limits)
    assert rows.tolist() == [1, 2]
    rows = mobility.update_links(pairs[rows], pairs, np.array([6.0, 2.9, 3.0]), **limits)
    assert rows.tolist() == [0, 2]
    assert mobility.update_links(pairs, pairs[:1], np.array([4.0]), **limits).tolist() == [0]
    with pytest.raises(ValueError, match="swap"):
        mobility.update_links(pairs, pairs, np.zeros(3), appear_db=1.0, vanish_db=2.0, nodes=3)


def test_rebuild_when_a_used_link_is_gone_or_much_has_changed():
    given = inputs()
    made = topology.build("minimum_spanning_tree", **given)
    links = np.asarray(given["candidate_pairs"])
    spare = np.array([not (made.edges == link).all(axis=1).any() for link in links])
    few_gone = np.delete(links, np.flatnonzero(spare)[:2], axis=0)
    many_gone = np.delete(links, np.flatnonzero(spare)[:20], axis=0)
    assert not mobility.needs_rebuild(made, links, links)
    assert not mobility.needs_rebuild(made, links, few_gone)
    assert mobility.needs_rebuild(made, links, many_gone)
    assert mobility.needs_rebuild(made, links, links[spare])
