"""LoRA-SB's start of a core between two bases: the best rank-r approximation of the first step of full fine-tuning.

With G the gradient of the frozen weight W0 (m, d) over some rows and eta the first learning rate,

    dW = -eta sign(G) = U S V^T,    B = U_r,    A = V_r^T,    C = S_r / s,

so that s B C A is the nearest to dW of all matrices of rank r (Eckart-Young), and both bases are orthonormal. sign(G)
is AdamW's first step, whatever its moments' decay.

Source: Ponkshe et al. 2024, arXiv 2411.19557 (LoRA-SB), and Singhal et al. 2025, arXiv 2502.15436 (Fed-SB); eta, the
sum of the gradients, its sign and the three factors were checked against a public copy of the authors' code. Departure:
an exact decomposition, where the code takes a randomised one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dfl_ray.lora.projection import single_threaded


@dataclass(frozen=True)
class FirstUpdate:
    """Bases and cores of all layers, float32.

    Attributes:
        downs: One A (r, d) a layer, orthonormal rows.
        ups: One B^T (r, m) a layer, orthonormal rows.
        cores: The diagonal of C of each layer, (r,), falling and not negative.
    """

    downs: tuple[np.ndarray, ...]
    ups: tuple[np.ndarray, ...]
    cores: tuple[np.ndarray, ...]


def first_update(
    gradients: Sequence[np.ndarray], *, rank: int, learning_rate: float, scale: float
) -> FirstUpdate:
    """Decompose the first full update of every layer; see the module's text.

    The singular vectors come from a decomposition in float64 on one thread, and the largest entry of each column of U
    is positive, so that one machine always finds the same.

    Args:
        gradients: G of each layer, (m, d); finite.
        rank: r, at most min(m, d) of every layer.
        learning_rate: eta, > 0.
        scale: s, > 0.

    Returns:
        The factors. Where G is 0, or of a rank below r, the bases are filled up and the cores are 0 there.
    """
    downs: list[np.ndarray] = []
    ups: list[np.ndarray] = []
    cores: list[np.ndarray] = []
    for gradient in gradients:
        with single_threaded():
            u, s, v = np.linalg.svd(
                -learning_rate * np.sign(gradient.astype(np.float64)), full_matrices=False
            )
        u, s, v = u[:, :rank], s[:rank], v[:rank]
        turn = np.where(u[np.abs(u).argmax(axis=0), np.arange(rank)] < 0, -1.0, 1.0)
        ups.append((u * turn).T.astype(np.float32))
        downs.append((v * turn[:, None]).astype(np.float32))
        cores.append((s / scale).astype(np.float32))
    return FirstUpdate(tuple(downs), tuple(ups), tuple(cores))
