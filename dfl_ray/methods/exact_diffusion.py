"""Exact diffusion on LoRA: gossip with a correction that takes away the bias of data that differ, at gossip's bytes.

With psi_i the adapter after the local steps that began at x_i, device i sends and mixes

    phi_i^k = psi_i^k + x_i^(k-1) - psi_i^(k-1)  (correct),    x_i^k = sum_j (I + W)_ij / 2 phi_j^k  (combine),

where x^(k-1) is what these steps began with and psi^(k-1) what the steps of the exchange before ended at; the first
exchange has no correction. At a common x devices stay where the mean of their local changes is 0, as under
`gradient_tracking`, but A and B are all that travels.

Source: Yuan, Ying, Zhao and Sayed 2019, "Exact diffusion for distributed optimization and learning", part I, IEEE
Transactions on Signal Processing 67(3), the steps adapt, correct and combine. Departures: the adaptation is H steps of
AdamW; the weight of a lost message stays at home.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from dfl_ray.methods.base import Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.modules import receive_modules, send_module, shares
from dfl_ray.methods.shared import SharedAdapter, put_values, values_of


@dataclass
class DiffusionState(MethodState):
    """What a device keeps, (size,) float32.

    Attributes:
        start: x_i, what the local steps since the last exchange began with; None before the first round.
        ended: psi_i of the last exchange; None before it.
        corrected: Round in which phi_i took the adapter's place, 0 before the first.
    """

    start: np.ndarray | None = None
    ended: np.ndarray | None = None
    corrected: int = 0


@final
class ExactDiffusion(SharedAdapter[DiffusionState]):
    """Exact diffusion; see the module's text.

    Args:
        context: The run.
    """

    def memory(self, device: int) -> DiffusionState:
        """Nothing to correct by yet."""
        return DiffusionState(self.law.start(device))

    def begin(self, device: Device[DiffusionState], round_index: int) -> None:
        """Remember what the first local steps begin with; later it is what the exchange gave."""
        if device.memory.start is None:
            device.memory.start = values_of(device).copy()

    def outgoing(self, device: Device[DiffusionState], round_index: int) -> list[Outgoing]:
        """Correct, then encode phi_i, the same bytes to all neighbours."""
        if self.law.busy(round_index):
            self._correct(device, round_index)
        return send_module(self, device, round_index)

    def incoming(
        self,
        device: Device[DiffusionState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Combine phi_i, which keeps half of its own weight beside W, with those that arrived.

        Arguments and result are those of `Method.incoming`; nothing changes in rounds without an exchange, nor on a
        device that had no part in the round: its correction would carry it on though it has learnt nothing.
        """
        arrived, refused = receive_modules(self, device, round_index, received)
        if self.law.busy(round_index) and device.memory.corrected == round_index:
            own, *others = shares(self, device, arrived)
            mixed = (1 + own[0]) / 2 * own[1].astype(np.float64) + sum(w / 2 * x for w, x in others)
            device.memory.start = mixed.astype(np.float32)
            put_values(device, device.memory.start)
        return refused

    def _correct(self, device: Device[DiffusionState], round_index: int) -> None:
        """Put phi_i in the adapter's place, once an exchange."""
        memory = device.memory
        if memory.corrected == round_index:
            return
        assert memory.start is not None, "begin has not been called"
        before = memory.ended
        memory.ended, memory.corrected = values_of(device).copy(), round_index
        if before is not None:
            put_values(device, memory.ended + (memory.start - before))
