"""FLoRA: neighbours' modules are stacked, which sums their products without cross terms, and merged into the base.

After H local steps, device i merges sum_j W_ij s B_j A_j, itself included, into its own frozen weights and starts
a new module: A drawn afresh, B = 0, a fresh optimiser. Stacking is what makes this free of noise:
[w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...] = sum_j w_j B_j A_j, while averaging A and B apart adds the products of
different devices' factors.

Source: Wang et al. 2024, arXiv 2409.05976, section 3 and algorithm 1.
Adapted to gossip: there is no server that would stack everybody's modules, so a device stacks its neighbours' with
its own by W_ij. On a complete graph with equal weights that is the paper's update. On a sparser one a module
reaches direct neighbours only, since what a neighbour has merged is dense and never travels: bases drift apart, a
real weakness of the method without a server, shown as it is. Every device must keep a dense update of the size of
its adapted layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from dfl_ray.methods.base import Delivery, Device, Expert, Factors, MethodState, Outgoing
from dfl_ray.methods.modules import products, receive_modules, send_module, shares
from dfl_ray.methods.shared import SharedAdapter, merged_factors, reset_moments


@dataclass
class FloraState(MethodState):
    """What a device keeps.

    Attributes:
        merged: The update merged into its base: all layers' (m, d), one after the other; None before the first round.
    """

    merged: np.ndarray | None = None


@final
class Flora(SharedAdapter[FloraState]):
    """FLoRA; see the module's text.

    Args:
        context: The run.
    """

    def memory(self, device: int) -> FloraState:
        """An empty merged update at the start."""
        return FloraState(self.law.start(device))

    def begin(self, device: Device[FloraState], round_index: int) -> None:
        """Make room for the merged update, zeros of all layers' m d entries, in the first round."""
        if device.memory.merged is None:
            size = sum(s.out_features * s.in_features for s in self.context.layers)
            device.memory.merged = np.zeros(size, np.float32)

    def frozen(self, devices: Sequence[Device[FloraState]]) -> list[Factors] | None:
        """Give the dense updates that devices have merged into their own base.

        Args:
            devices: The devices of a group.

        Returns:
            One pair a layer of stacks (devices, R, d) and (devices, m, R), R = min(m, d); see
            `shared.merged_factors`.
        """
        pairs = [merged_factors(self.layout, d.memory.merged, self.scale) for d in devices]
        return [
            (torch.stack([p[i][0] for p in pairs]), torch.stack([p[i][1] for p in pairs]))
            for i in range(len(self.context.layers))
        ]

    def expert(self, device: Device[FloraState], task: int) -> Expert | None:
        """The one adapter and the merged update answer everything."""
        frozen = merged_factors(self.layout, device.memory.merged, self.scale)
        return Expert(("own", device.index, 0), device.state.theta[0], frozen)

    def keep(self, device: Device[FloraState], round_index: int) -> torch.Tensor | None:
        """Everything may change."""
        return None

    def outgoing(self, device: Device[FloraState], round_index: int) -> list[Outgoing]:
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
        device: Device[FloraState],
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
            assert device.memory.merged is not None, "begin has not been called"
            total = device.memory.merged.astype(np.float64)
            for weight, values in shares(self, device, arrived):
                flat = np.concatenate([(b @ a).ravel() for b, a in products(self, values)])
                total += weight * self.scale * flat
            device.memory.merged = total.astype(np.float32)
            device.state.theta.copy_(self.fresh(device.index, round_index))
            reset_moments(device)
        return refused
