"""Topologies in files: GraphML and edge-list CSV, out and in; networkx is imported when needed only."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topology.arrays import IntArray, as_pairs
from topology.csv_file import open_csv
from topology.graph import Topology

if TYPE_CHECKING:
    import networkx as nx

COLUMNS = ("source", "target", "kind", "length_m", "mean_snr_db", "airtime_s_per_mb", "energy_j_per_mb")


def as_networkx(topology: Topology) -> nx.Graph[int]:
    """The same graph for networkx.

    Args:
        topology: What to turn into a graph.

    Returns:
        Graph with nodes 0..N−1 (``position`` (x, y) in metres, ``tasks`` list, ``cluster``) and edges
        (``length_m``, ``mean_snr_db``, ``airtime_s_per_mb``, ``energy_j_per_mb``, ``kind``). Relayed pairs, which
        are no physical links, are in ``graph["relayed"]`` as (a, b, task, path).
    """
    import networkx as nx

    graph: nx.Graph[int] = nx.Graph(name=topology.name)
    held = topology.mixture > 0
    for device, (x_m, y_m) in enumerate(topology.positions_m.tolist()):
        tasks = np.flatnonzero(held[device]).tolist()
        graph.add_node(device, position=(x_m, y_m), tasks=tasks, cluster=int(topology.cluster[device]))
    for row in _rows(topology):
        graph.add_edge(row[0], row[1], **dict(zip(COLUMNS[2:], row[2:], strict=True)))
    graph.graph["relayed"] = [
        (a, b, task, topology.relay_hops[start:end].tolist())
        for (a, b), task, start, end in zip(
            topology.relayed.tolist(),
            topology.relayed_task.tolist(),
            topology.relay_start[:-1].tolist(),
            topology.relay_start[1:].tolist(),
            strict=True,
        )
    ]
    return graph


def _rows(topology: Topology) -> list[tuple[int, int, str, float, float, float, float]]:
    return [
        (int(a), int(b), str(kind), length_m, snr_db, airtime_s, energy_j)
        for (a, b), kind, length_m, snr_db, airtime_s, energy_j in zip(
            topology.edges.tolist(),
            topology.kind,
            topology.length_m.tolist(),
            topology.mean_snr_db.tolist(),
            topology.airtime_s_per_mb.tolist(),
            topology.energy_j_per_mb.tolist(),
            strict=True,
        )
    ]


def write_graphml(topology: Topology, path: str | Path) -> None:
    """Write a topology as GraphML, readable by Gephi, yEd, igraph and networkx.

    Positions become ``x_m`` and ``y_m``, the task list a comma-separated string.

    Args:
        topology: What to write.
        path: File to create or replace.
    """
    import networkx as nx

    graph = as_networkx(topology)
    graph.graph.pop("relayed")
    attributes: Any = graph.nodes(data=True)
    for _, data in attributes:
        data["x_m"], data["y_m"] = data.pop("position")
        data["tasks"] = ",".join(str(task) for task in data["tasks"])
    nx.write_graphml(graph, str(path))


def write_edge_list(topology: Topology, path: str | Path) -> None:
    """Write the physical links as CSV with the columns in `COLUMNS`.

    Args:
        topology: What to write.
        path: File to create or replace.
    """
    with Path(path).open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        writer.writerows(_rows(topology))


def read_edges(path: str | Path, nodes: int) -> IntArray:
    """Read links from GraphML (``.graphml``) or an edge-list CSV (columns ``source,target``, others ignored).

    Directed GraphML is read as undirected. GraphML node names must be the device numbers.

    Args:
        path: The file.
        nodes: Number of devices.

    Returns:
        (E, 2) canonical pairs.

    Raises:
        ValueError: If the file is missing, cannot be read, or names a device that does not exist.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"topology file {source} does not exist; give the path of a .graphml or .csv file")
    found = _read_graphml(source) if source.suffix.lower() in (".graphml", ".xml") else _read_csv(source)
    return as_pairs(np.array(found, np.int64).reshape(-1, 2), nodes, str(source))[0]


def _read_graphml(source: Path) -> list[tuple[int, int]]:
    import networkx as nx

    try:
        graph = nx.read_graphml(str(source))
        return [(int(a), int(b)) for a, b in graph.edges()]
    except Exception as error:
        # networkx raises its own, XML and value errors here; to a user they are one: this file is not ours.
        raise ValueError(
            f"{source}: not a GraphML file whose node names are device numbers ({error}); "
            "rename the nodes 0..N-1 or use an edge-list CSV"
        ) from error


def _read_csv(source: Path) -> list[tuple[int, int]]:
    with open_csv(source) as reader:
        if not {"source", "target"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{source}: expected columns source,target, got {reader.fieldnames}")
        found: list[tuple[int, int]] = []
        for line, row in enumerate(reader, start=2):
            try:
                found.append((int(row["source"]), int(row["target"])))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{source} line {line}: expected device numbers, got {dict(row)}") from error
    return found
