"""Gossip weights that average fastest on a given graph, by Newton's method inside the cone of feasible weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from topology.arrays import FloatArray, IntArray, adjacency, as_pairs, linked_parts
from topology.mixing import metropolis_hastings, with_diagonal

MOST_DEVICES = 200
TOLERANCE, SHARPER, MOST_STEPS = 1e-3, 8.0, 200


def fastest(edges: ArrayLike, nodes: int) -> csr_array:
    """Fastest-mixing weights: of all symmetric W ≥ 0 on these links those with the least spectral radius of W − 11ᵀ/n.

    Found for every connected part by itself, to a thousandth of the spectral gap. Links that the optimum has no use for
    get weight 0, and carry nothing then. Unlike Metropolis–Hastings weights they do not follow from a device's own
    neighbours: who computes them must know the graph.

    Args:
        edges: (E, 2) links.
        nodes: Number of devices N.

    Returns:
        (N, N) weights, doubly stochastic to 1e-12, all entries ≥ 0.

    Raises:
        ValueError: If the edges are not pairs of devices 0..N−1, or a part has more than 200 devices.

    Source: Boyd, Diaconis and Xiao, "Fastest mixing Markov chain on a graph", SIAM Review 46, 2004, a semidefinite
        programme; solved with the barrier of Boyd and Vandenberghe, "Convex Optimization", 2004, §11.
    """
    pairs, _ = as_pairs(edges, nodes)
    weight = np.zeros(len(pairs))
    for devices, links, ends in linked_parts(nodes, pairs):
        if devices > MOST_DEVICES:
            raise ValueError(
                f"fastest weights are found for parts of up to {MOST_DEVICES} devices, got one of {devices}; "
                "choose topology.mixing=metropolis_hastings or laplacian"
            )
        weight[links] = _fastest(ends, devices)
    return with_diagonal(adjacency(nodes, pairs, weight))


def _fastest(ends: IntArray, nodes: int) -> FloatArray:
    """Weights of the links of one connected part, numbered from 0.

    Minimise s over w with −sI ≤ W − 11ᵀ/n ≤ sI, w ≥ 0 and a diagonal ≥ 0: Newton steps on sharpness · s − the
    logarithms of all that must stay positive, the sharpness rising until (number of constraints)/sharpness, by which s
    is above the least one, is a small share of the gap.
    """
    if nodes == 2:
        return np.array([0.5])
    links = len(ends)
    touched = np.zeros((nodes, links))
    touched[ends.T, np.arange(links)] = 1.0
    weight = np.asarray(metropolis_hastings(ends, nodes).toarray())[ends[:, 0], ends[:, 1]]
    point, sharpness = np.r_[weight, 1.1], 10.0
    for _ in range(MOST_STEPS):
        gradient, hessian = _barrier(ends, touched, point, sharpness)
        step = -np.linalg.solve(hessian, gradient)
        decrement = float(-gradient @ step)
        size = 1.0
        while not _feasible(ends, touched, point + size * step):
            size /= 2
        # The damped step needs no search: the barrier is self-concordant.
        point = point + step * (
            size * 0.9 if size < 1 else 1.0 if decrement < 0.1 else 1 / (1 + decrement**0.5)
        )
        if decrement < 1e-2:
            if (links + 3 * nodes) / sharpness < TOLERANCE * max(1.0 - point[-1], TOLERANCE):
                break
            sharpness *= SHARPER
    return np.where(point[:-1] < TOLERANCE * (1.0 - point[-1]), 0.0, point[:-1])


def _squeezed(ends: IntArray, nodes: int, point: FloatArray) -> tuple[FloatArray, FloatArray]:
    """sI − (W − 11ᵀ/n) and sI + (W − 11ᵀ/n); both are positive definite where s bounds the spectral radius."""
    off = np.asarray(with_diagonal(adjacency(nodes, ends, point[:-1])).toarray()) - 1.0 / nodes
    around = point[-1] * np.eye(nodes)
    return around - off, around + off


def _feasible(ends: IntArray, touched: FloatArray, point: FloatArray) -> bool:
    """Whether all that must stay positive is."""
    if point[:-1].min() <= 0 or (touched @ point[:-1]).max() >= 1:
        return False
    try:
        for matrix in _squeezed(ends, len(touched), point):
            np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _barrier(
    ends: IntArray, touched: FloatArray, point: FloatArray, sharpness: float
) -> tuple[FloatArray, FloatArray]:
    """Gradient and Hessian of the barrier in (w, s); with b the difference of a link's ends, dW/dw = −b bᵀ."""
    weight, room = point[:-1], 1.0 - touched @ point[:-1]
    gradient = np.r_[-1.0 / weight + touched.T @ (1.0 / room), sharpness]
    hessian = np.zeros((len(point), len(point)))
    hessian[:-1, :-1] = np.diag(weight**-2.0) + (touched.T * room**-2.0) @ touched
    for sign, matrix in zip((1.0, -1.0), _squeezed(ends, len(touched), point), strict=True):
        inverse = np.linalg.inv(matrix)
        across = inverse[:, ends[:, 0]] - inverse[:, ends[:, 1]]
        products = across[ends[:, 0]] - across[ends[:, 1]]
        mixed = sign * (across**2).sum(axis=0)
        gradient += np.r_[-sign * np.diag(products), -np.trace(inverse)]
        hessian[:-1, :-1] += products**2
        hessian[:-1, -1] += mixed
        hessian[-1, :-1] += mixed
        hessian[-1, -1] += (inverse**2).sum()
    return gradient, hessian
