"""The topology as two tables and as GraphML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
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

    The file is the one that `networkx.write_graphml` writes, to the byte, without that package in the driver.

    Args:
        path: The file, replaced whole.
        nodes: Table of nodes of one topology, devices ascending.
        edges: Its table of edges, from the smaller index to the larger.
    """
    keys: dict[tuple[str, str], str] = {}
    lines = ['  <graph edgedefault="undirected">']
    for row in nodes.drop_columns(["round"]).to_pylist():
        lines += _element("node", f'id="{row.pop("device")}"', row, keys)
    for row in sorted(edges.drop_columns(["round"]).to_pylist(), key=lambda row: row["source"]):
        ends = f'source="{row.pop("source")}" target="{row.pop("destination")}"'
        lines += _element("edge", ends, row, keys)
    # Each key before those that were met earlier.
    head = [*_GRAPHML_HEAD, *reversed(list(keys.values()))]
    write_text_atomically(path, "\n".join([*head, *lines, "  </graph>", "</graphml>", ""]))


_GRAPHML = "http://graphml.graphdrawing.org/xmlns"
_GRAPHML_HEAD = (
    "<?xml version='1.0' encoding='utf-8'?>",
    f'<graphml xmlns="{_GRAPHML}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
    f'xsi:schemaLocation="{_GRAPHML} {_GRAPHML}/1.0/graphml.xsd">',
)
_GRAPHML_TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}


def _element(kind: str, named: str, row: Mapping[str, Any], keys: dict[tuple[str, str], str]) -> list[str]:
    """The lines of a node or an edge; an attribute met for the first time is added to the keys."""
    data = []
    for name, value in row.items():
        if value is None:
            continue
        number = list(keys).index((kind, name)) if (kind, name) in keys else len(keys)
        keys.setdefault(
            (kind, name),
            f'  <key id="d{number}" for="{kind}" attr.name="{name}" attr.type="{_GRAPHML_TYPES[type(value)]}" />',
        )
        text = html.escape(str(value), quote=False)
        data.append(
            f'      <data key="d{number}">{text}</data>' if text else f'      <data key="d{number}" />'
        )
    return [f"    <{kind} {named}>", *data, f"    </{kind}>"]
