"""Every choice of this package by name; what stands behind a name is imported when it is asked for.

A new graph, placement, partition, mobility model or mixing rule is one file and one line here, or, in a package of
one's own, an entry point in the group of the table (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from topology.registry import Registry

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from topology.graphs.base import Builder
    from topology.mobility.base import Mobility

GRAPHS: Registry[Builder] = Registry(
    "graph",
    "dfl_ray.graphs",
    {
        "clustered": "topology.graphs.clustered:clustered",
        "complete": "topology.graphs.regular:complete",
        "ring": "topology.graphs.regular:ring",
        "grid": "topology.graphs.regular:grid",
        "k_regular": "topology.graphs.drawn:k_regular",
        "erdos_renyi": "topology.graphs.drawn:erdos_renyi",
        "geometric": "topology.graphs.spatial:geometric",
        "k_nearest": "topology.graphs.spatial:k_nearest",
        "small_world": "topology.graphs.drawn:small_world",
        "exponential": "topology.graphs.regular:exponential",
        "minimum_spanning_tree": "topology.graphs.spatial:minimum_spanning_tree",
        "d_cliques": "topology.graphs.cliques:d_cliques",
        "file": "topology.graphs.regular:from_file",
    },
)
"""Graph builders: `(inputs: GraphInput, *, options) -> GraphLinks`."""

PLACEMENTS: Registry[Callable[..., Any]] = Registry(
    "placement",
    "dfl_ray.placements",
    {
        "uniform": "topology.placement:uniform",
        "poisson": "topology.placement:poisson",
        "hotspots": "topology.placement:hotspots",
        "file": "topology.placement:from_file",
    },
)
"""Placements: `(count, *, area_m, rng, options) -> (count, 2) positions in metres`."""

PARTITIONS: Registry[Callable[..., Any]] = Registry(
    "partition",
    "dfl_ray.partitions",
    {
        "balanced": "topology.partition:balanced",
        "one_each": "topology.partition:one_each",
        "dirichlet": "topology.partition:dirichlet",
        "file": "topology.partition:from_file",
    },
)
"""Partitions: `(devices, tasks, *, rng, options) -> (devices, tasks) weights`, rows are scaled to sum to 1."""

MOBILITY: Registry[Callable[..., Mobility]] = Registry(
    "mobility model",
    "dfl_ray.mobility",
    {
        "static": "topology.mobility.recorded:Static",
        "random_direction": "topology.mobility.legs:RandomDirection",
        "random_waypoint": "topology.mobility.legs:RandomWaypoint",
        "gauss_markov": "topology.mobility.gauss_markov:GaussMarkov",
        "highway": "topology.mobility.highway:Highway",
        "trace": "topology.mobility.recorded:Trace",
    },
)
"""Mobility models: `(positions_m, *, area_m, rng, options) -> Mobility`."""

MIXINGS: Registry[Callable[[Any, int], csr_array]] = Registry(
    "mixing rule",
    "dfl_ray.mixings",
    {
        "metropolis_hastings": "topology.mixing:metropolis_hastings",
        "uniform": "topology.mixing:uniform",
        "laplacian": "topology.mixing:laplacian",
        "fastest": "topology.fastest:fastest",
    },
)
"""Gossip weights: `(edges, nodes) -> (nodes, nodes) symmetric, doubly stochastic matrix`."""
