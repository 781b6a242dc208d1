"""Checks of what a graph builder answers, which may be an installed package's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from topology.answers import numbers
from topology.arrays import as_pairs
from topology.graphs.base import GraphLinks


def graph_links(what: str, answer: object, nodes: int) -> GraphLinks:
    """The links of a graph.

    Args:
        what: Who gave them, in words ("the graph 'star'").
        answer: What was given.
        nodes: Number of devices.

    Returns:
        The answer.

    Raises:
        ValueError: If it is no `GraphLinks`, or holds anything but pairs of devices, ways between devices and one label
            for each device.
    """
    if not isinstance(answer, GraphLinks):
        raise ValueError(f"{what} gave {type(answer).__name__}; expected topology.graphs.GraphLinks")
    _check_pairs(f"{what}, edges", answer.edges, nodes)
    _check_pairs(f"{what}, hops", answer.hops, nodes)
    if answer.cluster is not None and np.shape(answer.cluster) != (nodes,):
        raise ValueError(
            f"{what} gave labels of shape {np.shape(answer.cluster)}; expected ({nodes},) in cluster"
        )
    if answer.relays:
        _check_relays(what, answer, nodes)
    return answer


def _check_pairs(what: str, pairs: ArrayLike, nodes: int) -> None:
    table = numbers(what, pairs)
    if table.size and not (table == np.floor(table)).all():
        raise ValueError(
            f"{what}: expected whole numbers of devices, got {table[table != np.floor(table)][0]}"
        )
    as_pairs(pairs, nodes, what)


def _check_relays(what: str, links: GraphLinks, nodes: int) -> None:
    """Relays are (task, way); a way has two devices or more."""
    try:
        ways = [np.asarray(way, dtype=np.int64) for _, way in links.relays]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} gave relays that are no (task, devices on the way): {error}") from error
    if any(way.ndim != 1 or way.size < 2 for way in ways):
        raise ValueError(f"{what} gave a relay over fewer than two devices")
    devices = np.concatenate(ways)
    if devices.min() < 0 or devices.max() >= nodes:
        raise ValueError(
            f"{what} gave relays over devices {devices.min()} to {devices.max()}; expected 0 to {nodes - 1}"
        )
