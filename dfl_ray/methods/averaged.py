"""Averaging of one shared adapter's parts with all neighbours: the frame of dlora, FFA, RoLoRA and FedSA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from dfl_ray.config.training import GossipConfig
from dfl_ray.lora.layout import Factor, Layout
from dfl_ray.methods.base import Context, Delivery, Device, Outgoing
from dfl_ray.methods.exchange import Exchange, ExchangeState, Part
from dfl_ray.methods.gossip import collect
from dfl_ray.methods.laws import Planned
from dfl_ray.methods.shared import SharedAdapter, factor_keep
from dfl_ray.wire.message import SHARED_TASK


class AveragedParts:
    """Sends one part of the adapter to all neighbours and averages it.

    Args:
        context: The run.
        layout: Where the factors lie.
    """

    def __init__(self, context: Context, layout: Layout) -> None:
        assert isinstance(context.config, GossipConfig)
        self.context = context
        self.config = context.config
        self.exchange = Exchange(context, layout.size)
        self.whole = Part("shared", SHARED_TASK, 0)
        self._factors: dict[Factor, Part] = {
            f: Part(f"shared-{f}", SHARED_TASK, 0, factor_keep(layout, f)) for f in layout.trains
        }

    def factor(self, factor: Factor) -> Part:
        """The part that holds all layers' A, or all layers' B."""
        return self._factors[factor]

    def keep(self, factor: Factor) -> torch.Tensor:
        """(1, size) bool of one factor's entries."""
        keep = self._factors[factor].keep
        assert keep is not None
        return torch.from_numpy(keep).unsqueeze(0)

    def begin(self, device: Device[ExchangeState], *parts: Part) -> None:
        """Before the local steps; all parts that are ever exchanged."""
        for part in parts:
            self.exchange.begin(device, part)

    def outgoing(
        self, device: Device[ExchangeState], part: Part, planned: Sequence[Planned]
    ) -> list[Outgoing]:
        """Fill each of the messages that the traffic law asks for with the part's values.

        Args:
            device: The sender.
            part: The part that travels.
            planned: The messages the law asks for.

        Returns:
            One message with bytes for each planned one.
        """
        return [self.exchange.message(device, part, message) for message in planned]

    def incoming(
        self,
        device: Device[ExchangeState],
        part: Part,
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average the part with what arrived, x_i <- sum_j W_ij x_j, by the run's aggregation rule.

        Args:
            device: The receiver.
            part: The part that is averaged, in place.
            round_index: The round, from 1.
            received: Messages that arrived, as bytes.
            sent: What became of the device's own messages.

        Returns:
            Refused messages, counted by reason.
        """
        arrived, refused = collect(
            device,
            self.context,
            round_index,
            received,
            lambda m: self.exchange.read(m, part.keep),
            self.exchange.add,
            around=lambda arrived, m: self.exchange.share_kept(device, part, m, arrived),
        )
        if arrived or self.exchange.pending(device, part):
            self.exchange.mix(device, part, arrived, self.context.graph.weights, sent)
        return refused


class GossipedAdapter(SharedAdapter[ExchangeState]):
    """One adapter a device, of which one part is averaged with all neighbours after the local steps.

    x_i <- sum_j W_ij x_j for the part x that `exchanged` names. The formula is that of gossip; the aggregation rule of
    the run may be another (`methods.aggregations`).

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.parts = AveragedParts(context, self.layout)

    def exchanged(self, round_index: int) -> Part:
        """The part that travels in a round: all that is trained."""
        return self.parts.whole

    def memory(self, device: int) -> ExchangeState:
        """Residuals and push-sum masses of the exchanged parts."""
        return ExchangeState(self.law.start(device))

    def begin(self, device: Device[ExchangeState], round_index: int) -> None:
        """Nothing but the exchange's own bookkeeping."""
        self.parts.begin(device, self.exchanged(round_index))

    def take_turn(self, device: Device[ExchangeState], factor: Factor) -> None:
        """Count the optimiser's steps of each factor apart, where A and B are trained in turn.

        AdamW's corrections 1 - b^t hold for moments that have seen t steps; those of the factor that rests see none.
        Fresh optimisers, which begin at each exchange, have nothing to go on with.

        Args:
            device: The device, before its local steps; its count becomes that of the factor whose turn it is.
            factor: That factor.
        """
        own, turn = device.memory, ("b", "a").index(factor) + 1
        if own.turn not in (0, turn):
            steps = int(device.state.steps[0])
            device.state.steps[0] = 0 if self.context.config.fresh_optimizer else own.resting_steps
            own.resting_steps = steps
        own.turn = turn

    def outgoing(self, device: Device[ExchangeState], round_index: int) -> list[Outgoing]:
        """Encode the exchanged part, dense, the same bytes to all neighbours.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes; none where no exchange is due.
        """
        return self.parts.outgoing(device, self.exchanged(round_index), self.planned(device, round_index))

    def incoming(
        self,
        device: Device[ExchangeState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average the exchanged part with what arrived: x_i <- sum_j W_ij x_j.

        Arguments and result are those of `Method.incoming`.
        """
        return self.parts.incoming(device, self.exchanged(round_index), round_index, received, sent)
