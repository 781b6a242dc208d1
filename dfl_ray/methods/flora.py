"""One-hop FLoRA: neighbours' modules are stacked, which sums products without cross terms, and merged into the base.

After H local steps, device i merges sum_j W_ij s B_j A_j, itself included, into its own frozen weights and starts
a new module: A drawn afresh by each device for itself, B = 0, a fresh optimiser. Stacking is what makes this free of
noise: [w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...] = sum_j w_j B_j A_j, while averaging A and B apart adds the products of
different devices' factors.

Source: Wang et al. 2024, arXiv 2409.05976, section 3 and algorithm 1.
Adapted to gossip: there is no server that would stack everybody's modules, so a device stacks its neighbours' with
its own by W_ij. On a complete graph with equal weights that is the paper's update. On a sparser one a module
reaches direct neighbours only, since what a neighbour has merged is dense and never travels: bases drift apart and
never agree (`consensus_distance` shows it), so that this is one-hop FLoRA and its rank among methods is not FLoRA's.
Every device must keep a dense update of the size of its adapted layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

import torch

from dfl_ray.methods.base import Delivery, Device, Outgoing
from dfl_ray.methods.merged import MergedState, OwnBase, weighed_product
from dfl_ray.methods.modules import products, receive_modules, send_module, shares
from dfl_ray.methods.shared import reset_moments


@final
class Flora(OwnBase):
    """One-hop FLoRA; see the module's text.

    Args:
        context: The run.
    """

    def start(self, device: int) -> torch.Tensor:
        """Draw the first module: A ~ U(-1/sqrt(d), 1/sqrt(d)), another one on each device; B = 0.

        Args:
            device: The device.

        Returns:
            (1, size) float32.
        """
        return self.module(device, 0)

    def module(self, device: int, round_index: int) -> torch.Tensor:
        """Draw the module that a device begins after a round, as `start` does."""
        return self.fresh(device, round_index, device)

    def outgoing(self, device: Device[MergedState], round_index: int) -> list[Outgoing]:
        """Encode the module, the same bytes to all neighbours.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes; none where no exchange is due.
        """
        return send_module(self, device, round_index)

    def incoming(
        self,
        device: Device[MergedState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Merge the stack, M_i <- M_i + s sum_j W_ij B_j A_j, and start a new module.

        The weight of modules that did not arrive counts for the device's own. In rounds without an exchange nothing
        changes.

        Args:
            device: The receiver; its merged update, module and optimiser change.
            round_index: The round, from 1; part of the key of the new A's draw.
            received: Messages that arrived, as bytes.
            sent: Not used.

        Returns:
            Refused messages, counted by reason.
        """
        arrived, refused = receive_modules(self, device, round_index, received)
        if self.law.busy(round_index):
            weighed = [(w, products(self, values)) for w, values in shares(self, device, arrived)]
            layers = range(len(self.context.layers))
            self.merge(
                device, (self.scale * weighed_product([(w, *p[i]) for w, p in weighed]) for i in layers)
            )
            device.state.theta.copy_(self.module(device.index, round_index))
            reset_moments(device)
        return refused
