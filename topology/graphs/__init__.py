"""The graphs one can ask for, by name. A new one is a function here and a line in `GRAPHS`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from topology.graphs.base import Builder, GraphInput, GraphLinks
from topology.graphs.cliques import d_cliques
from topology.graphs.clustered import clustered
from topology.graphs.drawn import erdos_renyi, k_regular, small_world
from topology.graphs.regular import complete, exponential, from_file, grid, ring
from topology.graphs.spatial import geometric, k_nearest, minimum_spanning_tree

GRAPHS: Mapping[str, Builder] = MappingProxyType(
    {
        "clustered": clustered,
        "complete": complete,
        "ring": ring,
        "grid": grid,
        "k_regular": k_regular,
        "erdos_renyi": erdos_renyi,
        "geometric": geometric,
        "k_nearest": k_nearest,
        "small_world": small_world,
        "exponential": exponential,
        "minimum_spanning_tree": minimum_spanning_tree,
        "d_cliques": d_cliques,
        "file": from_file,
    }
)

__all__ = ["GRAPHS", "Builder", "GraphInput", "GraphLinks"]
