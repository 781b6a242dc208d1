"""Traffic laws: which message goes from whom to whom in which round with how many bytes, stated once for each method.

A law knows a device's neighbours, the round and what has been delivered so far; it knows no values. The run asks it
which messages to fill with bytes, the plan which to schedule without training, and the placement of devices on
actors how many bytes pass between which devices. A message whose bytes differ from its law is an error in this
project, except where the law says that its size depends on trained values (`Planned.exact`).

Nothing here imports torch, so that planning 100,000 devices costs neither its memory nor its start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dfl_ray.config.methods import GossipConfig, TrainingConfig
from dfl_ray.config.training import AveragedConfig
from dfl_ray.lora.layout import Factor, Layout
from dfl_ray.methods.aggregation_table import AGGREGATIONS
from dfl_ray.network.comm_graph import CommGraph
from dfl_ray.wire.codec import encoded_size
from dfl_ray.wire.message import HEADER_BYTES, SHARED_TASK, Kind


@dataclass(frozen=True)
class LawContext:
    """What a law knows of the run.

    Attributes:
        config: The `method` section.
        rounds: Number of rounds, 1-based: the last round is `rounds`.
        tasks: Number of tasks T.
        held: Device -> the tasks it holds.
        graph: Who exchanges what with whom.
        layout: Where the trained factors lie in one adapter.
        router_layers: Number of layers the router looks at.
        barrier: Whether all devices wait for each other in every round (`schedule: sync`).
        seed: The run's seed, for laws that draw who sends.
    """

    config: TrainingConfig
    rounds: int
    tasks: int
    held: Mapping[int, tuple[int, ...]]
    graph: CommGraph
    layout: Layout
    router_layers: int = 0
    barrier: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Planned:
    """One message that a device sends: the same bytes to each destination.

    Attributes:
        kind: What it carries.
        task: Task index, or -1 for an adapter shared by all tasks.
        destinations: Receivers.
        payload_bytes: Encoded length with header, in bytes.
        version: The message's version: the round in which its content was made, or 1 for what never changes.
        exact: Whether the length is the same whatever the values are.
        kept: Entries that a mask keeps, or values that a message carries under a mask; 0 where there is none.
        in_force: Round in which an announced mask comes into force; 0 for other kinds.
    """

    kind: Kind
    task: int
    destinations: tuple[int, ...]
    payload_bytes: int
    version: int
    exact: bool = True
    kept: int = 0
    in_force: int = 0


@dataclass
class NoTraffic:
    """The state of a law whose messages depend on the round alone."""


class TrafficLaw(Protocol):
    """What one method sends; all state of a device is in what `start` gives."""

    def start(self, device: int) -> Any:
        """The traffic state of a device before the first round."""
        ...

    def sources(self, device: int) -> tuple[int, ...]:
        """The devices whose rows a device trains on: itself; none for a device that has no model."""
        ...

    def trains(self, device: int, state: Any, round_index: int) -> bool:
        """Whether a device makes local steps in a round, by what it knew when the round before ended."""
        ...

    def busy(self, round_index: int) -> bool:
        """Whether any device may have something new to send in a round; else only what is owed is sent."""
        ...

    def owes(self, device: int, state: Any) -> bool:
        """Whether a device still has to pass something on that was not delivered, or not yet sent."""
        ...

    def begin(self, device: int, state: Any, round_index: int) -> None:
        """The start of a round, before the local steps."""
        ...

    def messages(self, device: int, state: Any, round_index: int) -> list[Planned]:
        """The messages a device sends after its local steps, in the order in which they are numbered."""
        ...

    def delivered(self, device: int, state: Any, message: Planned, reached: Sequence[int]) -> None:
        """The sender learns who of the destinations has got its message."""
        ...

    def received(self, device: int, state: Any, message: Planned) -> None:
        """A receiver has got a message."""
        ...


def exchange_due(config: TrainingConfig, round_index: int, rounds: int) -> bool:
    """Say whether adapters are exchanged in a round: every `exchange_every` rounds, and in the last one.

    Args:
        config: The `method` section.
        round_index: The round, from 1.
        rounds: Rounds of the run.

    Returns:
        Whether an exchange is due.
    """
    return round_index % config.exchange_every == 0 or round_index == rounds


def adapter_bytes(config: TrainingConfig, values: int) -> int:
    """Bytes of an adapter message: header, what the aggregation rule adds, the encoded values, control variates.

    Args:
        config: The `method` section.
        values: Number of values it carries.

    Returns:
        Length in bytes.
    """
    added = AGGREGATIONS[config.aggregation].header_bytes if isinstance(config, GossipConfig) else 0
    twice = isinstance(config, AveragedConfig) and config.control_variates
    return HEADER_BYTES + added + (2 if twice else 1) * encoded_size(values, config.precision)


@dataclass(frozen=True)
class NeighbourLaw:
    """One adapter message to all neighbours on the whole graph, in every round in which an exchange is due.

    Attributes:
        context: The run.
        values: (device, round) -> number of values the device's message carries.
        choose: (neighbours, round) -> those of them that the round's message goes to; all by default.
    """

    context: LawContext
    values: Callable[[int, int], int]
    choose: Callable[[tuple[int, ...], int], tuple[int, ...]] = lambda neighbours, _round: neighbours

    def start(self, device: int) -> NoTraffic:
        """Nothing to remember."""
        return NoTraffic()

    def sources(self, device: int) -> tuple[int, ...]:
        """Its own rows."""
        return (device,)

    def trains(self, device: int, state: NoTraffic, round_index: int) -> bool:
        """In every round."""
        return True

    def busy(self, round_index: int) -> bool:
        """Where an exchange is due."""
        return exchange_due(self.context.config, round_index, self.context.rounds)

    def owes(self, device: int, state: NoTraffic) -> bool:
        """A lost message is not repeated."""
        return False

    def begin(self, device: int, state: NoTraffic, round_index: int) -> None:
        """Nothing."""

    def messages(self, device: int, state: NoTraffic, round_index: int) -> list[Planned]:
        """The one message, where an exchange is due and there is a chosen neighbour."""
        if not self.busy(round_index):
            return []
        neighbours = tuple(sorted(self.context.graph.weights.get(device, {})))
        chosen = self.choose(neighbours, round_index)
        if not chosen:
            return []
        size = adapter_bytes(self.context.config, self.values(device, round_index))
        return [Planned(Kind.ADAPTER, SHARED_TASK, chosen, size, round_index)]

    def delivered(self, device: int, state: NoTraffic, message: Planned, reached: Sequence[int]) -> None:
        """Nothing to remember."""

    def received(self, device: int, state: NoTraffic, message: Planned) -> None:
        """Nothing to remember."""


@dataclass(frozen=True)
class SilentLaw:
    """Nothing is sent: every device for itself, or one learner with everybody's rows.

    Attributes:
        context: The run.
        joint: Whether device 0 trains on all devices' rows and the others have no model.
    """

    context: LawContext
    joint: bool = False

    def start(self, device: int) -> NoTraffic:
        """Nothing to remember."""
        return NoTraffic()

    def sources(self, device: int) -> tuple[int, ...]:
        """Its own rows; with `joint`, everybody's for device 0 and none for the others."""
        if not self.joint:
            return (device,)
        return tuple(sorted(self.context.held)) if device == LEARNER else ()

    def trains(self, device: int, state: NoTraffic, round_index: int) -> bool:
        """In every round."""
        return True

    def busy(self, round_index: int) -> bool:
        """Never."""
        return False

    def owes(self, device: int, state: NoTraffic) -> bool:
        """Nothing."""
        return False

    def begin(self, device: int, state: NoTraffic, round_index: int) -> None:
        """Nothing."""

    def messages(self, device: int, state: NoTraffic, round_index: int) -> list[Planned]:
        """None."""
        return []

    def delivered(self, device: int, state: NoTraffic, message: Planned, reached: Sequence[int]) -> None:
        """Nothing was sent."""

    def received(self, device: int, state: NoTraffic, message: Planned) -> None:
        """Nothing is expected."""


