"""The GraphML of a run against the one that networkx writes, byte by byte."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import networkx as nx
import pyarrow as pa

from dfl_ray.records.conforming import conform
from dfl_ray.records.schema import TOPOLOGY_EDGES, TOPOLOGY_NODES
from dfl_ray.records.topology import write_graphml


def by_networkx(nodes: pa.Table, edges: pa.Table) -> str:
    graph: Any = nx.Graph()
    for row in nodes.drop_columns(["round"]).to_pylist():
        graph.add_node(row.pop("device"), **{name: v for name, v in row.items() if v is not None})
    for row in edges.drop_columns(["round"]).to_pylist():
        ends = row.pop("source"), row.pop("destination")
        graph.add_edge(*ends, **{name: v for name, v in row.items() if v is not None})
    written = io.BytesIO()
    nx.write_graphml(graph, written)
    return written.getvalue().decode("utf-8")


def test_the_file_is_the_one_that_networkx_writes(tmp_path: Path):
    """Nulls, an empty text, letters that XML keeps for itself, edges in no order, a device without any."""
    nodes = conform(
        {
            "device": [0, 1, 2, 3, 4], "x_m": [0.1, 1e-7, 1e22, None, 5.0], "y_m": [0.0, -0.0, 2.5, None, 1 / 3],
            "tasks": ["a,b", "", 'x<y & "z"', None, "größer"], "cluster": [None, 2, 0, 1, -1],
            "gateway": [True, False, None, False, True],
        },
        TOPOLOGY_NODES,
        round=1,
    )  # fmt: skip
    edges = conform(
        {
            "source": [1, 0, 1, 0], "destination": [4, 2, 2, 1], "length_m": [1.5, 2.0, None, 3.25],
            "mean_snr_db": [None, -3.0, 10.125, 0.0], "airtime_s_per_mb": [1.0, 0.2, 0.3, 1e-5],
            "kind": ["intra", "gateway", None, "relay"],
        },
        TOPOLOGY_EDGES,
        round=1,
    )  # fmt: skip
    write_graphml(tmp_path / "graph.graphml", nodes, edges)
    assert (tmp_path / "graph.graphml").read_text(encoding="utf-8") == by_networkx(nodes, edges)


def test_without_edges_too(tmp_path: Path):
    nodes = conform({"device": [0], "x_m": [1.0], "y_m": [2.0], "tasks": ["a"]}, TOPOLOGY_NODES, round=1)
    edges = TOPOLOGY_EDGES.empty_table()
    write_graphml(tmp_path / "graph.graphml", nodes, edges)
    assert (tmp_path / "graph.graphml").read_text(encoding="utf-8") == by_networkx(nodes, edges)
