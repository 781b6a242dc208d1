"""ChannelActor: positions, gains, virtual clock and scheduling in one process."""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from channels.transfers import RoundPlan, Transfers
from dfl_ray.garbage import collect_seldom
from dfl_ray.network.deployment import ChannelSetup

if TYPE_CHECKING:
    from actors.nodes import Started
    from channels.channel import Snapshot


class ChannelActor:
    """Hosts the channel; made a Ray actor by `actors.pool`.

    Args:
        setup: What the channel is made from.
    """

    def __init__(self, setup: ChannelSetup) -> None:
        collect_seldom()
        self._channel = setup.make()
        # The first plan needs it. A fork has not imported it, since the devices' actors do without.
        threading.Thread(target=import_module, args=("pandas",), daemon=True).start()

    def ready(self) -> Started:
        """Where and how this process was started; answers once everything is built."""
        from actors.nodes import started_here

        return started_here()

    def plan(
        self, round_index: int, transfers: Transfers, ready_s: np.ndarray, compute_energy_j: np.ndarray
    ) -> RoundPlan:
        """See `Channel.plan_round`."""
        return self._channel.plan_round(
            round_index, transfers, ready_s=ready_s, compute_energy_j=compute_energy_j
        )

    def move(self, positions_m: np.ndarray, velocity_mps: np.ndarray | None) -> None:
        """See `Channel.move`."""
        self._channel.move(positions_m, velocity_mps)

    def snapshot(self) -> Snapshot:
        """See `Channel.snapshot`."""
        return self._channel.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """See `Channel.restore`."""
        self._channel.restore(snapshot)
