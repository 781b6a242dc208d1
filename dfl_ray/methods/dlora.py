"""Traditional decentralised LoRA: every device trains A and B of one adapter and gossips both with all neighbours.

A_i <- sum_j W_ij A_j, B_i <- sum_j W_ij B_j after H local steps. The average of the factors is not the average
of the products: mean(B) mean(A) != mean(B A).

Source: decentralised FedAvg (McMahan et al. 2017; Lian et al. 2017) over LoRA (Hu et al. 2021), the baseline
that arXiv 2602.20492 calls traditional LoRA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.config.methods import DloraConfig
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.message import SHARED_TASK, Kind, Message, MessageError, pack
from dfl_ray.methods.base import Context, Delivery, Device, Expert, Outgoing
from dfl_ray.methods.gossip import exchange_due, finite_values, mix_, note_seen, quantise, sort_by_kind
from dfl_ray.seeds import Stream, generator


class Dlora:
    """See the module's text.

    Args:
        context: The run.
    """

    rules = ("single",)
    rule = "single"

    def __init__(self, context: Context) -> None:
        if not isinstance(context.config, DloraConfig):
            raise TypeError(f"dlora needs its own config section, got {type(context.config).__name__}")
        self.context = context
        self.config = context.config
        self.layout = Layout(context.layers, context.config.rank, ("a", "b"))

    def slots(self, device: int) -> tuple[int, ...]:
        """One adapter for all tasks."""
        return (SHARED_TASK,)

    def start(self, device: int) -> torch.Tensor:
        """A ~ U(-1/sqrt(d), 1/sqrt(d)) (PEFT's Kaiming start), the same on every device; B = 0."""
        flat = torch.zeros(1, self.layout.size)
        for segment, view in zip(self.layout.of("a"), self.layout.views(flat, "a"), strict=True):
            bound = segment.shape[1] ** -0.5
            rng = generator(self.context.seed, Stream.INITIAL_FACTORS, segment.layer)
            view.copy_(torch.from_numpy(rng.uniform(-bound, bound, segment.shape)))
        return flat

    def static_a(self, owners: Sequence[tuple[int, int]]) -> list[torch.Tensor] | None:
        """A is trained."""
        return None

    def begin(self, device: Device, round_index: int) -> None:
        """Nothing to prepare."""

    def keep(self, device: Device, round_index: int) -> torch.Tensor | None:
        """Everything may change."""
        return None

    def outgoing(self, device: Device, round_index: int) -> list[Outgoing]:
        """A and B, dense, the same bytes to all neighbours."""
        neighbours = tuple(sorted(self.context.graph.weights.get(device.index, {})))
        if not neighbours or not exchange_due(self.config, round_index, self.context.rounds):
            return []
        values = device.state.theta[0].cpu().numpy()
        body = quantise(device, "shared", values, self.config.precision, feedback=self.config.error_feedback)
        message = Message(
            Kind.ADAPTER,
            SHARED_TASK,
            device.index,
            round_index,
            self.context.run,
            0,
            self.config.precision,
            body,
        )
        return [Outgoing(Kind.ADAPTER, SHARED_TASK, neighbours, pack(message))]

    def incoming(
        self,
        device: Device,
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Gossip average of A and of B."""
        refused: Counter[str] = Counter()
        messages = sort_by_kind(
            device, received, run=self.context.run, round_index=round_index, refused=refused
        )
        weights = self.context.graph.weights.get(device.index, {})
        arrived: dict[int, np.ndarray] = {}
        for message in messages.get(Kind.ADAPTER, []):
            try:
                if message.sender not in weights or message.task != SHARED_TASK:
                    refused["foreign"] += 1
                    continue
                arrived[message.sender] = finite_values(message.body, message.precision, self.layout.size)
            except MessageError as error:
                refused[error.refusal.value] += 1
            else:
                note_seen(device, message)
        if arrived:
            mix_(device.state.theta[0], arrived, weights)
        return refused

    def expert(self, device: Device, task: int) -> Expert | None:
        """The one adapter answers everything."""
        return Expert(("own", device.index, 0), device.state.theta[0])

    def sketches(self, device: Device) -> tuple[tuple[object, ...], np.ndarray] | None:
        """No router."""
        return None

    def density(self, device: Device) -> float:
        """Dense."""
        return 1.0

    def masks(self, device: Device) -> dict[int, np.ndarray]:
        """No masks."""
        return {}
