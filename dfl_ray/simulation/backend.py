"""The Protocol between the driver and whatever hosts devices and channel, and the one-process backend.

`LocalBackend` runs everything here; `actors.pool.RayBackend` runs the same plain classes as Ray actors. Both
give the same records for the same configuration and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dfl_ray.devices.records import (
    EvaluationReport,
    ExchangeReport,
    GroupSetup,
    Snapshot,
    TrainReport,
)
from dfl_ray.simulation.round_loop import RoundBackend

if TYPE_CHECKING:
    from channels.channel import Snapshot as ChannelState
    from channels.transfers import RoundPlan, Transfers
    from dfl_ray.network.comm_graph import CommGraph
    from dfl_ray.network.deployment import ChannelSetup
    from dfl_ray.network.local_rounds import LocalRounds
    from dfl_ray.network.traffic import TransferOutcomes
    from dfl_ray.simulation.saved_parts import SavedParts


@dataclass(frozen=True)
class BackendState:
    """Everything that must be saved at a round boundary besides the driver's own state.

    Attributes:
        devices: State of all devices in parts of some each; a backend's own are made as they are asked for, once.
        channel: State of the channel, by name.
    """

    devices: Iterable[Snapshot]
    channel: ChannelState


@dataclass(frozen=True)
class SavedState(BackendState):
    """State that lies on disk.

    Attributes:
        devices: State of all devices, read part by part.
        channel: State of the channel, by name.
    """

    devices: SavedParts


class Backend(RoundBackend, Protocol):
    """Hosts the devices and the channel."""

    @property
    def actors(self) -> int:
        """Number of processes or actors that host devices."""
        ...

    @property
    def nodes(self) -> int:
        """Number of machines the device actors run on."""
        ...

    @property
    def restarts(self) -> int:
        """How often an actor has been replaced."""
        ...

    @property
    def forked(self) -> int:
        """Number of actors that are forks of one process; the others are ordinary workers."""
        ...

    def actor_of(self, device: int) -> str:
        """Name of the actor that hosts a device."""
        ...

    def follow(self, advance: Callable[[int, int], None]) -> None:
        """Say whom to tell how far a call is, while it runs: parts done, parts in all."""
        ...

    def evaluate(
        self, round_index: int, rules: Sequence[str], references: Mapping[int, np.ndarray] | None
    ) -> list[EvaluationReport]:
        """Accuracy of all devices; round 0 asks the bare base model.

        Args:
            round_index: The round just finished, 0 before the first.
            rules: Inference rules to ask.
            references: Task -> exact sketch of all layers, for the rule `filter` as a reference; None without it.

        Returns:
            Reports that together hold every device.
        """
        ...

    def full_sketches(self) -> dict[int, np.ndarray]:
        """Task -> sketch of all layers, from the tasks' authors."""
        ...

    def snapshot(self) -> BackendState:
        """All state, at a round boundary; its parts must be taken before anything else is called."""
        ...

    def recover_from(self, state: SavedState) -> None:
        """Say where the state last given lies now, to be read when an actor must be replaced."""
        ...

    def restore(self, state: SavedState) -> None:
        """Take all state back."""
        ...

    def object_store_bytes(self) -> int:
        """Bytes of payloads put into an object store since the last call; 0 without one."""
        ...

    def replay_bytes(self) -> int:
        """Bytes of what is kept since `recover_from`, to be repeated when an actor is replaced; 0 if nothing is."""
        ...

    def node_crossing_bytes(self) -> int:
        """Bytes of delivered messages whose ends lie on different nodes since the last call; 0 on one node."""
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...


class LocalBackend:
    """Everything in this process, without Ray: for tests, debugging and machines without Ray.

    Args:
        setup: What all devices share.
        channel: What the channel is made from.
        torch_device: "cpu" or a CUDA device.
    """

    actors = nodes = 1
    restarts = 0
    forked = 0

    def __init__(self, setup: GroupSetup, channel: ChannelSetup, torch_device: str | None = None) -> None:
        from dfl_ray.devices.group import DeviceGroup

        self._group = DeviceGroup(setup, sorted(setup.held), torch_device)
        self._channel = channel.make()

    def actor_of(self, device: int) -> str:
        """All devices live in this process."""
        return "local"

    def train(
        self, round_index: int, absent: Sequence[int] = (), ended: LocalRounds | None = None
    ) -> list[TrainReport]:
        """See `Backend.train`."""
        return [self._group.train(round_index, absent, ended)[0]]

    def plan(
        self, round_index: int, transfers: Transfers, ready_s: np.ndarray, compute_energy_j: np.ndarray
    ) -> RoundPlan:
        """See `Backend.plan`."""
        return self._channel.plan_round(
            round_index, transfers, ready_s=ready_s, compute_energy_j=compute_energy_j
        )

    def move(self, positions_m: np.ndarray, velocity_mps: np.ndarray | None, graph: CommGraph | None) -> None:
        """See `Backend.move`."""
        self._channel.move(positions_m, velocity_mps)
        if graph is not None:
            self._group.rewire(graph)

    def exchange(self, round_index: int, outcomes: TransferOutcomes) -> list[ExchangeReport]:
        """See `Backend.exchange`."""
        return [self._group.exchange(round_index, outcomes)]

    def follow(self, advance: Callable[[int, int], None]) -> None:
        """See `Backend.follow`; told by the scorer, whose parts are adapters and their rows."""
        self._group.follow(advance)

    def evaluate(
        self, round_index: int, rules: Sequence[str], references: Mapping[int, np.ndarray] | None
    ) -> list[EvaluationReport]:
        """See `Backend.evaluate`."""
        return [self._group.evaluate(round_index, rules, references)]

    def full_sketches(self) -> dict[int, np.ndarray]:
        """See `Backend.full_sketches`."""
        return self._group.full_sketches()

    def snapshot(self) -> BackendState:
        """See `Backend.snapshot`."""
        from dfl_ray.devices.snapshots import in_parts

        parts = in_parts(self._group.devices)
        return BackendState(map(self._group.snapshot, parts), self._channel.snapshot())

    def recover_from(self, state: SavedState) -> None:
        """Nothing is replaced."""

    def restore(self, state: SavedState) -> None:
        """See `Backend.restore`."""
        self._group.restore(state.devices.of(self._group.devices))
        self._channel.restore(state.channel)

    def object_store_bytes(self) -> int:
        """No object store."""
        return 0

    def replay_bytes(self) -> int:
        """Nothing is replayed."""
        return 0

    def node_crossing_bytes(self) -> int:
        """One node."""
        return 0

    def close(self) -> None:
        """Nothing to release."""
