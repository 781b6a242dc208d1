"""The topology as two tables and as GraphML."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dfl_ray.records.info import write_text_atomically
from dfl_ray.records.schema import TOPOLOGY_NODES

if TYPE_CHECKING:
    import pandas as pd


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
    write_text_atomically(path, buffer.getvalue().decode("utf-8"))
