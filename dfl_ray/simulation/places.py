"""Where devices are in each round, as recorded, and how well their graph mixes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.methods.spec import method_spec
from dfl_ray.network.comm_graph import mixing_matrix
from dfl_ray.records.topology import topology_tables

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.network.movement import Moved
    from dfl_ray.records import RunFolder
    from topology import Topology


def record_places(folder: RunFolder, moved: Moved, names: Sequence[str], round_index: int) -> None:
    """Write positions, links and clusters of a round in which devices are elsewhere, or the graph is another.

    Args:
        folder: The run folder.
        moved: Where they are.
        names: Names of the tasks.
        round_index: The round, from 1.
    """
    nodes, edges = topology_tables(moved.topology, names)
    folder.write_topology(nodes, edges, round=round_index)


def smallest_gap(config: Config, topology: Topology) -> float | None:
    """Least spectral gap of the gossip matrices in use: of the tasks' graphs, or of the whole one.

    Args:
        config: The experiment; `topology.mixing` names the weights.
        topology: The graph.

    Returns:
        A number in [0, 1], 0 for a partitioned graph; None if no task has two holders. See
        `topology.mixing.spectral_gap`.
    """
    from topology import mixing

    weights = partial(mixing_matrix, config.topology.mixing)
    if not method_spec(config.method).per_task:
        return float(mixing.spectral_gap(weights(topology.gossip_edges, topology.nodes)))
    gaps: list[float] = []
    for task in range(topology.tasks):
        holders = topology.holders(task)
        if len(holders) > 1:
            place = np.full(topology.nodes, -1)
            place[holders] = np.arange(len(holders))
            gaps.append(float(mixing.spectral_gap(weights(place[topology.task_edges(task)], len(holders)))))
    return min(gaps) if gaps else None
