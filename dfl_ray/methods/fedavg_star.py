"""FedAvg of LoRA with a server at one device: what a server would cost on the same radio.

After `exchange_every` rounds of H local steps every device sends A and B to the hub, which averages them,
x <- mean of its own and of those that arrived; in the round behind it nobody trains and the hub sends x to all, who go
on from it. So the mean is over all devices, as in federated papers (FedIT), and every hop of the hub's tree is charged
both ways. A device whose upload is lost is left out of this mean, one whose download is lost goes on from its own
adapter.

Source: McMahan et al. 2017 (arXiv 1602.05629), algorithm 1, with LoRA as in Zhang et al. 2023 (arXiv 2305.05644,
FedIT). Departures: devices weigh alike, as gossip weighs them, not by their numbers of rows; all take part in every
cycle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import final

from dfl_ray.methods.base import Context, Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.gossip import collect_encoded, mean_of
from dfl_ray.methods.modules import module_reader, send_module
from dfl_ray.methods.shared import SharedAdapter, put_values, values_of
from dfl_ray.methods.star_law import StarLaw


@final
class FedavgStar(SharedAdapter[MethodState]):
    """FedAvg over the hub's tree; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(self.law, StarLaw)
        assert context.config.hub is not None
        self.star, self.hub = self.law, context.config.hub

    def memory(self, device: int) -> MethodState:
        """Nothing but what every method keeps."""
        return MethodState(self.law.start(device))

    def outgoing(self, device: Device[MethodState], round_index: int) -> list[Outgoing]:
        """Encode A and B: for the hub, or from the hub for all.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes.
        """
        return send_module(self, device, round_index)

    def incoming(
        self,
        device: Device[MethodState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average what arrived at the hub, or take what the hub has sent.

        Arguments and result are those of `Method.incoming`; nothing changes where nothing arrived.
        """
        known = self.star.known if device.index == self.hub else (self.hub,)
        read = module_reader(self)
        arrived, refused = collect_encoded(device, self.context, round_index, received, read, known)
        if arrived:
            own = [values_of(device)] if device.index == self.hub else []
            put_values(device, mean_of(chain(own, (arrived[s]() for s in sorted(arrived)))))
        return refused
