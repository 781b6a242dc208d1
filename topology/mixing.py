"""Mixing matrices for gossip averaging and how fast they mix.

Every matrix here is symmetric and doubly stochastic: averaging with it keeps the mean of all devices, and
repeated averaging drives them to it. `scipy.sparse.csr_array` throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from topology.arrays import FloatArray, IntArray, adjacency, as_pairs, component_labels, degrees

DENSE_NODES = 500


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
    return _with_diagonal(adjacency(nodes, pairs, 1.0 / (1.0 + degree[pairs].max(axis=1, initial=0))))


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
    """
    pairs, _ = as_pairs(edges, nodes)
    largest = int(degrees(nodes, pairs).max(initial=0))
    return _with_diagonal(adjacency(nodes, pairs, np.full(len(pairs), 1.0 / (1.0 + largest))))


def laplacian(edges: ArrayLike, nodes: int) -> csr_array:
    """Best constant weight W = I − ε·L with ε = 2/(λ₂ + λ_N), kept ≤ 1/d_max so that no entry is negative.

    Args:
        edges: (E, 2) links.
        nodes: Number of devices N.

    Returns:
        (N, N) weights, doubly stochastic to 1e-12, all entries ≥ 0.

    Raises:
        ValueError: If the edges are not pairs of devices 0..N−1.

    Source: Xiao and Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 53,
        2004, §4.1. Departure: the cap 1/d_max, without which the diagonal may be negative. For a partitioned
        graph λ₂ = 0 and each part is mixed with the same ε.
    """
    pairs, _ = as_pairs(edges, nodes)
    largest = int(degrees(nodes, pairs).max(initial=0))
    if largest == 0:
        return csr_array(eye_array(nodes))
    graph = adjacency(nodes, pairs)
    second, last = _laplacian_extremes(graph, nodes, pairs)
    step = min(2.0 / (second + last), 1.0 / largest)
    return _with_diagonal(csr_array(graph * step))


def _laplacian_extremes(graph: csr_array, nodes: int, pairs: IntArray) -> tuple[float, float]:
    matrix = csr_array(diags_array(np.asarray(graph.sum(axis=1)).ravel()) - graph)
    if nodes <= DENSE_NODES:
        values = np.linalg.eigvalsh(matrix.toarray())
        return max(float(values[1]), 0.0), float(values[-1])
    last = float(eigsh(matrix, 1, which="LA", v0=_start(nodes), return_eigenvectors=False)[0])
    if component_labels(nodes, pairs).max() > 0:
        return 0.0, last
    lazy = csr_array(eye_array(nodes) - matrix / last)
    return last * (1.0 - _second_largest(lazy, nodes, absolute=False)), last


def _with_diagonal(off: csr_array) -> csr_array:
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
        (N,) unit vector; its sign is arbitrary but the same from call to call.
    """
    nodes = weights.shape[0]
    if nodes <= DENSE_NODES:
        return np.linalg.eigh(weights.toarray())[1][:, -2]
    try:
        _, vectors = eigsh(
            _deflated(weights, nodes), 1, which="LA", v0=_start(nodes), ncv=48, maxiter=30, tol=1e-3
        )
        return np.asarray(vectors)[:, 0]
    except ArpackNoConvergence:
        values, vectors = eigsh(weights.tocsc(), 2, sigma=1.0 + 1e-7, v0=_start(nodes))
        return np.asarray(vectors)[:, int(np.argmin(values))]


def _second_largest(weights: csr_array, nodes: int, *, absolute: bool) -> float:
    which = "LM" if absolute else "LA"
    deflated = _deflated(weights, nodes)
    try:
        value = eigsh(
            deflated,
            1,
            which=which,
            v0=_start(nodes),
            ncv=48,
            maxiter=30,
            tol=1e-10,
            return_eigenvectors=False,
        )
        return float(np.abs(value[0])) if absolute else float(value[0])
    except ArpackNoConvergence:
        near_one = eigsh(weights.tocsc(), 2, sigma=1.0 + 1e-7, v0=_start(nodes), return_eigenvectors=False)
        top = float(np.min(near_one))
        if not absolute:
            return top
        low = eigsh(weights, 1, which="SA", v0=_start(nodes), tol=1e-6, return_eigenvectors=False)
        return max(top, -float(low[0]))


def _deflated(weights: csr_array, nodes: int) -> LinearOperator:
    def apply(vector: FloatArray) -> FloatArray:
        flat = np.asarray(vector).reshape(-1)
        return np.asarray(weights @ flat) - flat.mean()

    return LinearOperator((nodes, nodes), matvec=apply, dtype=np.float64)


def _start(nodes: int) -> FloatArray:
    # A fixed vector without symmetries, so that ARPACK's answer is the same from run to run.
    return np.cos(np.arange(nodes) * 1.234567 + 0.1) + 0.01
