"""Graphs from distances and link quality: `geometric`, `k_nearest`, `minimum_spanning_tree`."""

# scipy-stubs leaves the element type of query_pairs open.
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import Delaunay, KDTree, QhullError

from topology.arrays import IntArray, all_pairs, as_pairs, place_at_end, spanning_forest
from topology.graphs.base import Plan, Scene
from topology.links import lengths_m


def geometric(scene: Scene, *, radius_m: float | None = None) -> Plan:
    """Link devices closer than a radius.

    Args:
        scene: Devices and candidate links.
        radius_m: The radius, metres, > 0. None: every candidate link; with free reach the radius
            √(2·area·ln N/(π·N)), at which such a graph is connected with high probability.

    Returns:
        The plan.

    Raises:
        ValueError: If the radius is not positive.

    Source: Penrose, "Random Geometric Graphs", 2003.
    """
    if radius_m is not None and not radius_m > 0:
        raise ValueError(f"geometric: radius_m must be > 0, got {radius_m}")
    if not scene.free_choice:
        near = (
            np.ones(len(scene.links.pairs), np.bool_)
            if radius_m is None
            else scene.links.length_m <= radius_m
        )
        return Plan(scene.links.pairs[near])
    if radius_m is None:
        area = float(np.prod(np.maximum(np.ptp(scene.positions_m, axis=0), 1e-9)))
        radius_m = float(np.sqrt(2 * area * np.log(max(scene.nodes, 2)) / (np.pi * scene.nodes)))
    near_pairs: Any = KDTree(scene.positions_m).query_pairs(radius_m, output_type="ndarray")
    return Plan(np.array(near_pairs, np.int64).reshape(-1, 2))


def k_nearest(scene: Scene, *, k: int = 4) -> Plan:
    """Link each device with its k nearest ones (a link counts if either end asks for it).

    Nearest by mean SNR among the candidates; by distance with free reach.

    Args:
        scene: Devices and candidate links.
        k: Links each device asks for, ≥ 1.

    Returns:
        The plan.

    Raises:
        ValueError: If k is out of range.
    """
    if k < 1:
        raise ValueError(f"k_nearest: k must be ≥ 1, got {k}")
    if not scene.free_choice:
        order = np.argsort(-scene.links.mean_snr_db, kind="stable")
        ranked = scene.links.pairs[order]
        return Plan(ranked[(place_at_end(ranked) < k).any(axis=1)])
    count = min(k, scene.nodes - 1)
    if count == 0:
        return Plan(np.empty((0, 2), np.int64))
    _, near = KDTree(scene.positions_m).query(scene.positions_m, count + 1)
    devices = np.repeat(np.arange(scene.nodes), count + 1)
    edges = np.stack([devices, np.asarray(near).ravel()], axis=1)
    return Plan(edges[edges[:, 0] != edges[:, 1]].astype(np.int64))


def minimum_spanning_tree(scene: Scene) -> Plan:
    """The tree of least total airtime over the candidates; of least length with free reach.

    With free reach the links come from the Delaunay triangulation, which contains the Euclidean tree.
    """
    if not scene.free_choice:
        links = scene.links
        return Plan(links.pairs[spanning_forest(scene.nodes, links.pairs, links.airtime_s_per_mb)])
    pairs = _delaunay(scene)
    return Plan(pairs[spanning_forest(scene.nodes, pairs, lengths_m(scene.positions_m, pairs))])


def _delaunay(scene: Scene) -> IntArray:
    if scene.nodes < 50:
        return all_pairs(scene.nodes)
    try:
        # Joggling keeps devices that stand on one spot or line in the triangulation.
        corners = Delaunay(scene.positions_m, qhull_options="QJ Pp").simplices
    except QhullError:
        return all_pairs(scene.nodes)
    sides = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])
    return as_pairs(sides, scene.nodes)[0]
