"""FedSA-LoRA: A and B are trained, A is shared, B stays on the device.

A_i <- sum_j W_ij A_j after H local steps; B_i is never sent. The paper finds that A learns what is general and B
what is the client's own.

Source: Guo et al. 2024, arXiv 2410.01463, algorithm 1; the server's mean becomes a gossip step.
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
class Fedsa(SharedAdapter[ExchangeState]):
    """FedSA-LoRA; see the module's text.

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
        self.parts.begin(device, self.parts.factor("a"))

    def keep(self, device: Device[ExchangeState], round_index: int) -> torch.Tensor | None:
        """Everything may change."""
        return None

    def outgoing(self, device: Device[ExchangeState], round_index: int) -> list[Outgoing]:
        """Encode A, dense, the same bytes to all neighbours.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes; none where no exchange is due.
        """
        return self.parts.outgoing(device, self.parts.factor("a"), self.planned(device, round_index))

    def incoming(
        self,
        device: Device[ExchangeState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average A alone with what arrived: A_i <- sum_j W_ij A_j.

        The formula is that of gossip; the aggregation rule of the run may be another (`methods.aggregations`).

        Arguments and result are those of `Method.incoming`.
        """
        return self.parts.incoming(device, self.parts.factor("a"), round_index, received, sent)
