"""Traffic law of the methods with a server: all devices to one and back, over the hub's tree, hop by hop.

A cycle takes `exchange_every` rounds of training and one more. At the end of the last round of training every device
sends to the hub; in the round behind it nobody trains, and the hub sends to all. So devices wait for the server, and
what the way back costs in time is on the clock. Both ways follow the hub's tree (`CommGraph.star`); each relay
forwards, and is charged for, every upload that passes through it, and each link of the tree carries the download once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from dfl_ray.config.literature import SparseStarConfig
from dfl_ray.config.training import TrainingConfig
from dfl_ray.lora.layout import Factor
from dfl_ray.lora.masks import kept_entries
from dfl_ray.methods.due import rests
from dfl_ray.methods.kept import kept_of_each
from dfl_ray.methods.laws import LawContext, NoTraffic, Planned, adapter_bytes, factor_size
from dfl_ray.wire.codec import encoded_size, mask_size
from dfl_ray.wire.message import HEADER_BYTES, SHARED_TASK, Kind

Size = Callable[[int], tuple[int, bool, int]]
"""Round -> bytes of a message, whether they are exact, and entries kept (0 = all)."""


@dataclass(frozen=True)
class StarLaw:
    """One message from every device to the hub, and in the next round one from the hub to all.

    Attributes:
        context: The run.
        up: The size of an upload.
        down: The size of the download.
    """

    context: LawContext
    up: Size
    down: Size

    def phase(self, round_index: int) -> int:
        """Place of a round in its cycle: below `exchange_every` devices train, at it the hub answers."""
        return (round_index - 1) % (self.context.config.exchange_every + 1)

    def uploads(self, round_index: int) -> bool:
        """Whether devices send to the hub at the end of a round."""
        return self.phase(round_index) == self.context.config.exchange_every - 1

    def downloads(self, round_index: int) -> bool:
        """Whether the hub sends in a round, in which nobody trains."""
        return rests(self.context.config, round_index)

    @cached_property
    def others(self) -> tuple[int, ...]:
        """The devices that reach the hub, ascending."""
        return tuple(d for d in self.context.graph.star if d != self.context.config.hub)

    @cached_property
    def known(self) -> frozenset[int]:
        """The same, for asking whether a device is one of them."""
        return frozenset(self.others)

    def start(self, device: int) -> NoTraffic:
        """Nothing to remember."""
        return NoTraffic()

    def sources(self, device: int) -> tuple[int, ...]:
        """Its own rows."""
        return (device,)

    def trains(self, device: int, state: NoTraffic, round_index: int) -> bool:
        """In all rounds but those in which the hub sends."""
        return not self.downloads(round_index)

    def busy(self, round_index: int) -> bool:
        """In the last round of training and in the one behind it."""
        return self.phase(round_index) >= self.context.config.exchange_every - 1

    def owes(self, device: int, state: NoTraffic) -> bool:
        """A lost message is not repeated."""
        return False

    def begin(self, device: int, state: NoTraffic, round_index: int) -> None:
        """Nothing."""

    def messages(self, device: int, state: NoTraffic, round_index: int) -> list[Planned]:
        """The upload of a device, or the download from the hub."""
        hub = self.context.config.hub
        assert hub is not None
        if self.uploads(round_index) and device in self.known:
            return [self._planned(self.up, (hub,), round_index)]
        if self.downloads(round_index) and device == hub and self.others:
            return [self._planned(self.down, self.others, round_index)]
        return []

    def _planned(self, size: Size, to: tuple[int, ...], round_index: int) -> Planned:
        length, exact, kept = size(round_index)
        return Planned(Kind.ADAPTER, SHARED_TASK, to, length, round_index, exact, kept)

    def delivered(self, device: int, state: NoTraffic, message: Planned, reached: Sequence[int]) -> None:
        """Nothing to remember."""

    def received(self, device: int, state: NoTraffic, message: Planned) -> None:
        """Nothing to remember."""


def whole_star(context: LawContext) -> StarLaw:
    """Law of FedAvg: A and B up, A and B down."""

    def whole(_round: int) -> tuple[int, bool, int]:
        return adapter_bytes(context.config, context.layout.size), True, 0

    return StarLaw(context, whole, whole)


def sparse_size(context: LawContext, kept: int, size: int) -> tuple[int, bool, int]:
    """Size of a message that says some entries of a vector (`methods.sparse_body`).

    Args:
        context: The run.
        kept: Entries that are said.
        size: Entries of the vector.

    Returns:
        Bytes, whether they are exact, and `kept`.
    """
    length = HEADER_BYTES + 4 + mask_size(kept, size) + encoded_size(kept, context.config.precision)
    return length, 2 * kept >= -(-size // 8) or size < 2**16, kept


def sparse_star(context: LawContext) -> StarLaw:
    """Law of FLASC: a mask and the values it keeps, up and down, each with its own share."""
    config, size = context.config, context.layout.size
    assert isinstance(config, SparseStarConfig)
    up, down = kept_entries(config.upload_share, size), kept_entries(config.download_share, size)
    return StarLaw(
        context, lambda _r: sparse_size(context, up, size), lambda _r: sparse_size(context, down, size)
    )


def answered_factor(config: TrainingConfig, round_index: int) -> Factor:
    """Name the factor that FedSRD's hub answers with: B in the first cycle, A in the next, and so on."""
    return "b" if (round_index - 1) // (config.exchange_every + 1) % 2 == 0 else "a"


def important_star(context: LawContext) -> StarLaw:
    """Law of FedSRD: the important entries of each factor of each layer up, a random share of one factor down."""
    config, layout = context.config, context.layout
    assert isinstance(config, SparseStarConfig)
    up = kept_of_each(config.upload_share, layout)
    sizes: dict[Factor, int] = {f: factor_size(layout, f) for f in layout.trains}

    def down(round_index: int) -> tuple[int, bool, int]:
        size = sizes[answered_factor(config, round_index)]
        return sparse_size(context, kept_entries(config.download_share, size), size)

    return StarLaw(context, lambda _round: sparse_size(context, up, layout.size), down)
