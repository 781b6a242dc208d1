"""DeCAF: consensus on the product, and factors again by a truncated singular value decomposition.

After H local steps, device i forms P_i = sum_j W_ij B_j A_j, P_i = U S V^T, and goes on with B_i = U_r S_r^(1/2) and
A_i = S_r^(1/2) V_r^T, the best approximation of rank r (Eckart-Young), with a fresh optimiser, since the factors are
others than before. `flexlora` is the same consensus with B_i = U_r S_r and A_i = V_r^T, and with ranks of one's own.

Source: Saadati et al. 2025, arXiv 2505.21382. Checked against the paper's abstract (truncated SVD of the consensus to
resolve its interference); how it shares S between the factors was not: evenly here, which keeps both of one size.
The SVD is taken of the stacked factors, never of a dense (m, d) matrix.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from dfl_ray.methods.base import Device, MethodState
from dfl_ray.methods.flexlora import truncated_svd
from dfl_ray.methods.modules import RankedModules, products
from dfl_ray.methods.shared import reset_moments


@final
class Decaf(RankedModules):
    """DeCAF; see the module's text.

    Args:
        context: The run.
    """

    def combine(self, device: Device[MethodState], weighed: list[tuple[float, np.ndarray]]) -> None:
        """Take balanced factors of the mean product P_i = sum_j W_ij B_j A_j, and a fresh optimiser.

        Arguments are those of `RankedModules.combine`.
        """
        parts = [(w, products(self, values)) for w, values in weighed]
        device.state.theta.zero_()
        a, b = self.layout.views(device.state.theta, "a"), self.layout.views(device.state.theta, "b")
        for layer in range(len(self.context.layers)):
            left = np.concatenate([w * p[layer][0] for w, p in parts], axis=1)
            right = np.concatenate([p[layer][1] for _, p in parts])
            new_b, new_a = truncated_svd(left, right, self.layout.rank)
            root = np.sqrt(np.linalg.norm(new_b, axis=0))
            rank = len(root)
            b[layer][0][:, :rank] = torch.from_numpy(new_b / np.where(root > 0, root, 1.0))
            a[layer][0][:rank] = torch.from_numpy(new_a * root[:, None])
        reset_moments(device)
