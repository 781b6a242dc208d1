"""DeviceActor: a `DeviceGroup` in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.progress import Teller
from dfl_ray.devices.records import (
    EvaluationReport,
    ExchangeReport,
    GroupSetup,
    Payloads,
    Snapshot,
    TrainReport,
)
from dfl_ray.garbage import collect_seldom

if TYPE_CHECKING:
    from actors.nodes import Started
    from dfl_ray.devices.group import DeviceGroup
    from dfl_ray.network.comm_graph import CommGraph
    from dfl_ray.network.local_rounds import LocalRounds
    from dfl_ray.network.traffic import TransferOutcomes


class DeviceActor:
    """Hosts devices; made a Ray actor by `actors.pool`.

    Args:
        setup: What all groups share; its arrays are mapped from the object store, not copied.
        devices: The devices hosted here.
        key: Under which name an evaluation leaves word of how far it is (`actors.progress`); None: under none.
    """

    def __init__(self, setup: GroupSetup, devices: Sequence[int], key: str | None = None) -> None:
        from dfl_ray.devices.group import DeviceGroup  # torch: for this process, not for the driver's

        collect_seldom()
        self._group: DeviceGroup = DeviceGroup(setup, devices)
        if key is not None:
            self._group.follow(Teller(key))

    def ready(self) -> Started:
        """Where and how this process was started; answers once everything is built."""
        from actors.nodes import started_here

        return started_here()

    def train(
        self,
        round_index: int,
        absent: Sequence[int] = (),
        ended: LocalRounds | None = None,
        graph: CommGraph | None = None,
    ) -> tuple[TrainReport, dict[tuple[int, int], PickleBuffer]]:
        """See `DeviceGroup.train`; the payloads go to the object store, and come from it, without a copy between.

        Args:
            round_index: The round.
            absent: Devices that are out of the run.
            ended: The local rounds that end in this window, where devices do not wait for each other.
            graph: The communication graph where devices have moved, given in every round since a replacement of this
                actor may begin with any; None: the one of the run's start.
        """
        if graph is not None and graph.since != self._group.setup.graph.since:
            self._group.rewire(graph)
        report, leaving = self._group.train(round_index, absent, ended)
        return report, {key: PickleBuffer(payload) for key, payload in leaving.items()}

    def exchange(self, round_index: int, outcomes: TransferOutcomes, *bundles: Payloads) -> ExchangeReport:
        """See `DeviceGroup.exchange`."""
        return self._group.exchange(round_index, outcomes, *bundles)

    def evaluate(
        self, round_index: int, rules: Sequence[str], references: Mapping[int, np.ndarray] | None
    ) -> EvaluationReport:
        """See `DeviceGroup.evaluate`."""
        return self._group.evaluate(round_index, rules, references)

    def full_sketches(self) -> dict[int, np.ndarray]:
        """See `DeviceGroup.full_sketches`."""
        return self._group.full_sketches()

    def parts(self) -> list[tuple[int, ...]]:
        """Devices hosted here, in parts whose state is passed on at once; see `in_parts`."""
        from dfl_ray.devices.snapshots import in_parts

        return in_parts(self._group.devices)

    def snapshot(self, devices: tuple[int, ...]) -> Snapshot:
        """See `DeviceGroup.snapshot`."""
        return self._group.snapshot(devices)

    def restore(self, *snapshots: Snapshot) -> None:
        """See `DeviceGroup.restore`."""
        self._group.restore(snapshots)

    def memory(self) -> dict[str, Any]:
        """Private and resident memory of this process in bytes."""
        from actors.memory import own_memory

        return own_memory()
