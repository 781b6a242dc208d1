"""The topology as two tables and as GraphML."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dfl_ray.errors import InputError
from dfl_ray.records import parts
from dfl_ray.records.info import write_text_atomically
from dfl_ray.records.schema import TOPOLOGY_NODES, TOPOLOGY_TABLES

if TYPE_CHECKING:
    import pandas as pd

GRAPHML_MOST_DEVICES = 5_000
"""Devices up to which the topology is drawn as GraphML too."""


def topology_tables(topology: Any, task_names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the tables of nodes and edges of a `topology.Topology`, for `RunFolder.write_topology`.

    Args:
        topology: Gives `positions_m` (devices, 2), `cluster` (devices,), `mixture` (devices, tasks), `edges`
            (edges, 2) and, one value an edge, `length_m`, `mean_snr_db`, `airtime_s_per_mb` and `kind`.
        task_names: Names of the mixture's columns.

    Returns:
        Columns of `TOPOLOGY_NODES` but `round` and `gateway`, and of `TOPOLOGY_EDGES` but `round`.
    """
    import pandas as pd

    positions = np.asarray(topology.positions_m)
    nodes = pd.DataFrame(
        {
            "device": np.arange(len(positions)),
            "x_m": positions[:, 0],
            "y_m": positions[:, 1],
            "tasks": held_tasks(topology.mixture, task_names),
            "cluster": np.asarray(topology.cluster),
        }
    )
    edges = np.asarray(topology.edges).reshape(-1, 2)
    columns = ("length_m", "mean_snr_db", "airtime_s_per_mb", "kind")
    return nodes, pd.DataFrame(
        {
            "source": edges.min(axis=1) if len(edges) else edges[:, 0],
            "destination": edges.max(axis=1) if len(edges) else edges[:, 1],
            **{name: np.asarray(getattr(topology, name)) for name in columns},
        }
    )


def held_tasks(mixture: Any, task_names: Sequence[str]) -> list[str]:
    """Name the tasks each device holds, comma separated, largest share first.

    Args:
        mixture: (devices, tasks) shares >= 0; zero = not held.
        task_names: Names of its columns.

    Returns:
        One text a device; tasks of equal share in the order of the columns.
    """
    weights = np.asarray(mixture)
    order = np.argsort(-weights, axis=1, kind="stable")
    return [
        ",".join(str(task_names[task]) for task in row if weights[device, task] > 0)
        for device, row in enumerate(order)
    ]


def mark_gateways(nodes: pa.Table, edges: pa.Table) -> pa.Table:
    """Fill `gateway` if it is null in any row: whether the device ends a link of kind `gateway`.

    Args:
        nodes: Table of nodes.
        edges: Table of edges.

    Returns:
        The table of nodes, as it was if nothing was missing.
    """
    if nodes.column("gateway").null_count == 0:
        return nodes
    gateway = np.array([kind == "gateway" for kind in edges.column("kind").to_pylist()], dtype=bool)
    ends = np.concatenate([edges.column(name).to_numpy()[gateway] for name in ("source", "destination")])
    marked = np.isin(nodes.column("device").to_numpy(), ends)
    position = TOPOLOGY_NODES.get_field_index("gateway")
    return nodes.set_column(position, TOPOLOGY_NODES.field(position), pa.array(marked))


def write_graphml(path: Path, nodes: pa.Table, edges: pa.Table) -> None:
    """Write the graph as GraphML with all columns but `round` as attributes; nulls are left out.

    Args:
        path: The file, replaced whole.
        nodes: Table of nodes of one topology.
        edges: Its table of edges.
    """
    write_text_atomically(path, _graphml(nodes, edges))


def check_graphml(path: Path, nodes: pa.Table, edges: pa.Table) -> None:
    """Make sure that a file of GraphML says what the tables do.

    Args:
        path: The file.
        nodes: Table of nodes of the run's last topology.
        edges: Its table of edges.

    Raises:
        InputError: It is missing, cannot be read, or says something else.
    """
    import networkx as nx

    try:
        text = path.read_text(encoding="utf-8")
        wanted = _graphml(nodes, edges)
        same = text == wanted or _said(text) == _said(wanted)
        got = "" if same else "another graph"
    except FileNotFoundError:
        got = "no such file"
    except (OSError, SyntaxError, ValueError, KeyError, nx.NetworkXException) as error:
        got = f"what is no graph: {error}"
    if got:
        raise InputError(
            f"{path} is damaged",
            got=got,
            expected="the graph of the tables beside it, as GraphML",
            change="Restore it from a copy, or do without: the tables have all that it says.",
        )


def _said(text: str) -> str:
    """Devices and links with their attributes, whatever version of networkx has written them."""
    import networkx as nx

    graph = nx.parse_graphml(text)
    return repr((dict(graph.nodes(data=True)), nx.to_dict_of_dicts(graph)))


def _graphml(nodes: pa.Table, edges: pa.Table) -> str:
    import networkx as nx

    graph: Any = nx.Graph()
    for row in nodes.drop_columns(["round"]).to_pylist():
        device = row.pop("device")
        graph.add_node(device, **{key: value for key, value in row.items() if value is not None})
    for row in edges.drop_columns(["round"]).to_pylist():
        ends = row.pop("source"), row.pop("destination")
        graph.add_edge(*ends, **{key: value for key, value in row.items() if value is not None})
    buffer = io.BytesIO()
    nx.write_graphml(graph, buffer)
    return buffer.getvalue().decode("utf-8")


def draw_graph(path: Path, nodes: pa.Table, edges: pa.Table) -> None:
    """Write a topology as GraphML if it has no more devices than are read from such a file.

    Args:
        path: The run folder.
        nodes: Rows of `TOPOLOGY_NODES`.
        edges: Rows of `TOPOLOGY_EDGES`.
    """
    if 0 < nodes.num_rows <= GRAPHML_MOST_DEVICES:
        write_graphml(path / "topology" / "graph.graphml", nodes, edges)


def last_topology(folder: Path) -> tuple[pa.Table, pa.Table]:
    """The tables of the topology that was recorded last.

    Args:
        folder: The run folder.

    Returns:
        Its nodes and edges; without rows where none was recorded.
    """
    last = parts.newest_round(folder / "topology" / "nodes.parquet")
    # Without any rows no round is the last one, and none is -1.
    where = [("round", "==", -1 if last is None else last)]
    nodes, edges = (
        parts.read(folder / "topology" / f"{name}.parquet", TOPOLOGY_TABLES[name], filters=where)
        for name in ("nodes", "edges")
    )
    return nodes, edges
