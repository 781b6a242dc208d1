"""FLoRA-NA: the factors nearest to the mean product among the weighted sums of the neighbours' factors.

After H local steps, device i looks, in each layer, for p and q with B_i' = sum_j p_j B_j and A_i' = sum_j q_j A_j that
minimise |sum_j W_ij B_j A_j - B_i' A_i'|_F. Given q it is a least-squares problem in p, and given p one in q: `SWEEPS`
turns of both, from p = q = W, which is where traditional LoRA stays. So its error is never larger than that of
averaging the factors, no more travels than A and B, and where all A agree, or all B, it is 0.

Source: Nguyen et al. 2025, arXiv 2509.26399 (aggregated matrices estimated from the local ones so as to minimise the
divergence from the ideal update). Checked against the paper's abstract; that the estimate is a weighted sum of the
local matrices and how the weights are found was not: alternating least squares here. The server's step becomes a gossip
step.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from dfl_ray.methods.base import Device, MethodState
from dfl_ray.methods.modules import RankedModules, products

SWEEPS = 20
"""Turns of the alternating least squares; the error falls in each."""
CUT = 1e-12
"""Singular values of the small systems below this share of the largest count as 0."""


def nearest_weights(b: np.ndarray, a: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find p and q that bring (sum_j p_j B_j)(sum_j q_j A_j) nearest to sum_j w_j B_j A_j.

    With G_jk = B_j^T B_k and K_jk = A_j A_k^T only (r, r) matrices are formed: for fixed q and A = sum_j q_j A_j,
    M p = h with M_jk = <G_jk, A A^T> and h_j = sum_k w_k <G_jk, A A_k^T>; likewise for q.

    Args:
        b: (n, m, r).
        a: (n, r, d).
        weights: (n,) w.

    Returns:
        p and q, (n,) each.
    """
    g = np.einsum("jmr,kms->jkrs", b, b)
    k = np.einsum("jrd,ksd->jkrs", a, a)
    p, q = weights.copy(), weights.copy()
    for _ in range(SWEEPS):
        own = np.einsum("x,y,xyrs->rs", q, q, k)  # A A^T
        cross = np.einsum("x,xyrs->yrs", q, k)  # A A_y^T
        p = _solve(np.einsum("jkrs,rs->jk", g, own), np.einsum("y,jyrs,yrs->j", weights, g, cross), p)
        own = np.einsum("x,y,xyrs->rs", p, p, g)  # B^T B
        cross = np.einsum("x,xyrs->yrs", p, g)  # B^T B_y
        q = _solve(np.einsum("jkrs,rs->jk", k, own), np.einsum("y,jyrs,yrs->j", weights, k, cross), q)
    return p, q


def _solve(matrix: np.ndarray, right: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The least-squares solution nearest to the weights before, which is kept where the system says nothing."""
    return before + np.linalg.lstsq(matrix, right - matrix @ before, rcond=CUT)[0]


@final
class FloraNa(RankedModules):
    """FLoRA-NA; see the module's text.

    Args:
        context: The run.
    """

    def combine(self, device: Device[MethodState], weighed: list[tuple[float, np.ndarray]]) -> None:
        """Take, in each layer, the weighted sums of the factors that `nearest_weights` finds.

        Arguments are those of `RankedModules.combine`.
        """
        weights = np.array([w for w, _ in weighed])
        parts = [products(self, values) for _, values in weighed]
        views = zip(
            self.layout.views(device.state.theta, "a"),
            self.layout.views(device.state.theta, "b"),
            strict=True,
        )
        for layer, (view_a, view_b) in enumerate(views):
            b = np.stack([p[layer][0] for p in parts])
            a = np.stack([p[layer][1] for p in parts])
            p, q = nearest_weights(b, a, weights)
            view_b[0].copy_(torch.from_numpy(np.einsum("j,jmr->mr", p, b)))
            view_a[0].copy_(torch.from_numpy(np.einsum("j,jrd->rd", q, a)))
