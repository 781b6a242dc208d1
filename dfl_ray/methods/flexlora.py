"""FlexLoRA: the mean of the products, cut back to each device's rank by singular value decomposition.

After H local steps, device i forms P_i = sum_j W_ij B_j A_j, P_i = U S V^T, and goes on with B_i = U_r S_r,
A_i = V_r^T, the best approximation of rank r_i (Eckart-Young), and a fresh optimiser.

Source: Bai et al. 2024, arXiv 2402.11505, equations 2-4; the server's mean becomes a gossip step over neighbours.
DeCAF (Saadati et al. 2025, arXiv 2505.21382) is the same consensus without a server: see `decaf`.
The SVD is taken of the stacked factors (QR of each side, then a small SVD), never of a dense (m, d) matrix.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from dfl_ray.methods.base import Device, MethodState
from dfl_ray.methods.modules import RankedModules, products
from dfl_ray.methods.shared import reset_moments


def truncated_svd(b: np.ndarray, a: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the best factors of rank <= `rank` of the product b a: b a = U S V^T, cut to U_r S_r and V_r^T.

    Q_b R_b = b and Q_a R_a = a^T reduce it to the small decomposition of R_b R_a^T; no (m, d) matrix is formed. It
    equals `numpy.linalg.svd(b @ a)` cut to r, up to signs.

    Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank"; Bai et al. 2024, arXiv
    2402.11505.

    Args:
        b: (m, R).
        a: (R, d).
        rank: r >= 1.

    Returns:
        (m, r) U_r S_r and (r, d) V_r^T with orthonormal rows, r at most the decomposition's own size; the largest
        entry of each row is positive, so that the factors are unique where the singular values differ.
    """
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    u, s, vt = np.linalg.svd(r_b @ r_a.T)
    rank = min(rank, len(s))
    left, right = (q_b @ u[:, :rank]) * s[:rank], vt[:rank] @ q_a.T
    sign = np.sign(right[np.arange(rank), np.abs(right).argmax(axis=1)])
    return left * sign, right * sign[:, None]


@final
class Flexlora(RankedModules):
    """FlexLoRA; see the module's text.

    Args:
        context: The run.
    """

    def combine(self, device: Device[MethodState], weighed: list[tuple[float, np.ndarray]]) -> None:
        """Take the best module of the own rank for the mean product P_i = sum_j W_ij B_j A_j, and a fresh optimiser.

        Arguments are those of `RankedModules.combine`.
        """
        parts = [(w, products(self, values)) for w, values in weighed]
        device.state.theta.zero_()  # a layer narrower than the rank has fewer factors than there is room for
        a, b = self.layout.views(device.state.theta, "a"), self.layout.views(device.state.theta, "b")
        for layer in range(len(self.context.layers)):
            left = np.concatenate([w * p[layer][0] for w, p in parts], axis=1)
            right = np.concatenate([p[layer][1] for _, p in parts])
            new_b, new_a = truncated_svd(left, right, self.rank_of(device.index))
            rank = new_a.shape[0]
            for view, new in ((a[layer][0][:rank], new_a), (b[layer][0][:, :rank], new_b)):
                view.copy_(torch.from_numpy(new))
        reset_moments(device)
