"""Random walk: one adapter walks the graph, and only the device that has it trains.

At each exchange the device i that has the adapter keeps it with probability W_ii or hands it to a neighbour j with
probability W_ij. With Metropolis-Hastings weights the walk is at every device equally often in the long run. One
message a round at most travels, whatever the number of devices. Who gets it is drawn from the seed and the round; a
hand-over that is lost leaves the adapter where it is. It begins at device 0 and stays in that device's part of the
graph; if its device leaves the run for good, so does the adapter. Every device answers with the adapter as it was when
it had it last. An adapter that arrives is trained with a fresh optimiser.

Source: the walk without jumps of Liu, Dwyer and El Rouayheb 2026 (arXiv 2604.12260); Cyffers, Bellet and Upadhyay 2024
(ICML, "Differentially private decentralized learning with random walks"). The chain is that of Metropolis et al. 1953
with a uniform target. Departures: H steps of AdamW a visit; AdamW's moments do not travel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

from dfl_ray.methods.base import Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.modules import receive_modules, send_module
from dfl_ray.methods.shared import SharedAdapter, put_values, reset_moments
from dfl_ray.methods.walk_law import arrival


@final
class RandomWalk(SharedAdapter[MethodState]):
    """One adapter that walks; who has it is the traffic law's (`walk_law`).

    Args:
        context: The run.
    """

    def memory(self, device: int) -> MethodState:
        """Nothing but what every method keeps."""
        return MethodState(self.law.start(device))

    def outgoing(self, device: Device[MethodState], round_index: int) -> list[Outgoing]:
        """Encode the adapter for the neighbour that is drawn.

        Args:
            device: The device.
            round_index: The round, from 1.

        Returns:
            One message with its bytes, or none: the device has no adapter to give, or it is to stay.
        """
        return send_module(self, device, round_index)

    def incoming(
        self,
        device: Device[MethodState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Take the adapter over where it arrived, x <- x_j, with a fresh optimiser; give it up where it was handed on.

        Arguments and result are those of `Method.incoming`.
        """
        for delivery in sent:
            self.law.delivered(device.index, device.memory.traffic, delivery.planned, delivery.reached)
        arrived, refused = receive_modules(self, device, round_index, received)
        for values in arrived.values():
            put_values(device, values)
            reset_moments(device)
            self.law.received(device.index, device.memory.traffic, arrival(round_index))
        return refused
