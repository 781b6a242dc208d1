"""TAD-LoRA: one factor is trained for several rounds before the other's turn; both are mixed in every exchange.

With the switching interval T = `method.switch_every`, B is trained in rounds 1 to T, A in T + 1 to 2 T, and so on;
after the local steps A_i <- sum_j W_ij A_j and B_i <- sum_j W_ij B_j. While a factor rests, mixing brings its
differences down by the graph's second eigenvalue each round, so that the cross terms of the product shrink with T; a
longer T, on the other hand, trains each factor against an older other one. T = 1 is `adf_lora`.

Source: Wang et al. 2026, arXiv 2602.00451, whose theorem weighs the two errors against each other. Checked against the
paper's abstract; its rule for choosing T by the graph was not, so T is a setting: larger on sparser graphs.
"""

from __future__ import annotations

from typing import final

import torch

from dfl_ray.config.literature import TadLoraConfig
from dfl_ray.lora.layout import Factor
from dfl_ray.methods.averaged import GossipedAdapter
from dfl_ray.methods.base import Context, Device
from dfl_ray.methods.exchange import ExchangeState


@final
class TadLora(GossipedAdapter):
    """TAD-LoRA; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, TadLoraConfig)
        self.interval = context.config.switch_every

    def active(self, round_index: int) -> Factor:
        """The factor that is trained: "b" where floor((round - 1) / T) is even, else "a"."""
        return "b" if (round_index - 1) // self.interval % 2 == 0 else "a"

    def begin(self, device: Device[ExchangeState], round_index: int) -> None:
        """The exchange's own bookkeeping and the optimiser's."""
        super().begin(device, round_index)
        self.take_turn(device, self.active(round_index))

    def keep(self, device: Device[ExchangeState], round_index: int) -> torch.Tensor | None:
        """Let the entries of the active factor change.

        Args:
            device: Not used.
            round_index: The round, from 1.

        Returns:
            (1, size) bool.
        """
        return self.parts.keep(self.active(round_index))
