"""HetLoRA: devices of different ranks, zero padding, a mean weighted by the size of the updates, truncation.

After H local steps, with modules padded by zeros to the largest rank, device i mixes A and B each by
w_j = W_ij |B_j A_j|_F / sum_k W_ik |B_k A_k|_F (Frobenius norms over all layers together) and keeps the first r_i
rows of A and columns of B. With equal norms the weights are W. They depend on the sender, so they do not keep the plain
mean of the modules, as the paper's do not: with W doubly stochastic, sum_i (sum_k W_ik n_k) x_i' = sum_j n_j x_j with
n_j = |B_j A_j|_F, before truncation, and on a complete graph with equal W all get the norm-weighted mean of the paper.

Source: Cho et al. 2024, arXiv 2401.06432, section 4: sparsity-weighted aggregation (equation 5), distribution by
truncation. Adapted to gossip: a device weighs its neighbours and itself instead of all clients. Departure: the
rank self-pruning of section 4.2 is left out; ranks are given by `method.ranks`, all equal by default, so that no device
has fewer parameters than under another method. Ranks that differ at the same number of parameters as rank r with scale
s = alpha / r: `method.rank` = 3r/2, `method.ranks` = [3r/2, r/2], `method.alpha` = 3 alpha / 2.
"""

from __future__ import annotations

from typing import final

import numpy as np

from dfl_ray.methods.base import Device, MethodState
from dfl_ray.methods.modules import RankedModules, products
from dfl_ray.methods.shared import put_values


@final
class Hetlora(RankedModules):
    """HetLoRA; see the module's text.

    Args:
        context: The run.
    """

    def combine(self, device: Device[MethodState], weighed: list[tuple[float, np.ndarray]]) -> None:
        """Average the padded modules and truncate the mean to the own rank.

        x_i <- sum_j w_j x_j with w_j = W_ij |B_j A_j|_F / sum_k W_ik |B_k A_k|_F, for A and B; w = W where all norms
        are 0. Arguments are those of `RankedModules.combine`.
        """
        weights = np.array([w * self.update_norm(values) for w, values in weighed])
        if weights.sum() <= 0:
            weights = np.array([w for w, _ in weighed])
        total = sum(w * values for w, (_, values) in zip(weights / weights.sum(), weighed, strict=True))
        mixed = np.asarray(total, np.float32)
        keep = self.rank_keep(device.index)
        put_values(device, mixed if keep is None else np.where(keep, mixed, 0))

    def update_norm(self, values: np.ndarray) -> float:
        """Compute |B A|_F over all layers together, without the scale s.

        |B A|_F^2 = tr((B^T B)(A A^T)), so that only (r, r) matrices are formed.

        Args:
            values: (size,) one module, padded with zeros.

        Returns:
            The norm, >= 0.
        """
        squares = [float(((b.T @ b) * (a @ a.T)).sum()) for b, a in products(self, values)]
        return float(np.sqrt(max(0.0, sum(squares))))
