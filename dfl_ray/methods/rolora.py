"""RoLoRA: B and A take turns; only the active factor is trained, sent and mixed.

B is active from the first round, then A, and so on, each for one exchange: rounds up to and including an exchange
have one active factor, the next ones the other. Where the frozen factor is equal on all devices the average of the
active one is exact; under gossip it is equal only up to the consensus distance.

Source: Chen et al. 2024, arXiv 2409.02346, algorithm 1; the server's mean becomes a gossip step. Each turn starts
a fresh optimiser, as the paper's clients do every round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

import torch

from dfl_ray.lora.layout import Factor
from dfl_ray.methods.averaged import AveragedParts
from dfl_ray.methods.base import Context, Delivery, Device, Outgoing
from dfl_ray.methods.exchange import ExchangeState
from dfl_ray.methods.laws import active_factor
from dfl_ray.methods.shared import SharedAdapter, reset_moments


@final
class Rolora(SharedAdapter[ExchangeState]):
    """RoLoRA; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.parts = AveragedParts(context, self.layout)

    def memory(self, device: int) -> ExchangeState:
        """Residuals and push-sum masses of the exchanged parts."""
        return ExchangeState(self.law.start(device))

    def active(self, round_index: int) -> Factor:
        """The factor whose turn it is."""
        return active_factor(self.context.config, round_index)

    def begin(self, device: Device[ExchangeState], round_index: int) -> None:
        """Start a fresh optimiser in the first round of each turn.

        Args:
            device: The device.
            round_index: The round, from 1.
        """
        self.parts.begin(device, self.parts.factor("a"), self.parts.factor("b"))
        if round_index > 1 and self.active(round_index) != self.active(round_index - 1):
            reset_moments(device)

    def keep(self, device: Device[ExchangeState], round_index: int) -> torch.Tensor | None:
        """Let the entries of the active factor change.

        Args:
            device: Not used.
            round_index: The round, from 1.

        Returns:
            (1, size) bool.
        """
        return self.parts.keep(self.active(round_index))

    def outgoing(self, device: Device[ExchangeState], round_index: int) -> list[Outgoing]:
        """Encode the active factor, dense, the same bytes to all neighbours.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes; none where no exchange is due.
        """
        return self.parts.outgoing(
            device, self.parts.factor(self.active(round_index)), self.planned(device, round_index)
        )

    def incoming(
        self,
        device: Device[ExchangeState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average the active factor F with what arrived: F_i <- sum_j W_ij F_j.

        The formula is that of gossip; the aggregation rule of the run may be another (`methods.aggregations`).

        Arguments and result are those of `Method.incoming`.
        """
        part = self.parts.factor(self.active(round_index))
        return self.parts.incoming(device, part, round_index, received, sent)
