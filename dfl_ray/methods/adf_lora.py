"""ADF-LoRA: one factor is trained a round, the same on all devices; both are mixed.

B is trained until an exchange, then A, and so on; after the local steps A_i <- sum_j W_ij A_j and B_i <- sum_j W_ij
B_j. RoLoRA sends the active factor alone: without a server the frozen one then stays as different as it was, and its
differences multiply the active one's. Mixing both keeps it in agreement, for twice RoLoRA's bytes.

Source: Wang et al. 2025, arXiv 2511.18291 ("synchronizes the update of only one low-rank matrix per round and mixes
both"). Checked against the paper's abstract; which factor it trains first was not: B here, since A has no gradient
while B = 0.
"""

from __future__ import annotations

from typing import final

import torch

from dfl_ray.methods.averaged import GossipedAdapter
from dfl_ray.methods.base import Device
from dfl_ray.methods.exchange import ExchangeState
from dfl_ray.methods.laws import active_factor


@final
class AdfLora(GossipedAdapter):
    """ADF-LoRA; see the module's text.

    Args:
        context: The run.
    """

    def begin(self, device: Device[ExchangeState], round_index: int) -> None:
        """The exchange's own bookkeeping and the optimiser's."""
        super().begin(device, round_index)
        self.take_turn(device, active_factor(self.context.config, round_index))

    def keep(self, device: Device[ExchangeState], round_index: int) -> torch.Tensor | None:
        """Let the entries of the active factor change.

        Args:
            device: Not used.
            round_index: The round, from 1.

        Returns:
            (1, size) bool.
        """
        return self.parts.keep(active_factor(self.context.config, round_index))
