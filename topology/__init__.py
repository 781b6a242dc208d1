"""Who talks to whom: placement, partition of tasks, graphs, clusters, mixing, mobility.

Needs NumPy, SciPy, networkx and numba only; knows nothing of the radio's models, of learning or of Ray. The modules are
imported when they are first asked for: SciPy takes longer to import than reading a configuration may take.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topology import clustering, files, links, mixing, mobility, partition, placement
    from topology.builder import build
    from topology.graph import Topology
    from topology.tables import GRAPHS

_OBJECTS = {"GRAPHS": "topology.tables", "Topology": "topology.graph", "build": "topology.builder"}
_MODULES = ("clustering", "files", "links", "mixing", "mobility", "partition", "placement")

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


def __getattr__(name: str) -> Any:
    """Import what is asked for by name."""
    if name in _OBJECTS:
        return getattr(import_module(_OBJECTS[name]), name)
    if name in _MODULES:
        return import_module(f"topology.{name}")
    raise AttributeError(f"module 'topology' has no attribute {name!r}")
