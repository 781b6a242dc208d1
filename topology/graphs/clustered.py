"""`clustered`: the method's topology, a cheap connected graph for every task, joined by gateways.

Source: arXiv 2602.20492 (cluster-based topology). The objective Σ(α·airtime + β·energy + γ·collision) and its
constraints are the design's; `topology.overlay` solves them. Departures, with their reasons:

- Devices hold several tasks, so clusters overlap and a device with two tasks already joins two clusters. A
  link between devices without a common task is a *gateway*; the fewest are bought that make the whole hang
  together, in the same optimisation as the task trees, which is never dearer than gateways laid afterwards.
- Which further links widen the spectral gap is decided by gain per cost, not by cost alone (`topology.gap`).
- Where a bound on neighbours would cut a task's holders apart, they stay connected and exceed the bound,
  unless ``strict`` is set: a simulated radio must not stop because devices moved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import (
    BoolArray,
    FloatArray,
    IntArray,
    both_ends,
    capped,
    component_labels,
    degrees,
    spanning_forest,
)
from topology.clustering import by_similarity, by_tasks
from topology.gap import widen_gaps
from topology.graph import ANY_TASK
from topology.graphs.base import GraphInput, GraphLinks
from topology.links import Links, link_cost
from topology.overlay import connect_groups
from topology.registry import Within
from topology.trees import joining_paths


def clustered(
    inputs: GraphInput,
    *,
    max_degree: Annotated[int, Within(ge=1)] = 6,
    min_gap: Annotated[float, Within(ge=0, le=1)] = 0.2,
    gateways_per_pair: Annotated[int, Within(ge=1)] = 1,
    airtime_weight: Annotated[float, Within(ge=0)] = 1.0,
    energy_weight: Annotated[float, Within(ge=0)] = 0.0,
    collision_weight: Annotated[float, Within(ge=0)] = 0.0,
    interference_factor: Annotated[float, Within(gt=0)] = 1.5,
    by: Literal["tasks", "similarity"] = "tasks",
    features: ArrayLike | None = None,
    feature_devices: ArrayLike | None = None,
    features_path: str | None = None,
    clusters: Annotated[int | None, Within(ge=1)] = None,
    strict: bool = False,
) -> GraphLinks:
    """Build the clustered topology.

    Args:
        inputs: Devices, tasks and candidate links.
        max_degree: Most neighbours of a device; exceeded, with a note, where a task's holders would fall apart.
        min_gap: Spectral gap wanted of every task's Metropolis–Hastings matrix; links are added while ports
            are free.
        gateways_per_pair: Links wanted between two neighbouring clusters, device-disjoint if possible.
        airtime_weight: Weight α of airtime in a link's cost.
        energy_weight: Weight β of energy in a link's cost.
        collision_weight: Weight γ of the number of devices that a use of the link silences, in its cost.
        interference_factor: Interference range over link length (protocol model), for the devices silenced.
        by: What the groups are. ``tasks``: the holders of each declared task. ``similarity``: tasks are
            unknown to others, groups are the clusters of what devices share.
        features: (N, F) what devices share (sketch or mask), for ``by="similarity"``; with ``feature_devices``
            (S, F), a row for each local data set, so that groups may overlap.
        feature_devices: (S,) the device of each row of ``features``.
        features_path: For ``similarity``: a ``.npy`` file with the features, (devices, features).
        clusters: For ``similarity``: number of clusters; none = found from the spectrum.
        strict: Refuse the topology if a device ends with more than ``max_degree`` neighbours.

    Returns:
        The plan: links, relay hops, relayed pairs and cluster labels.

    Raises:
        ValueError: If an option is out of range, or under ``strict`` if the bound cannot be kept.
    """
    _check_options(max_degree, min_gap, gateways_per_pair)
    links = inputs.links
    cost = link_cost(
        inputs.positions_m,
        links,
        airtime_weight=airtime_weight,
        energy_weight=energy_weight,
        collision_weight=collision_weight,
        interference_factor=interference_factor,
    )
    shared = features if features_path is None else _read_features(features_path)
    groups, label = _groups(inputs, by, shared, clusters, feature_devices)
    relays = _relays(links, cost, groups)
    hops = _hop_mask(links, relays)
    member = np.column_stack([groups, np.ones(inputs.nodes, np.bool_)])
    chosen = connect_groups(links.pairs, cost, member, max_degree=max_degree, locked=hops)
    extra = [_ends_of(relays, task) for task in range(groups.shape[1])]
    chosen = widen_gaps(links.pairs, cost, groups, chosen, extra, min_gap=min_gap, max_degree=max_degree)
    if label is None:
        label = by_tasks(inputs.mixture if by == "tasks" else _even(groups), links.pairs[chosen])
    chosen = _more_gateways(links, cost, label, chosen, gateways_per_pair, max_degree)
    _check_degree(inputs.nodes, links.pairs[chosen], max_degree, strict)
    only_hop = hops & chosen & ~(groups[links.pairs[:, 0]] & groups[links.pairs[:, 1]]).any(axis=1)
    named = relays if by == "tasks" else _unnamed(relays)
    return GraphLinks(links.pairs[chosen & ~only_hop], links.pairs[only_hop], named, label)


def _check_options(max_degree: int, min_gap: float, gateways_per_pair: int) -> None:
    if max_degree < 1 or not 0 <= min_gap <= 1 or gateways_per_pair < 1:
        raise ValueError(
            "clustered needs max_degree ≥ 1, min_gap in 0..1 and gateways_per_pair ≥ 1, "
            f"got {max_degree}, {min_gap}, {gateways_per_pair}"
        )


def _groups(
    inputs: GraphInput,
    by: str,
    features: ArrayLike | None,
    clusters: int | None,
    owners: ArrayLike | None,
) -> tuple[BoolArray, IntArray | None]:
    if by == "tasks":
        return inputs.mixture > 0, None
    if by != "similarity" or features is None:
        raise ValueError(
            f"clustered: by must be 'tasks', or 'similarity' together with features_path=, got by={by!r} "
            f"{'without' if features is None else 'with'} features"
        )
    label = by_similarity(features, clusters, kind="auto" if owners is None else "features")
    if owners is not None:
        groups = np.zeros((inputs.nodes, int(label.max()) + 1), dtype=np.bool_)
        groups[np.asarray(owners, dtype=np.int64), label] = True
        return groups, None
    if len(label) != inputs.nodes:
        raise ValueError(f"features has {len(label)} rows for {inputs.nodes} devices; give one for each")
    groups = label[:, None] == np.arange(int(label.max()) + 1)[None, :]
    return groups, label


def _even(groups: BoolArray) -> FloatArray:
    """Equal weights on the groups of each device."""
    return groups / np.maximum(groups.sum(axis=1, keepdims=True), 1)


def _read_features(path: str) -> FloatArray:
    if not Path(path).is_file():
        raise ValueError(f"features_path {path} does not exist; give the path of a .npy array")
    return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)


def _relays(links: Links, cost: FloatArray, groups: BoolArray) -> tuple[tuple[int, IntArray], ...]:
    """Paths that join holders of a task who cannot reach one another through holders alone."""
    relays: list[tuple[int, IntArray]] = []
    for task in range(groups.shape[1]):
        held = groups[:, task]
        inside = links.pairs[both_ends(held, links.pairs)]
        part = component_labels(links.nodes, inside)
        holders = np.flatnonzero(held)
        if len(holders) > 1 and (part[holders] != part[holders[0]]).any():
            paths = joining_paths(links.nodes, links.pairs, cost, holders, part)
            relays += [(task, path if path[0] < path[-1] else path[::-1]) for path in paths]
    return tuple(relays)


def _unnamed(relays: tuple[tuple[int, IntArray], ...]) -> tuple[tuple[int, IntArray], ...]:
    """Relays of groups that are no declared tasks: each pair once, for every task that both ends hold."""
    pairs = {(int(path[0]), int(path[-1])): path for _, path in reversed(relays)}
    return tuple((ANY_TASK, path) for _, path in sorted(pairs.items(), key=lambda item: item[0]))


def _hop_mask(links: Links, relays: tuple[tuple[int, IntArray], ...]) -> BoolArray:
    mask = np.zeros(len(links.pairs), np.bool_)
    if relays:
        hops = np.concatenate([np.stack([path[:-1], path[1:]], axis=1) for _, path in relays])
        mask[links.lookup(hops)] = True
    return mask


def _ends_of(relays: tuple[tuple[int, IntArray], ...], task: int) -> IntArray:
    ends = [(int(path[0]), int(path[-1])) for owner, path in relays if owner == task]
    return np.array(ends, np.int64).reshape(-1, 2)


def _more_gateways(
    links: Links, cost: FloatArray, label: IntArray, chosen: BoolArray, wanted: int, max_degree: int
) -> BoolArray:
    """Top up the links between neighbouring clusters, those joined by a spanning tree of the clusters."""
    if wanted == 1:
        return chosen
    result = chosen.copy()
    ends = np.sort(label[links.pairs], axis=1)
    across = np.flatnonzero(ends[:, 0] != ends[:, 1])
    keys = ends[across, 0] * links.nodes + ends[across, 1]
    for key in _tree_of_clusters(links.nodes, keys, cost[across], result[across]):
        rows = across[keys == key]
        have = rows[result[rows]]
        used = np.zeros(links.nodes, np.bool_)
        used[links.pairs[have]] = True
        missing = wanted - len(have)
        for fresh in (True, False):
            rows = rows[~result[rows]]
            if missing <= 0 or len(rows) == 0:
                break
            free = max_degree - degrees(links.nodes, links.pairs[result])
            # First links that share no device with the gateways there are, so that one loss cuts one only.
            free = np.where(used, 0, np.minimum(free, 1)) if fresh else free
            taken = rows[capped(links.pairs[rows], cost[rows], free)]
            taken = taken[np.argsort(cost[taken], kind="stable")][:missing]
            result[taken] = True
            missing -= len(taken)
    return result


def _tree_of_clusters(nodes: int, keys: IntArray, cost: FloatArray, present: BoolArray) -> list[int]:
    """Pairs of clusters (as keys) in a spanning tree; pairs that are linked already come first."""
    if len(keys) == 0:
        return []
    price = np.where(present, cost * 1e-9, cost)
    order = np.argsort(price, kind="stable")
    unique, first = np.unique(keys[order], return_index=True)
    pairs = np.stack([unique // nodes, unique % nodes], axis=1)
    return unique[spanning_forest(nodes, pairs, price[order][first])].tolist()


def _check_degree(nodes: int, edges: IntArray, max_degree: int, strict: bool) -> None:
    degree = degrees(nodes, edges)
    if strict and degree.max(initial=0) > max_degree:
        raise ValueError(
            f"no cheap clustered topology keeps every device at {max_degree} neighbours: device "
            f"{int(degree.argmax())} needs {int(degree.max())}; raise topology.max_degree to that, lower "
            "tasks_per_device, or turn strict off"
        )
