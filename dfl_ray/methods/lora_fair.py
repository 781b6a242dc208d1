"""LoRA-FAIR: averaged factors, and a correction of B that brings their product nearer to the mean product.

After H local steps, with weights W_ij over neighbours and the device itself, in each layer

    A = sum_j W_ij A_j,    B = sum_j W_ij B_j,    P = sum_j W_ij B_j A_j,
    dB = argmin_X |P - (B + X) A|_F^2 + mu |X|_F^2 = (P - B A) A^T (A A^T + mu I)^(-1),

and the device goes on with A and B + dB. mu = `method.residual_ridge` times the mean eigenvalue of A A^T, so that the
scale of A does not matter. As mu falls to 0, B + dB is the best B for the mean A; as it grows, the method becomes
traditional LoRA's averaging. No more travels than A and B.

Source: Bian et al. 2025, arXiv 2411.14961 (ICCV 2025). Checked against the paper's abstract and summaries of it: a
residual is added to the mean of B on the server so that its product with the mean of A comes near to the mean product,
and clients go on from the averages. Not checked: the form of the distance (a similarity, minimised by steps, as far as
is known) and of the penalty; squared here, so that the minimum is in closed form. The server's step becomes a gossip
step. P is held as its stacked factors, never as a dense (m, d) matrix.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from dfl_ray.config.literature import LoraFairConfig
from dfl_ray.methods.base import Device, MethodState
from dfl_ray.methods.modules import RankedModules, products


def corrected(
    b: np.ndarray, a: np.ndarray, weights: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Average the factors of a layer and correct B; see the module's text.

    Args:
        b: (n, m, r) of the device and its neighbours.
        a: (n, r, d).
        weights: (n,) W_ij, of sum 1.
        ridge: mu over the mean eigenvalue of A A^T, >= 0.

    Returns:
        (m, r) B + dB and (r, d) A. Where A A^T + mu I has no inverse, dB is the least of those that are best.
    """
    mean_b, mean_a = np.einsum("j,jmr->mr", weights, b), np.einsum("j,jrd->rd", weights, a)
    across = np.einsum("j,jmr,jrs->ms", weights, b, a @ mean_a.T) - mean_b @ (mean_a @ mean_a.T)
    gram = mean_a @ mean_a.T
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    return mean_b + across @ np.linalg.pinv(gram, hermitian=True), mean_a


@final
class LoraFair(RankedModules):
    """LoRA-FAIR; see the module's text.

    Args:
        context: The run.
    """

    def combine(self, device: Device[MethodState], weighed: list[tuple[float, np.ndarray]]) -> None:
        """Take, in each layer, the mean A and the corrected mean B.

        Arguments are those of `RankedModules.combine`.
        """
        assert isinstance(self.context.config, LoraFairConfig)
        weights, ridge = np.array([w for w, _ in weighed]), self.context.config.residual_ridge
        parts = [products(self, values) for _, values in weighed]
        views = (self.layout.views(device.state.theta, factor) for factor in ("b", "a"))
        for layer, (view_b, view_a) in enumerate(zip(*views, strict=True)):
            b, a = (np.stack([p[layer][k] for p in parts]) for k in (0, 1))
            for view, new in zip((view_b, view_a), corrected(b, a, weights, ridge), strict=True):
                view[0].copy_(torch.from_numpy(new))
