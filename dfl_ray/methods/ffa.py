"""FFA-LoRA: A is one common random matrix that nobody trains; B is trained and gossiped.

B_i <- sum_j W_ij B_j after H local steps. With A common the average of the factors is the average of the products,
mean(B) A = mean(B A), and only B travels.

Source: Sun et al. 2024, arXiv 2403.12313, section 4 (FFA-LoRA); the server's mean becomes a gossip step. A has
PEFT's Kaiming start. The paper's privacy noise is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

import torch

from dfl_ray.methods.averaged import AveragedParts
from dfl_ray.methods.base import Context, Delivery, Device, Outgoing
from dfl_ray.methods.exchange import ExchangeState
from dfl_ray.methods.shared import SharedAdapter


@final
class Ffa(SharedAdapter[ExchangeState]):
    """FFA-LoRA; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.parts = AveragedParts(context, self.layout)

    def memory(self, device: int) -> ExchangeState:
        """Residuals and push-sum masses of the exchanged parts."""
        return ExchangeState(self.law.start(device))

    def begin(self, device: Device[ExchangeState], round_index: int) -> None:
        """Nothing but the exchange's own bookkeeping."""
        self.parts.begin(device, self.parts.whole)

    def keep(self, device: Device[ExchangeState], round_index: int) -> torch.Tensor | None:
        """All of B may change; A isn't stored at all."""
        return None

    def outgoing(self, device: Device[ExchangeState], round_index: int) -> list[Outgoing]:
        """Encode B, dense, the same bytes to all neighbours.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes; none where no exchange is due.
        """
        return self.parts.outgoing(device, self.parts.whole, self.planned(device, round_index))

    def incoming(
        self,
        device: Device[ExchangeState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average B with what arrived: B_i <- sum_j W_ij B_j.

        The formula is that of gossip; the aggregation rule of the run may be another (`methods.aggregations`).

        Arguments and result are those of `Method.incoming`.
        """
        return self.parts.incoming(device, self.parts.whole, round_index, received, sent)
