"""Topologies on disk: tables, GraphML, and reading the one that held in a round."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np

from dfl_ray.records import RunFolder, load_run, parts, topology_tables
from dfl_ray.records.part_files import list_parts
from dfl_ray.records.results import holders
from dfl_ray.records.topology import write_graphml


class Clusters:
    """The attributes of a topology that the records use."""

    positions_m = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 20.0]])
    mixture = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    cluster = np.array([1, 0, 0])
    edges = np.array([[0, 1], [1, 2]])
    length_m = np.array([10.0, 22.4])
    mean_snr_db = np.array([20.0, 11.0])
    airtime_s_per_mb = np.array([0.5, 0.9])
    kind = np.array(["gateway", "intra"])


def test_topology_is_kept_as_tables_and_as_graphml(folder: RunFolder):
    nodes, edges = topology_tables(Clusters(), ["a", "b"])
    folder.write_topology(nodes, edges)
    folder.write_topology(nodes.assign(x_m=5.0), edges, round=4)
    folder.write_topology(nodes.assign(x_m=6.0), edges, round=4)  # a resumed run writes it again
    run = load_run(folder.path)
    assert run.topology_at(3)[0]["x_m"].tolist() == [0.0, 10.0, 0.0]
    assert run.topology_at(9)[0]["x_m"].tolist() == [6.0] * 3
    assert run.topology_at(1)[0]["tasks"].tolist() == ["b,a", "a", "a,b"]
    assert run.topology_at(1)[0]["gateway"].tolist() == [True, True, False]
    graph = nx.read_graphml(folder.path / "topology" / "graph.graphml", node_type=int)
    assert sorted(graph.edges) == [(0, 1), (1, 2)] and graph.edges[0, 1]["kind"] == "gateway"
    folder.truncate(2)
    assert run.topology_at(3)[0]["x_m"].tolist() == [0.0, 10.0, 0.0]
    assert load_run(folder.path).topology_nodes["round"].unique().tolist() == [1]
    graph = nx.read_graphml(folder.path / "topology" / "graph.graphml", node_type=int)
    assert [graph.nodes[device]["x_m"] for device in range(3)] == [0.0, 10.0, 0.0]


def test_graphml_is_drawn_at_the_start_and_at_the_end_of_a_run_and_not_in_every_round(
    folder: RunFolder, monkeypatch
):
    drawn: list[int] = []
    monkeypatch.setattr(
        "dfl_ray.records.topology.write_graphml",
        lambda path, nodes, edges: (
            drawn.append(nodes["round"][0].as_py()) or write_graphml(path, nodes, edges)
        ),
    )
    nodes, edges = topology_tables(Clusters(), ["a", "b"])
    for number in (1, 1, 2, 3):
        folder.write_topology(nodes.assign(x_m=float(number)), edges, round=number)
    assert drawn == [1, 1]
    folder.finish("interrupted")
    assert drawn == [1, 1, 3]
    graph = nx.read_graphml(folder.path / "topology" / "graph.graphml", node_type=int)
    assert {graph.nodes[device]["x_m"] for device in range(3)} == {3.0}


def test_a_topology_is_read_without_those_of_other_rounds(folder: RunFolder, monkeypatch):
    nodes, edges = topology_tables(Clusters(), ["a", "b"])
    for number in (1, 3, 4):
        folder.write_topology(nodes.assign(x_m=float(number)), edges.assign(length_m=number), round=number)
    read = parts.read
    rows: list[int] = []

    def counted(table: Path, *words, columns=None, **more):
        found = read(table, *words, columns=columns, **more)
        rows.extend([found.num_rows] if columns != ["round"] else [])
        return found

    monkeypatch.setattr(parts, "read", counted)
    run = load_run(folder.path)
    rows.clear()
    for asked, held in ((0, 1), (1, 1), (2, 1), (3, 3), (9, 4)):
        found = run.topology_at(asked)
        assert set(found[0]["x_m"]) == set(found[1]["length_m"]) == {held} == set(run.nodes_at(asked)["x_m"])
    assert sorted(holders(run)) == [(0, "a"), (0, "b"), (1, "a"), (2, "a"), (2, "b")]
    assert max(rows) == 3
    part = list_parts(folder.path / "topology" / "nodes.parquet")[0][-1]
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", None)
    assert parts.reaches_beyond(part, 3) and not parts.reaches_beyond(part, 4)
