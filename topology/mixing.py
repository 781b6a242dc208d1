"""Mixing matrices for gossip averaging and how fast they mix.

Every matrix here is symmetric and doubly stochastic: averaging with it keeps the mean of all devices, and
repeated averaging drives them to it. `scipy.sparse.csr_array` throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from topology.arrays import (
    FloatArray,
    IntArray,
    adjacency,
    as_pairs,
    component_labels,
    degrees,
    find_pairs,
    linked_parts,
)
from topology.registry import ask
from topology.tables import MIXINGS

DENSE_NODES = 500
DENSE_MODE_NODES = 100
LARGE_MODE_NODES = 5_000
SLOW_GAP, FILTER_DEGREE = 8e-3, 50
MAX_FILL = 400_000_000
ROUNDING = 1e-9
"""By how much weights may miss a sum of 1 or their counterparts."""


def gossip_weights(kind: str, edges: ArrayLike, nodes: int) -> csr_array:
    """Weights of a mixing rule by its name, which may be an installed package's own.

    Args:
        kind: Name of a rule, see `topology.tables.MIXINGS`.
        edges: (E, 2) links.
        nodes: Number of devices N.

    Returns:
        (N, N) weights, symmetric and doubly stochastic to 1e-9, 0 but on the links and the diagonal.

    Raises:
        ValueError: If there is no such rule, it cannot be used on these links, or what it gives is no such matrix.
    """
    what, rule = f"mixing rule {kind!r}", MIXINGS[kind]
    answer = ask(what, rule, edges, nodes)
    try:
        matrix = csr_array(answer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} gave {type(answer).__name__}, no matrix: {error}") from error
    wrong = _no_weights(matrix, as_pairs(edges, nodes)[0], nodes)
    if wrong:
        raise ValueError(
            f"{what} gave a matrix {wrong}; expected ({nodes}, {nodes}) weights >= 0, symmetric, rows summing to 1, "
            "and none between devices without a link"
        )
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


def _no_weights(matrix: csr_array, pairs: IntArray, nodes: int) -> str:
    """What of a matrix makes it no gossip weights on these links; nothing where it is one."""
    if matrix.shape != (nodes, nodes):
        return f"of shape {matrix.shape}"
    if matrix.dtype.kind not in "fiu" or not np.isfinite(matrix.data).all():
        return "with entries that are no finite real numbers"
    if matrix.data.min(initial=0.0) < 0:
        return f"with a weight of {matrix.data.min():g}"
    entries = matrix.tocoo()
    row, column = entries.coords
    beside = (row != column) & (entries.data != 0)
    ends = np.stack([row[beside], column[beside]], axis=1).astype(np.int64)
    stray = np.flatnonzero(find_pairs(ends, pairs, nodes) < 0)
    if stray.size:
        return (
            f"with a weight between devices {ends[stray[0], 0]} and {ends[stray[0], 1]}, which have no link"
        )
    apart = np.abs((matrix - matrix.T).data).max(initial=0.0)
    if apart > ROUNDING:
        return f"in which a weight and its counterpart differ by {apart:g}"
    total = np.asarray(matrix.sum(axis=1)).ravel()
    worst = int(np.abs(total - 1).argmax())
    return f"whose row {worst} sums to {total[worst]:g}" if abs(total[worst] - 1) > ROUNDING else ""


def metropolis_hastings(edges: ArrayLike, nodes: int) -> csr_array:
    """Metropolis–Hastings weights: W_ij = 1/(1 + max(d_i, d_j)), W_ii = 1 − Σ_j W_ij.

    Needs only the neighbours' degrees, so every device can compute its own row.

    Args:
        edges: (E, 2) links.
        nodes: Number of devices N.

    Returns:
        (N, N) weights, doubly stochastic to 1e-12, all entries ≥ 0.

    Raises:
        ValueError: If the edges are not pairs of devices 0..N−1.

    Source: Xiao, Boyd and Lall, "A scheme for robust distributed sensor fusion", IPSN 2005.
    """
    pairs, _ = as_pairs(edges, nodes)
    degree = degrees(nodes, pairs)
    return with_diagonal(adjacency(nodes, pairs, 1.0 / (1.0 + degree[pairs].max(axis=1, initial=0))))


def uniform(edges: ArrayLike, nodes: int) -> csr_array:
    """Maximum-degree weights: the same weight 1/(1 + d_max) on every link, the rest on the diagonal.

    On the complete graph every entry is 1/N.

    Args:
        edges: (E, 2) links.
        nodes: Number of devices N.

    Returns:
        (N, N) weights, doubly stochastic to 1e-12, all entries ≥ 0.

    Raises:
        ValueError: If the edges are not pairs of devices 0..N−1.

    Source: Xiao and Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 53,
        2004, §4 (maximum-degree weights 1/d_max). Departure: 1/(1 + d_max), so that the diagonal is positive.
    """
    pairs, _ = as_pairs(edges, nodes)
    largest = int(degrees(nodes, pairs).max(initial=0))
    return with_diagonal(adjacency(nodes, pairs, np.full(len(pairs), 1.0 / (1.0 + largest))))


def laplacian(edges: ArrayLike, nodes: int) -> csr_array:
    """Best constant weight W = I − ε·L with ε = 2/(λ₂ + λ_N), kept ≤ 1/d_max so that no entry is negative.

    Every connected part has the ε of its own Laplacian L and its own largest degree: devices without links, such as
    those that do not hold a task, leave the others' weights alone.

    Args:
        edges: (E, 2) links.
        nodes: Number of devices N.

    Returns:
        (N, N) weights, doubly stochastic to 1e-12, all entries ≥ 0.

    Raises:
        ValueError: If the edges are not pairs of devices 0..N−1.

    Source: Xiao and Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 53,
        2004, §4.1. Departure: the cap 1/d_max, without which the diagonal may be negative.
    """
    pairs, _ = as_pairs(edges, nodes)
    step = np.zeros(len(pairs))
    for devices, links, ends in linked_parts(nodes, pairs):
        second, last = _laplacian_extremes(ends, devices)
        step[links] = min(2.0 / (second + last), 1.0 / int(degrees(devices, ends).max()))
    return with_diagonal(adjacency(nodes, pairs, step))


def _laplacian_extremes(ends: IntArray, nodes: int) -> tuple[float, float]:
    """λ₂ and λ_N of a connected part's Laplacian."""
    graph = adjacency(nodes, ends)
    matrix = csr_array(diags_array(np.asarray(graph.sum(axis=1)).ravel()) - graph)
    if nodes <= DENSE_NODES:
        values = np.linalg.eigvalsh(matrix.toarray())
        return max(float(values[1]), 0.0), float(values[-1])
    last = float(eigsh(matrix, 1, which="LA", v0=_start(nodes), return_eigenvectors=False)[0])
    lazy = csr_array(eye_array(nodes) - matrix / last)
    return last * (1.0 - _second_largest(lazy, nodes, absolute=False)), last


