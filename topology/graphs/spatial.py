"""Graphs from distances and link quality: `geometric`, `k_nearest`, `minimum_spanning_tree`."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from topology.arrays import IntArray, all_pairs, as_pairs, place_at_end, spanning_forest
from topology.graphs.base import GraphInput, GraphLinks
from topology.links import lengths_m
from topology.registry import Within


def geometric(inputs: GraphInput, *, radius_m: Annotated[float | None, Within(gt=0)] = None) -> GraphLinks:
    """Link devices closer than a radius.

    Args:
        inputs: Devices and candidate links.
        radius_m: The radius, metres; none = every candidate link; with free reach the radius
            √(2·area·ln N/(π·N)), at which such a graph is connected with high probability.

    Returns:
        The plan.

    Raises:
        ValueError: If the radius is not positive.

    Source: Penrose, "Random Geometric Graphs", 2003.
    """
    if radius_m is not None and not radius_m > 0:
        raise ValueError(f"geometric: radius_m must be > 0, got {radius_m}")
    if not inputs.free_choice:
        near = (
            np.ones(len(inputs.links.pairs), np.bool_)
            if radius_m is None
            else inputs.links.length_m <= radius_m
        )
        return GraphLinks(inputs.links.pairs[near])
    from scipy.spatial import KDTree

    if radius_m is None:
        area = float(np.prod(np.maximum(np.ptp(inputs.positions_m, axis=0), 1e-9)))
        radius_m = float(np.sqrt(2 * area * np.log(max(inputs.nodes, 2)) / (np.pi * inputs.nodes)))
    near_pairs: Any = KDTree(inputs.positions_m).query_pairs(radius_m, output_type="ndarray")
    return GraphLinks(np.array(near_pairs, np.int64).reshape(-1, 2))


def k_nearest(inputs: GraphInput, *, degree: Annotated[int, Within(ge=1)] = 4) -> GraphLinks:
    """Link each device with its k nearest ones (a link counts if either end asks for it).

    Nearest by mean SNR among the candidates; by distance with free reach.

    Args:
        inputs: Devices and candidate links.
        degree: Links k each device asks for.

    Returns:
        The plan.

    Raises:
        ValueError: If the degree is out of range.
    """
    if degree < 1:
        raise ValueError(f"k_nearest: degree must be ≥ 1, got {degree}")
    if not inputs.free_choice:
        order = np.argsort(-inputs.links.mean_snr_db, kind="stable")
        ranked = inputs.links.pairs[order]
        return GraphLinks(ranked[(place_at_end(ranked) < degree).any(axis=1)])
    count = min(degree, inputs.nodes - 1)
    if count == 0:
        return GraphLinks(np.empty((0, 2), np.int64))
    from scipy.spatial import KDTree

    _, near = KDTree(inputs.positions_m).query(inputs.positions_m, count + 1)
    devices = np.repeat(np.arange(inputs.nodes), count + 1)
    edges = np.stack([devices, np.asarray(near).ravel()], axis=1)
    return GraphLinks(edges[edges[:, 0] != edges[:, 1]].astype(np.int64))


def minimum_spanning_tree(inputs: GraphInput) -> GraphLinks:
    """The tree of least total airtime over the candidates; of least length with free reach.

    With free reach the links come from the Delaunay triangulation, which contains the Euclidean tree; below 50
    devices, or where the triangulation fails, from all pairs. Where the candidates leave the devices
    partitioned, each component gets a tree of its own.

    Args:
        inputs: Devices and candidate links.

    Returns:
        The plan.

    Source: Preparata and Shamos, "Computational Geometry", 1985 (the Delaunay triangulation contains the
        Euclidean minimum spanning tree).
    """
    if not inputs.free_choice:
        links = inputs.links
        return GraphLinks(links.pairs[spanning_forest(inputs.nodes, links.pairs, links.airtime_s_per_mb)])
    pairs = _delaunay(inputs)
    return GraphLinks(pairs[spanning_forest(inputs.nodes, pairs, lengths_m(inputs.positions_m, pairs))])


def _delaunay(inputs: GraphInput) -> IntArray:
    if inputs.nodes < 50:
        return all_pairs(inputs.nodes)
    from scipy.spatial import Delaunay, QhullError

    try:
        # Joggling keeps devices that stand on one spot or line in the triangulation.
        corners = Delaunay(inputs.positions_m, qhull_options="QJ Pp").simplices
    except QhullError:
        return all_pairs(inputs.nodes)
    sides = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])
    return as_pairs(sides, inputs.nodes)[0]
