"""Who talks to whom: placement, partition of tasks, graphs, clusters, mixing, mobility.

Needs NumPy, SciPy and networkx only; knows nothing of the radio's models, of learning or of Ray.
"""

from __future__ import annotations

from topology import clustering, files, links, mixing, mobility, partition, placement
from topology.build import build
from topology.graph import Topology
from topology.graphs import GRAPHS

__all__ = [
    "GRAPHS",
    "Topology",
    "build",
    "clustering",
    "files",
    "links",
    "mixing",
    "mobility",
    "partition",
    "placement",
]
