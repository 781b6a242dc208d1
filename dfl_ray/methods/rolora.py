"""RoLoRA: B and A take turns; only the active factor is trained, sent and mixed.

B is active from the first round, then A, and so on, each for one exchange: rounds up to and including an exchange
have one active factor, the next ones the other. Where the frozen factor is equal on all devices the average of the
active one is exact; under gossip it is equal only up to the consensus distance.

Source: Chen et al. 2024, arXiv 2409.02346, algorithm 1; the server's mean becomes a gossip step. The
paper's clients start a fresh optimiser every round: `method.fresh_optimizer`, which is for all methods alike; otherwise
the moments of a factor rest while the other one is active.
"""

from __future__ import annotations

from typing import final

import torch

from dfl_ray.lora.layout import Factor
from dfl_ray.methods.averaged import GossipedAdapter
from dfl_ray.methods.base import Device
from dfl_ray.methods.exchange import ExchangeState, Part
from dfl_ray.methods.laws import active_factor


@final
class Rolora(GossipedAdapter):
    """RoLoRA; see the module's text.

    Args:
        context: The run.
    """

    def active(self, round_index: int) -> Factor:
        """The factor whose turn it is."""
        return active_factor(self.context.config, round_index)

    def exchanged(self, round_index: int) -> Part:
        """The active factor of all layers."""
        return self.parts.factor(self.active(round_index))

    def begin(self, device: Device[ExchangeState], round_index: int) -> None:
        """The exchange's own bookkeeping, of both factors, and the optimiser's."""
        self.take_turn(device, self.active(round_index))
        self.parts.begin(device, self.parts.factor("a"), self.parts.factor("b"))

    def keep(self, device: Device[ExchangeState], round_index: int) -> torch.Tensor | None:
        """Let the entries of the active factor change.

        Args:
            device: Not used.
            round_index: The round, from 1.

        Returns:
            (1, size) bool.
        """
        return self.parts.keep(self.active(round_index))
