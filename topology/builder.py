"""From devices, tasks and candidate links to a `Topology`, by the name of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import IntArray, as_pairs
from topology.clustering import by_tasks
from topology.graph import ANY_TASK, GATEWAY, INTRA, RELAY, Topology
from topology.graphs.base import GraphInput, GraphLinks
from topology.graphs.checks import graph_links
from topology.links import Links, lengths_m, make_links
from topology.registry import ask, check_options
from topology.tables import GRAPHS
from topology.trees import routes

Reach = Literal["respect", "relay", "ignore"]
"""What a graph does with links out of the radio's reach, see `build`."""

GIVEN = ("inputs",)
"""What every graph builder is given; its other parameters are its options."""


def build(
    kind: str,
    *,
    positions_m: ArrayLike,
    mixture: ArrayLike,
    candidate_pairs: ArrayLike,
    airtime_s_per_mb: ArrayLike,
    mean_snr_db: ArrayLike,
    rng: np.random.Generator,
    energy_j_per_mb: ArrayLike | None = None,
    reach: str = "respect",
    options: Mapping[str, object] | None = None,
) -> Topology:
    """Build a topology.

    Args:
        kind: Name of a graph, see `topology.tables.GRAPHS`.
        positions_m: (N, 2) positions, metres.
        mixture: (N, T) task weights, ≥ 0, a positive one in every row.
        candidate_pairs: (E, 2) links the radio can serve, each once, any order.
        airtime_s_per_mb: (E,) seconds on air for 1e6 bytes, > 0.
        mean_snr_db: (E,) large-scale SNR, dB.
        rng: Source of every draw; the same generator state gives the same topology.
        energy_j_per_mb: (E,) joules for 1e6 bytes, or None.
        reach: ``respect``: only candidate links. ``relay``: the graph is laid out freely, and links out of
            reach are carried over candidate links, every hop known from `Topology.path`. ``ignore``: the
            textbook graph; links that are no candidates get NaN for what the radio would know. `clustered`
            always respects reach and relays where needed.
        options: The graph's own options, e.g. ``max_degree``, ``min_gap``, ``gateways_per_pair``
            for `clustered`, ``degree`` for `k_regular`; they may have any name. None for none.

    Returns:
        The topology.

    Raises:
        ValueError: For an unknown graph or option (the known ones are listed) a value out of range, or a graph
            that answers no links.
    """
    builder, own = GRAPHS[kind], dict(options or {})
    check_options(f"graph {kind!r}", builder, GIVEN, own)
    if reach not in get_args(Reach):
        raise ValueError(f"reach must be respect, relay or ignore, got {reach!r}")
    positions = np.array(positions_m, dtype=np.float64)
    weights = np.array(mixture, dtype=np.float64)
    _check_devices(positions, weights)
    weights /= weights.sum(axis=1, keepdims=True)
    links = make_links(
        positions,
        candidate_pairs,
        mean_snr_db=mean_snr_db,
        airtime_s_per_mb=airtime_s_per_mb,
        energy_j_per_mb=energy_j_per_mb,
    )
    free = reach != "respect" and kind != "clustered"
    laid = _laid(kind, builder, GraphInput(positions, weights, links, rng, free), own)
    if reach == "relay" and free:
        laid = _relayed(laid, links)
    return _assemble(kind, positions, weights, links, laid)


def _laid(
    kind: str, builder: Callable[..., GraphLinks], inputs: GraphInput, options: Mapping[str, object]
) -> GraphLinks:
    """Call a builder, which may be a package's own, and check its answer."""
    given = ", ".join(f"{name}={value}" for name, value in options.items()) or "no options"
    answer = ask(f"the graph {kind!r} with {given}", builder, inputs, **options)
    return graph_links(f"the graph {kind!r}", answer, inputs.nodes)


def _check_devices(positions: np.ndarray, mixture: np.ndarray) -> None:
    if (
        positions.ndim != 2
        or positions.shape[1] != 2
        or len(positions) == 0
        or not np.isfinite(positions).all()
    ):
        raise ValueError(
            f"positions_m must be (devices, 2), finite and not empty, got shape {positions.shape}"
        )
    if mixture.ndim != 2 or len(mixture) != len(positions):
        raise ValueError(f"mixture must be ({len(positions)}, tasks), got shape {mixture.shape}")
    if not np.isfinite(mixture).all() or mixture.min(initial=0.0) < 0 or not (mixture.sum(axis=1) > 0).all():
        raise ValueError("mixture must hold finite weights ≥ 0 with a positive one in every row")


def _relayed(laid: GraphLinks, links: Links) -> GraphLinks:
    """Carry the links that are out of reach over candidate links; those with no route are left out."""
    edges, _ = as_pairs(laid.edges, links.nodes)
    direct = links.lookup(edges) >= 0
    paths = routes(links.nodes, links.pairs, links.airtime_s_per_mb, edges[~direct])
    relays = tuple((ANY_TASK, path) for path in paths if path is not None)
    hops = [np.stack([path[:-1], path[1:]], axis=1) for _, path in relays]
    return GraphLinks(edges[direct], np.concatenate([laid.hops, *hops]), relays, laid.cluster)


def _assemble(
    kind: str, positions: np.ndarray, mixture: np.ndarray, links: Links, laid: GraphLinks
) -> Topology:
    nodes = len(positions)
    edges, first = as_pairs(np.concatenate([laid.edges, laid.hops]), nodes)
    row = links.lookup(edges)
    known = row >= 0

    def column(values: np.ndarray) -> np.ndarray:
        result = np.full(len(edges), np.nan)
        result[known] = values[row[known]]
        return result

    cluster = by_tasks(mixture, edges) if laid.cluster is None else laid.cluster
    relayed, task, start, hops = _relay_table(laid.relays)
    return Topology(
        name=kind,
        positions_m=positions,
        mixture=mixture,
        cluster=cluster,
        edges=edges,
        length_m=lengths_m(positions, edges),
        mean_snr_db=column(links.mean_snr_db),
        airtime_s_per_mb=column(links.airtime_s_per_mb),
        energy_j_per_mb=column(links.energy_j_per_mb),
        kind_code=_kinds(mixture, edges, first >= len(laid.edges)),
        relayed=relayed,
        relayed_task=task,
        relay_start=start,
        relay_hops=hops,
    )


def _kinds(mixture: np.ndarray, edges: IntArray, only_hop: np.ndarray) -> IntArray:
    held = mixture > 0
    share = (held[edges[:, 0]] & held[edges[:, 1]]).any(axis=1)
    return np.where(share, INTRA, np.where(only_hop, RELAY, GATEWAY)).astype(np.int64)


def _relay_table(relays: tuple[tuple[int, IntArray], ...]) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    if not relays:
        return np.empty((0, 2), np.int64), np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64)
    paths = [path if path[0] < path[-1] else path[::-1] for _, path in relays]
    ends = np.array([(path[0], path[-1]) for path in paths], np.int64)
    start = np.cumsum([0, *(len(path) for path in paths)]).astype(np.int64)
    return (
        ends,
        np.array([task for task, _ in relays], np.int64),
        start,
        np.concatenate(paths).astype(np.int64),
    )
