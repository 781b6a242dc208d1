"""HetLoRA: devices of different ranks, zero padding, a mean weighted by the size of the updates, truncation.

After H local steps, with modules padded by zeros to the largest rank, device i mixes A and B each by
w_j = W_ij |B_j A_j|_F / sum_k W_ik |B_k A_k|_F (Frobenius norms over all layers together) and keeps the first r_i
rows of A and columns of B. With equal norms the weights are W.

Source: Cho et al. 2024, arXiv 2401.06432, section 4: sparsity-weighted aggregation (equation 5), distribution by
truncation. Adapted to gossip: a device weighs its neighbours and itself instead of all clients. Departure: the
rank self-pruning of section 4.2 is left out; ranks are given by `method.ranks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from dfl_ray.methods.base import Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.modules import products, receive_modules, send_module, shares
from dfl_ray.methods.shared import SharedAdapter


@final
class Hetlora(SharedAdapter[MethodState]):
    """HetLoRA; see the module's text.

    Args:
        context: The run.
    """

    def memory(self, device: int) -> MethodState:
        """Nothing but what every method keeps."""
        return MethodState(self.law.start(device))

    def begin(self, device: Device[MethodState], round_index: int) -> None:
        """Nothing to prepare."""

    def keep(self, device: Device[MethodState], round_index: int) -> torch.Tensor | None:
        """Let the entries inside the device's rank change.

        Args:
            device: The device.
            round_index: Not used.

        Returns:
            (1, size) bool; None where the rank is the layout's.
        """
        keep = self.rank_keep(device.index)
        return None if keep is None else torch.from_numpy(keep).unsqueeze(0)

    def outgoing(self, device: Device[MethodState], round_index: int) -> list[Outgoing]:
        """Encode the module inside the device's rank, the same bytes to all neighbours.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes; none where no exchange is due.
        """
        return send_module(self, device, round_index)

    def incoming(
        self,
        device: Device[MethodState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average the padded modules and truncate the mean to the own rank.

        x_i <- sum_j w_j x_j with w_j = W_ij |B_j A_j|_F / sum_k W_ik |B_k A_k|_F, for A and B; w = W where all norms
        are 0. The W of modules that did not arrive counts for the device's own. Nothing changes where none arrived.

        Args:
            device: The receiver.
            round_index: The round, from 1.
            received: Messages that arrived, as bytes.
            sent: Not used.

        Returns:
            Refused messages, counted by reason.
        """
        arrived, refused = receive_modules(self, device, round_index, received)
        if arrived:
            parts = shares(self, device, arrived)
            weights = np.array([w * self.update_norm(values) for w, values in parts])
            if weights.sum() <= 0:
                weights = np.array([w for w, _ in parts])
            total = sum(w * values for w, (_, values) in zip(weights / weights.sum(), parts, strict=True))
            mixed = np.asarray(total, np.float32)
            keep = self.rank_keep(device.index)
            device.state.theta[0].copy_(torch.from_numpy(mixed if keep is None else np.where(keep, mixed, 0)))
        return refused

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
