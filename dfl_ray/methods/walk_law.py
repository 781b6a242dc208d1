"""Traffic law of the random walk: who has the adapter, and to whom it goes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dfl_ray.methods.laws import LawContext, Planned, adapter_bytes, exchange_due
from dfl_ray.seeds import Stream, generator
from dfl_ray.wire.message import SHARED_TASK, Kind

FIRST = 0
"""The device at which the walk begins."""


@dataclass
class WalkTraffic:
    """Whether a device has the adapter.

    Attributes:
        has: Whether it has.
    """

    has: bool = False


def arrival(round_index: int) -> Planned:
    """Describe the adapter's arrival, of which only that it happened counts."""
    return Planned(Kind.ADAPTER, SHARED_TASK, (), 0, round_index)


@dataclass(frozen=True)
class WalkLaw:
    """One message at most in each round in which an exchange is due: the whole adapter, to one neighbour.

    Attributes:
        context: The run.
    """

    context: LawContext

    def start(self, device: int) -> WalkTraffic:
        """Device `FIRST` has the adapter."""
        return WalkTraffic(device == FIRST)

    def sources(self, device: int) -> tuple[int, ...]:
        """Its own rows."""
        return (device,)

    def trains(self, device: int, state: WalkTraffic, round_index: int) -> bool:
        """While it has the adapter."""
        return state.has

    def busy(self, round_index: int) -> bool:
        """Where an exchange is due."""
        return exchange_due(self.context.config, round_index, self.context.rounds)

    def owes(self, device: int, state: WalkTraffic) -> bool:
        """A hand-over that was lost is not repeated: another draw decides."""
        return False

    def begin(self, device: int, state: WalkTraffic, round_index: int) -> None:
        """Nothing."""

    def messages(self, device: int, state: WalkTraffic, round_index: int) -> list[Planned]:
        """The hand-over to the neighbour that is drawn; none where the adapter stays."""
        if not state.has or not self.busy(round_index):
            return []
        to = self.next_device(device, round_index)
        if to == device:
            return []
        size = adapter_bytes(self.context.config, self.context.layout.size)
        return [Planned(Kind.ADAPTER, SHARED_TASK, (to,), size, round_index)]

    def next_device(self, device: int, round_index: int) -> int:
        """Draw who has the adapter after a round: neighbour j with probability W_ij, else the device itself.

        Args:
            device: The device that has it.
            round_index: The round, from 1.

        Returns:
            A device.
        """
        left = float(generator(self.context.seed, Stream.WALK, round_index).random())
        for neighbour, weight in sorted(self.context.graph.weights.get(device, {}).items()):
            left -= weight
            if left < 0:
                return neighbour
        return device

    def delivered(self, device: int, state: WalkTraffic, message: Planned, reached: Sequence[int]) -> None:
        """It is gone once the neighbour has it."""
        if reached:
            state.has = False

    def received(self, device: int, state: WalkTraffic, message: Planned) -> None:
        """It is here."""
        state.has = True