def with_diagonal(off: csr_array) -> csr_array:
    """Fill the diagonal of a symmetric matrix of weights of links so that every row sums to one.

    Args:
        off: (N, N) weights of links, diagonal 0.

    Returns:
        (N, N) doubly stochastic matrix.
    """
    return csr_array(off + diags_array(1.0 - np.asarray(off.sum(axis=1)).ravel()))


def spectral_gap(weights: csr_array) -> float:
    """Spectral gap 1 − max(|λ₂|, |λ_N|) of a symmetric doubly stochastic matrix.

    One averaging step shrinks the distance to consensus by at least the factor 1 − gap. Dense below 500
    devices; above, Lanczos on W − 11ᵀ/N, and where that converges too slowly (long thin graphs), inverse
    iteration near 1 with a sparse factorisation.

    Args:
        weights: (N, N) symmetric and doubly stochastic.

    Returns:
        A number in [0, 1]; 0 for a partitioned graph, 1 for one device or exact averaging.

    Raises:
        ValueError: If the matrix is not square.

    Source: Xiao and Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 53,
        2004 (for a symmetric W the convergence factor is the spectral radius of W − 11ᵀ/N).
    """
    nodes = weights.shape[0]
    if weights.shape[1] != nodes:
        raise ValueError(f"spectral_gap needs a square matrix, got shape {weights.shape}")
    if nodes == 1:
        return 1.0
    if nodes <= DENSE_NODES:
        values = np.linalg.eigvalsh(weights.toarray() - 1.0 / nodes)
        return float(np.clip(1.0 - np.abs(values).max(), 0.0, 1.0))
    entries = weights.tocoo()
    linked = (entries.coords[0] < entries.coords[1]) & (entries.data != 0)
    pairs = np.stack([entries.coords[0][linked], entries.coords[1][linked]], axis=1).astype(np.int64)
    if component_labels(nodes, pairs).max() > 0:
        return 0.0
    return float(np.clip(1.0 - _second_largest(weights, nodes, absolute=True), 0.0, 1.0))


