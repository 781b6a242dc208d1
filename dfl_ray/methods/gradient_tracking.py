"""Gradient tracking on LoRA: devices average their adapters and an estimate of everybody's mean update.

x_i are A and B at an exchange, u_i^k the change that the local steps since the last exchange made to them (H gradient
steps, so minus the learning rate times what they add up to), y_i the estimate of the mean change, y_i^0 = u_i^0:

    y_i^k = v_i^(k-1) + u_i^k - u_i^(k-1),    z_i^k = x_i^k + y_i^k,
    x_i^(k+1) = sum_j W_ij z_j^k,             v_i^k = sum_j W_ij y_j^k,    v^(-1) = u^(-1) = 0.

With W doubly stochastic and nothing lost, mean y^k = mean u^k: the average moves as that of `dlora`. But at a common x
devices stay where the *mean* of their updates is 0, although each one's own is not: their data may differ. `dlora`
stays off that point. The price is twice the bytes. The first exchange is that of `dlora`.

Source: Nedic, Olshevsky and Shi 2017 (arXiv 1607.03218), DIGing, in the adapt-then-combine form; with one plain
gradient step between exchanges it is that. Departures: u_i is the whole change by H steps of AdamW in place of one
gradient, so the fixed point is where the mean of those is 0; the weight of a lost message stays at home, after which
mean y = mean u holds no more. K-GT (arXiv 2301.01313) corrects each local step instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from dfl_ray.methods.aggregations import gossip_mean
from dfl_ray.methods.base import Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.gossip import collect, finite_values
from dfl_ray.methods.shared import SharedAdapter, put_values, values_of
from dfl_ray.wire.codec import encode_values


@dataclass
class TrackingState(MethodState):
    """What a device keeps; all (size,) float32 but `ahead`.

    Attributes:
        start: x_i, what the local steps since the last exchange began with; None before the first round.
        tracked: v_i, the mixed tracker; None before the first exchange.
        last: u_i of the last exchange; None before it.
        ahead: (2 size,) z_i and y_i one after the other, between local steps and mixing; None at other times.
    """

    start: np.ndarray | None = None
    tracked: np.ndarray | None = None
    last: np.ndarray | None = None
    ahead: np.ndarray | None = None


@final
class GradientTracking(SharedAdapter[TrackingState]):
    """Gradient tracking; see the module's text.

    Args:
        context: The run.
    """

    def memory(self, device: int) -> TrackingState:
        """Nothing tracked yet."""
        return TrackingState(self.law.start(device))

    def begin(self, device: Device[TrackingState], round_index: int) -> None:
        """Remember what the local steps begin with, in the first round; later it is what the exchange gave."""
        if device.memory.start is None:
            device.memory.start = values_of(device).copy()

    def outgoing(self, device: Device[TrackingState], round_index: int) -> list[Outgoing]:
        """Encode z_i and y_i, the same bytes to all neighbours.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes; none where no exchange is due.
        """
        out: list[Outgoing] = []
        if self.law.busy(round_index):
            self._ahead(device)
        for planned in self.planned(device, round_index):
            body = encode_values(self._ahead(device), self.context.config.precision)
            out.append(self.message(device, planned, body))
        return out

    def incoming(
        self,
        device: Device[TrackingState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Mix z and y with what arrived; the weight of what did not stays with the device's own.

        Arguments and result are those of `Method.incoming`; nothing changes in rounds without an exchange, nor on a
        device that had no part in the round: its tracker would move it though it has learnt nothing.
        """
        size = 2 * self.layout.size
        arrived, refused = collect(
            device, self.context, round_index, received, lambda m: finite_values(m.body, m.precision, size)
        )
        if not self.law.busy(round_index) or device.memory.ahead is None:
            return refused
        memory, weights = device.memory, self.context.graph.weights.get(device.index, {})
        mixed = gossip_mean(self._ahead(device), arrived, weights).astype(np.float32)
        put_values(device, mixed[: self.layout.size])
        memory.start, memory.tracked = mixed[: self.layout.size].copy(), mixed[self.layout.size :].copy()
        memory.ahead = None
        return refused

    def _ahead(self, device: Device[TrackingState]) -> np.ndarray:
        """z_i and y_i of this exchange, made once; u_i becomes the last one."""
        memory = device.memory
        if memory.ahead is None:
            assert memory.start is not None, "begin has not been called"
            update = values_of(device) - memory.start
            tracked = update.astype(np.float64)
            if memory.tracked is not None and memory.last is not None:
                tracked = tracked + memory.tracked - memory.last
            memory.last = update
            memory.ahead = np.concatenate([memory.start + tracked, tracked]).astype(np.float32)
        return memory.ahead
