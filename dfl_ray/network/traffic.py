"""Bytes that pass between devices in a typical round, as the graph and the method's settings foretell them.

Only their proportions matter: they decide which devices share a machine, never a result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.schema import Config
from dfl_ray.methods.spec import method_spec
from dfl_ray.network.comm_graph import CommGraph, Tree
from dfl_ray.packing.partition import MessageGraph


def message_graph(config: Config, graph: CommGraph) -> MessageGraph:
    """The expected message graph of a run.

    An adapter, dense, weighs 1 for each exchange with a neighbour. An expert, at the density it has when it is sent,
    goes along the tree of its task's author every `method.replicas_every` rounds. What is sent once is left out.

    Args:
        config: The experiment.
        graph: Who exchanges what with whom.
    """
    facts = method_spec(config.method)
    table = graph.task_weights.values() if facts.per_task else [graph.weights]
    rows = [(a, b) for weights in table for a, near in weights.items() for b in near]
    density = _mean_density(config)
    sizes = [density / config.method.exchange_every] * len(rows)
    if facts.per_task:
        hops = [hop for tree in graph.everyone.values() for hop in _hops(tree)]
        every = int(getattr(config.method, "replicas_every", 1))
        rows += hops
        sizes += [density / every] * len(hops)
    ends = np.array(rows, np.int64).reshape(-1, 2)
    return MessageGraph.build(config.devices.count, ends[:, 0], ends[:, 1], np.array(sizes))


def _hops(tree: Tree) -> list[tuple[int, int]]:
    return [(parent, child) for parent, children in tree.children.items() for child in children]


def _mean_density(config: Config) -> float:
    """Density of the masks, averaged over the rounds of the cubic schedule."""
    method: Any = config.method
    if not isinstance(method, SparseOrthogonalConfig):
        return 1.0
    ramp = max(0.0, method.prune_end - method.prune_start)
    falling = method.density + (1.0 - method.density) / 4.0  # mean of k + (1 - k)(1 - x)^3 over x in [0, 1]
    return method.prune_start + ramp * falling + (1.0 - method.prune_start - ramp) * method.density