def slow_mode(weights: csr_array) -> FloatArray:
    """Eigenvector of λ₂, the disagreement that averaging removes last (the Fiedler vector for W = I − ε·L).

    Args:
        weights: (N, N) symmetric, doubly stochastic, of a connected graph.

    Returns:
        (N,) unit vector; its sign is arbitrary but the same every time. Above 5,000 devices it is a mixture of the
        slowest modes, those with 1 − λ below `SLOW_GAP`, which is as good to choose many links at a time by.

    Source: Fiedler, "Algebraic connectivity of graphs", Czechoslovak Math. J. 23, 1973; for large graphs a
        Chebyshev filter as in Zhou, Saad, Tiago and Chelikowsky, J. Comput. Phys. 219, 2006.
    """
    nodes = weights.shape[0]
    if nodes <= DENSE_MODE_NODES:
        return np.linalg.eigh(weights.toarray())[1][:, -2]
    if nodes <= LARGE_MODE_NODES:
        return _top_pair(weights, nodes, tolerance=1e-6)[1]
    return _slow_mixture(weights, nodes)


def _slow_mixture(weights: csr_array, nodes: int) -> FloatArray:
    """T_k of W, scaled so that [−1, 1 − SLOW_GAP] stays within ±1 and what lies above grows, times a fixed vector."""
    centre, half = -SLOW_GAP / 2, 1.0 - SLOW_GAP / 2
    before = _start(nodes)
    before -= before.mean()
    now = (np.asarray(weights @ before) - centre * before) / half
    for _ in range(FILTER_DEGREE - 1):
        before, now = now, 2.0 * (np.asarray(weights @ now) - centre * now) / half - before
    now -= now.mean()
    return now / np.linalg.norm(now)


def _second_largest(weights: csr_array, nodes: int, *, absolute: bool) -> float:
    top = _top_pair(weights, nodes, tolerance=1e-10)[0]
    if not absolute:
        return top
    # λ_N matters only if it lies beyond −λ₂; a loose value tells whether it does.
    low = _lowest(weights, nodes, tolerance=1e-4)
    return top if -low < top - 1e-3 else max(top, -_lowest(weights, nodes, tolerance=1e-10))


def _lowest(weights: csr_array, nodes: int, *, tolerance: float) -> float:
    found = eigsh(weights, 1, which="SA", v0=_start(nodes), ncv=48, tol=tolerance, return_eigenvectors=False)
    return float(found[0])


def _top_pair(weights: csr_array, nodes: int, *, tolerance: float) -> tuple[float, FloatArray]:
    """λ₂ and its vector: Lanczos first, and for slowly mixing graphs inverse iteration next to 1."""
    deflated = _deflated(weights, nodes)
    for patience in (5, 40 * nodes):
        try:
            values, vectors = eigsh(
                deflated, 1, which="LA", v0=_start(nodes), ncv=48, maxiter=patience, tol=tolerance
            )
            return float(values[0]), np.asarray(vectors)[:, 0]
        except ArpackNoConvergence:
            if _fill(weights, nodes) <= MAX_FILL:
                break
    values, vectors = eigsh(weights.tocsc(), 2, sigma=1.0 + 1e-7, v0=_start(nodes))
    second = int(np.argmin(values))
    return float(values[second]), np.asarray(vectors)[:, second]


def _fill(weights: csr_array, nodes: int) -> int:
    """Entries a banded factorisation would hold; an upper bound on what the sparse one takes."""
    order = np.asarray(reverse_cuthill_mckee(weights, symmetric_mode=True))
    place = np.empty(nodes, np.int64)
    place[order] = np.arange(nodes)
    entries = weights.tocoo()
    return nodes * int(np.abs(place[entries.coords[0]] - place[entries.coords[1]]).max(initial=0))


def _deflated(weights: csr_array, nodes: int) -> LinearOperator:
    def apply(vector: FloatArray) -> FloatArray:
        flat = np.asarray(vector).reshape(-1)
        return np.asarray(weights @ flat) - flat.mean()

    return LinearOperator((nodes, nodes), matvec=apply, dtype=np.float64)


def _start(nodes: int) -> FloatArray:
    # A fixed vector without symmetries, so that ARPACK's answer is the same from run to run.
    return np.cos(np.arange(nodes) * 1.234567 + 0.1) + 0.01
