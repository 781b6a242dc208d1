"""Traffic law of CHOCO: differences to public copies, and whole copies for neighbours that missed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dfl_ray.config.baselines import ChocoConfig
from dfl_ray.methods.kept import kept_of_each
from dfl_ray.methods.laws import LawContext, Planned, exchange_due
from dfl_ray.wire.codec import encoded_size, mask_size
from dfl_ray.wire.message import HEADER_BYTES, SHARED_TASK, Kind


@dataclass
class ChocoTraffic:
    """What a sender remembers of its public copy.

    Attributes:
        version: Round of its last message, 0 before the first.
        has: Neighbour -> version of the public copy the neighbour has acknowledged.
    """

    version: int = 0
    has: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ChocoLaw:
    """CHOCO: a compressed difference to neighbours that have the last public copy, the whole copy to the others.

    Attributes:
        context: The run.
    """

    context: LawContext

    @property
    def kept(self) -> int:
        """Entries a difference carries: the largest share of each factor of each layer."""
        assert isinstance(self.context.config, ChocoConfig)
        return kept_of_each(self.context.config.keep_share, self.context.layout)

    def start(self, device: int) -> ChocoTraffic:
        """Nothing sent yet."""
        return ChocoTraffic()

    def sources(self, device: int) -> tuple[int, ...]:
        """Its own rows."""
        return (device,)

    def trains(self, device: int, state: ChocoTraffic, round_index: int) -> bool:
        """In every round."""
        return True

    def busy(self, round_index: int) -> bool:
        """Where an exchange is due."""
        return exchange_due(self.context.config, round_index, self.context.rounds)

    def owes(self, device: int, state: ChocoTraffic) -> bool:
        """What was lost is made up for at the next exchange."""
        return False

    def begin(self, device: int, state: ChocoTraffic, round_index: int) -> None:
        """Nothing."""

    def messages(self, device: int, state: ChocoTraffic, round_index: int) -> list[Planned]:
        """List the difference first (`kept` > 0), then the whole copy (`kept` = 0), each where a neighbour needs it.

        Args:
            device: The sender.
            state: Its traffic state; its version becomes this round.
            round_index: The round, from 1.

        Returns:
            At most two messages; none without a neighbour or where no exchange is due.
        """
        neighbours = tuple(sorted(self.context.graph.weights.get(device, {})))
        if not neighbours or not self.busy(round_index):
            return []
        last, state.version = state.version, round_index
        abreast = tuple(n for n in neighbours if state.has.get(n, 0) == last)
        behind = tuple(n for n in neighbours if n not in abreast)
        size, kept = self.context.layout.size, self.kept
        carried = 1 + 4 + 4 + mask_size(kept, size) + encoded_size(kept, self.context.config.precision)
        dense = 1 + encoded_size(size, "float32")
        exact = 2 * kept >= -(-size // 8) or size < 2**16
        both = ((abreast, carried, exact, kept), (behind, dense, True, 0))
        return [
            Planned(Kind.ADAPTER, SHARED_TASK, to, HEADER_BYTES + length, round_index, sure, count)
            for to, length, sure, count in both
            if to
        ]

    def delivered(self, device: int, state: ChocoTraffic, message: Planned, reached: Sequence[int]) -> None:
        """Those reached have the newest public copy."""
        for neighbour in reached:
            state.has[neighbour] = message.version

    def received(self, device: int, state: ChocoTraffic, message: Planned) -> None:
        """Only the sender keeps count."""