LEARNER = 0
"""The device that learns for all under `centralized`."""


def neighbour_values(times: int) -> Callable[[LawContext], NeighbourLaw]:
    """Give the law of so many vectors of the adapter's size: 2 for gradient tracking, the adapter and its tracker.

    Args:
        times: Vectors in a message.

    Returns:
        What makes the law.
    """
    return lambda context: NeighbourLaw(context, lambda _device, _round: times * context.layout.size)


def whole_adapter(context: LawContext) -> NeighbourLaw:
    """Law of all values of the adapter: traditional LoRA sends A and B, FFA-LoRA B, FLoRA its module."""
    return neighbour_values(1)(context)


def factor_size(layout: Layout, factor: Factor) -> int:
    """Values of one factor over all layers: sum r d for A, sum m r for B."""
    return sum(s.stop - s.start for s in layout.of(factor))


def shared_factor(context: LawContext) -> NeighbourLaw:
    """Law of FedSA-LoRA: A alone."""
    size = factor_size(context.layout, "a")
    return NeighbourLaw(context, lambda _device, _round: size)


def active_factor(config: TrainingConfig, round_index: int) -> Factor:
    """Name RoLoRA's factor whose turn it is: B first, then A, each up to and including one exchange.

    Args:
        config: The `method` section.
        round_index: The round, from 1.

    Returns:
        "b" where floor((round - 1) / `exchange_every`) is even, else "a".
    """
    return "b" if (round_index - 1) // config.exchange_every % 2 == 0 else "a"


def alternating_factor(context: LawContext) -> NeighbourLaw:
    """Law of RoLoRA: the active factor alone."""
    size: dict[Factor, int] = {f: factor_size(context.layout, f) for f in context.layout.trains}
    return NeighbourLaw(context, lambda _device, r: size[active_factor(context.config, r)])


def rank_of(ranks: Sequence[int], device: int) -> int:
    """A device's own rank where ranks are handed to the devices in turn: ranks[device mod len(ranks)]."""
    return ranks[device % len(ranks)]


def ranked_module(context: LawContext) -> NeighbourLaw:
    """Law of FlexLoRA and HetLoRA: A and B inside the device's own rank, r_i sum (d + m) values."""
    width = sum(s.in_features + s.out_features for s in context.layout.layers)
    ranks = context.config.device_ranks
    return NeighbourLaw(context, lambda device, _round: width * rank_of(ranks, device))


def silent(context: LawContext) -> SilentLaw:
    """Law of `local`: every device for itself."""
    return SilentLaw(context)


def joint(context: LawContext) -> SilentLaw:
    """Law of `centralized`: one learner with everybody's rows."""
    return SilentLaw(context, joint=True)
