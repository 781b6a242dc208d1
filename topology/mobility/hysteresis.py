"""Links that appear and vanish as devices move, with hysteresis, and when that is reason to build anew."""

from __future__ import annotations

import numpy as np

from topology.arrays import FloatArray, IntArray, as_pairs, component_labels, find_pairs
from topology.graph import Topology


def update_links(
    linked: IntArray,
    pairs: IntArray,
    mean_snr_db: FloatArray,
    *,
    appear_db: float,
    vanish_db: float,
    nodes: int,
) -> IntArray:
    """Decide which links exist now.

    A link that existed stays while its mean SNR is at least ``vanish_db``; a new one needs ``appear_db``. A
    pair not among ``pairs`` (beyond any reach) is gone.

    Args:
        linked: (L, 2) links that existed before; an empty table at the start.
        pairs: (E, 2) pairs measured now.
        mean_snr_db: (E,) their mean SNR, dB.
        appear_db: Threshold for new links, dB, ≥ ``vanish_db``.
        vanish_db: Threshold for existing ones, dB.
        nodes: Number of devices.

    Returns:
        (K,) rows of ``pairs`` that are linked now, ascending, so that further columns can be picked by them.

    Raises:
        ValueError: If the thresholds are in the wrong order.
    """
    if vanish_db > appear_db:
        raise ValueError(
            f"vanish_db must not exceed appear_db, got {vanish_db} > {appear_db}; swap them (dB of mean SNR)"
        )
    before = find_pairs(pairs, as_pairs(linked, nodes)[0], nodes) >= 0
    return np.flatnonzero(mean_snr_db >= np.where(before, vanish_db, appear_db)).astype(np.int64)


def needs_rebuild(
    topology: Topology, built_from: IntArray, linked: IntArray, *, changed_share: float = 0.1
) -> bool:
    """Say whether the links have changed enough to build the topology anew.

    Args:
        topology: The topology in use.
        built_from: (L, 2) links that existed when it was built.
        linked: (K, 2) links that exist now.
        changed_share: Rebuild when links come and gone exceed this share of all links before or after, 0..1.

    Returns:
        True if a physical link in use that the radio could serve when the topology was built is gone, if a new link
        joins two parts that could not reach each other then, or if the share of changed links (Jaccard distance)
        exceeds the threshold.
    """
    nodes = topology.nodes
    now = as_pairs(linked, nodes)[0]
    before = as_pairs(built_from, nodes)[0]
    in_use = topology.edges[find_pairs(topology.edges, before, nodes) >= 0]
    if (find_pairs(in_use, now, nodes) < 0).any():
        return True
    parts = component_labels(nodes, before)
    if (parts[now[:, 0]] != parts[now[:, 1]]).any():
        return True
    both = int((find_pairs(before, now, nodes) >= 0).sum())
    either = len(before) + len(now) - both
    return either > 0 and 1 - both / either > changed_share
