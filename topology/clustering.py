"""Clusters of devices, by declared tasks or by what they share, and how well two clusterings agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import BoolArray, FloatArray, IntArray, adjacency

MAX_CLUSTERS = 32
DENSE_SIMILARITY = 5_000


def by_tasks(mixture: FloatArray, edges: IntArray | None = None) -> IntArray:
    """Label each device with one of its heaviest tasks.

    Devices that hold several tasks with the same weight have a choice. It is dealt evenly among devices with
    the same tasks and then, if links are given, moved to the task that most of a device's neighbours are
    labelled with, so that few links cross between clusters.

    Args:
        mixture: (N, T) task weights.
        edges: (E, 2) links, or None.

    Returns:
        (N,) int64 task numbers; each device holds the task it is labelled with.

    Raises:
        ValueError: If the mixture is not a table with a positive entry in every row.
    """
    weights = np.asarray(mixture, dtype=np.float64)
    if weights.ndim != 2 or not (weights.max(axis=1, initial=0.0) > 0).all():
        raise ValueError(f"mixture must be (devices, tasks) with a task in every row, got {weights.shape}")
    choice = weights >= weights.max(axis=1, keepdims=True) * (1 - 1e-9)
    _, pattern = np.unique(choice, axis=0, return_inverse=True)
    pattern = pattern.reshape(-1)
    order = np.argsort(pattern, kind="stable")
    place = np.empty(len(order), np.int64)
    starts = np.searchsorted(pattern[order], pattern[order])
    place[order] = np.arange(len(order)) - starts
    wanted = place % choice.sum(axis=1)
    label = np.argmax(np.cumsum(choice, axis=1) > wanted[:, None], axis=1).astype(np.int64)
    return label if edges is None or len(edges) == 0 else _fewer_crossings(label, choice, edges)


def _fewer_crossings(label: IntArray, choice: BoolArray, edges: IntArray) -> IntArray:
    nodes, tasks = choice.shape
    graph = adjacency(nodes, edges)
    best, best_cut = label, _cut(label, edges)
    for sweep in range(12):
        # Half of the devices move at a time: neighbours that swap labels together would never settle.
        votes = np.asarray(graph @ np.eye(tasks)[label]) + 0.5 * np.eye(tasks)[label]
        moved = np.where(choice, votes, -1.0).argmax(axis=1)
        hashed = np.arange(nodes, dtype=np.int64) * 2_654_435_761
        turn: BoolArray = np.right_shift(hashed, sweep % 7) % 2 == sweep % 2
        label = np.where(turn, moved, label).astype(np.int64)
        if (cut := _cut(label, edges)) < best_cut:
            best, best_cut = label, cut
    return best


def _cut(label: IntArray, edges: IntArray) -> int:
    return int((label[edges[:, 0]] != label[edges[:, 1]]).sum())


def by_similarity(matrix: ArrayLike, k: int | None = None, *, kind: str = "auto") -> IntArray:
    """Cluster devices by spectral clustering of what they share, without knowing their tasks.

    From features (a row per device, such as the entries of Ĉ or a mask) the similarity is (1 + cosine)/2 of
    the centred rows, and its spectrum is taken from a thin SVD, so the cost grows linearly with the number of
    devices. From a similarity matrix the normalised affinity is decomposed directly. k-means starts from
    the farthest-first points: no random draw, the same answer every time.

    Args:
        matrix: (N, F) features, or (N, N) symmetric non-negative similarities.
        k: Number of clusters, 1..N; None to take it from the largest relative drop in the spectrum (2..32).
        kind: ``features``, ``similarity``, or ``auto``: a symmetric square non-negative matrix is a
            similarity, anything else features.

    Returns:
        (N,) int64 labels numbered by their first device.

    Raises:
        ValueError: If the matrix is not two-dimensional and finite, or k is out of range.

    Source: Ng, Jordan and Weiss, "On spectral clustering", NIPS 2001; eigengap: von Luxburg, "A tutorial on
        spectral clustering", Stat. Comput. 17, 2007, §8.3.
    """
    table = np.asarray(matrix, dtype=np.float64)
    if table.ndim != 2 or len(table) == 0 or not np.isfinite(table).all():
        raise ValueError(f"by_similarity needs a finite (devices, …) matrix, got shape {table.shape}")
    nodes = len(table)
    if k is not None and not 1 <= k <= nodes:
        raise ValueError(f"k must lie in 1..{nodes} (the number of devices), got {k}")
    if kind not in ("auto", "features", "similarity"):
        raise ValueError(f"kind must be auto, features or similarity, got {kind!r}")
    square = table.shape[0] == table.shape[1] and bool(np.allclose(table, table.T)) and table.min() >= 0
    if kind == "similarity" and not square:
        raise ValueError(
            "similarity must be a symmetric matrix of numbers ≥ 0; for features say kind='features'"
        )
    similar = kind == "similarity" or (kind == "auto" and square)
    values, vectors = _affinity_spectrum(table) if similar else _feature_spectrum(table)
    count = k if k is not None else _eigengap(values)
    if count == 1 or nodes == 1:
        return np.zeros(nodes, np.int64)
    # Imported here: it costs a quarter of a second that most runs need not pay.
    from scipy.cluster.vq import kmeans2

    embedded = vectors[:, :count]
    embedded = embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-12)
    _, raw = kmeans2(embedded, _farthest_first(embedded, count), iter=50, minit="matrix", missing="warn")
    return _by_first(np.asarray(raw))


def _affinity_spectrum(similarity: FloatArray) -> tuple[FloatArray, FloatArray]:
    if len(similarity) > DENSE_SIMILARITY:
        raise ValueError(
            f"a dense similarity of {len(similarity)} devices is too large; pass features instead"
        )
    scale = 1.0 / np.sqrt(np.maximum(similarity.sum(axis=1), 1e-12))
    values, vectors = np.linalg.eigh(similarity * scale[:, None] * scale[None, :])
    return values[::-1], vectors[:, ::-1]


def _feature_spectrum(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    centred = features - features.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12)
    # Rows (unit, 1)/√2 have inner products (1 + cosine)/2, so no N×N matrix is ever formed.
    lifted = np.hstack([unit, np.ones((len(unit), 1))]) / np.sqrt(2.0)
    degree = lifted @ lifted.sum(axis=0)
    scaled = lifted / np.sqrt(np.maximum(degree, 1e-12))[:, None]
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    return singular**2, left


def _eigengap(values: FloatArray) -> int:
    """Number of leading eigenvalues before the largest relative drop; the first is always 1."""
    top = np.maximum(values[1 : min(MAX_CLUSTERS + 1, len(values))], 1e-9)
    if len(top) < 2:
        return len(values)
    return int(np.argmax(top[:-1] / top[1:])) + 2


def _farthest_first(points: FloatArray, count: int) -> FloatArray:
    chosen = [int(np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    for _ in range(count - 1):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return points[chosen]


def _by_first(raw: np.ndarray) -> IntArray:
    _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def adjusted_rand_index(a: ArrayLike, b: ArrayLike) -> float:
    """Agreement of two clusterings, corrected for chance.

    (Σ C(n_ij, 2) − E) / (½·(Σ C(a_i, 2) + Σ C(b_j, 2)) − E) with E = Σ C(a_i, 2)·Σ C(b_j, 2)/C(n, 2).

    Args:
        a: (N,) labels, any values.
        b: (N,) labels, any values.

    Returns:
        1 for the same clustering (up to names), 0 on average for independent ones, may be negative.

    Raises:
        ValueError: If the lengths differ or are 0.

    Source: Hubert and Arabie, "Comparing partitions", J. Classification 2, 1985.
    """
    first, second = np.asarray(a).reshape(-1), np.asarray(b).reshape(-1)
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"need two label lists of the same length ≥ 1, got {len(first)} and {len(second)}")
    _, x = np.unique(first, return_inverse=True)
    _, y = np.unique(second, return_inverse=True)
    table = np.unique(x.astype(np.int64) * (int(y.max()) + 1) + y, return_counts=True)[1]
    both, rows, columns = (_couples(counts) for counts in (table, np.bincount(x), np.bincount(y)))
    every = len(first) * (len(first) - 1) / 2
    expected = rows * columns / every if every else 0.0
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else float((both - expected) / (largest - expected))


def _couples(counts: np.ndarray) -> float:
    sizes = counts.astype(np.float64)
    return float((sizes * (sizes - 1) / 2).sum())
