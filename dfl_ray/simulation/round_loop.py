"""One round: train, let the radio carry what is asked for, take it in; the same lines for the run and the plan."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from channels.energy import ComputeCost, DeviceClasses, compute_cost
from dfl_ray.devices.records import ExchangeReport, TrainReport
from dfl_ray.errors import RunError
from dfl_ray.network.traffic import TransferOutcomes, TransferRequests
from dfl_ray.simulation.radio_tables import Hops, expand_hops

if TYPE_CHECKING:
    from channels.transfers import RoundPlan, Transfers


class RoundBackend(Protocol):
    """What a round needs of whoever hosts the devices and the channel."""

    def train(self, round_index: int, absent: Sequence[int] = ()) -> list[TrainReport]:
        """Local steps everywhere but on absent devices; the payloads stay where they were made.

        Args:
            round_index: The round, from 1.
            absent: Devices that are out of the run.

        Returns:
            Reports that together hold every device.
        """
        ...

    def plan(
        self, round_index: int, transfers: Transfers, ready_s: np.ndarray, compute_energy_j: np.ndarray
    ) -> RoundPlan:
        """Let the channel schedule the round's transfers.

        Args:
            round_index: The round, from 1.
            transfers: What is to be sent, one row a radio hop.
            ready_s: (devices,) seconds of computing before each device can send.
            compute_energy_j: (devices,) energy of that computing, joules.

        Returns:
            What the radio did.
        """
        ...

    def exchange(self, round_index: int, outcomes: TransferOutcomes) -> list[ExchangeReport]:
        """Bring delivered payloads to their receivers, which mix them.

        Args:
            round_index: The round, from 1.
            outcomes: The requests and whether each arrived.

        Returns:
            Reports of the receivers.
        """
        ...


@dataclass
class WallTimes:
    """Real time of the parts of one round.

    Attributes:
        parts: Name of a part -> seconds spent in it so far.
    """

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the block's time to a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class PlayedRound:
    """What happened in one round.

    Attributes:
        trained: Reports of the local steps.
        requests: What the devices wanted sent.
        hops: The requests as single radio hops.
        cost: Virtual time and energy of computing.
        plan: What the radio did.
        arrived: (requests,) whether each request arrived.
        taken: Reports of the receivers.
        emptied: Devices whose battery ran empty in this round.
    """

    trained: list[TrainReport]
    requests: TransferRequests
    hops: Hops
    cost: ComputeCost
    plan: RoundPlan
    arrived: np.ndarray
    taken: list[ExchangeReport]
    emptied: tuple[int, ...]


@dataclass
class RoundLoop:
    """Plays the rounds of one experiment, one after the other.

    Attributes:
        backend: Hosts devices and channel.
        classes: The devices' classes.
        relays: (a, b) -> devices on the way from a to b, where a logical link takes several hops.
        flops_per_token: Floating-point operations of training on one token.
        absent: Devices whose battery is empty: they are out of the coming rounds.
    """

    backend: RoundBackend
    classes: DeviceClasses
    relays: Mapping[tuple[int, int], tuple[int, ...]]
    flops_per_token: float
    absent: tuple[int, ...] = ()

    def play(self, round_index: int, wall_times: WallTimes) -> PlayedRound:
        """Play a round: train, expand the requests to radio hops, let the channel plan them, exchange what arrived.

        Computing takes a device tokens · `flops_per_token` operations; a request that takes several hops arrives
        if all of them are delivered.

        Args:
            round_index: The round, from 1.
            wall_times: Gets the real seconds of `train`, `plan` and `exchange`.

        Returns:
            What happened. `absent` then holds the devices without energy.

        Raises:
            RunError: All batteries are empty.
        """
        with wall_times.measure("train"):
            trained = self.backend.train(round_index, self.absent)
        requests = TransferRequests.join([r.requests for r in trained])
        hops = expand_hops(requests, self.relays)
        with wall_times.measure("plan"):
            cost = compute_cost(self.classes, self._flops(trained))
            plan = self.backend.plan(round_index, hops.transfers, cost.seconds, cost.energy_j)
            arrived = hops.arrived(plan.delivered, len(requests))
            emptied = self._leave_out_empty(round_index, plan.alive)
        with wall_times.measure("exchange"):
            taken = self.backend.exchange(round_index, TransferOutcomes(requests, arrived))
        return PlayedRound(trained, requests, hops, cost, plan, arrived, taken, emptied)

    def _flops(self, trained: Sequence[TrainReport]) -> np.ndarray:
        tokens = np.zeros(len(self.classes))
        for report in trained:
            tokens[report.devices] = report.tokens
        return tokens * self.flops_per_token

    def _leave_out_empty(self, round_index: int, alive: np.ndarray) -> tuple[int, ...]:
        dead = tuple(int(d) for d in np.flatnonzero(~alive))
        new = tuple(sorted(set(dead) - set(self.absent)))
        if len(dead) == len(alive):
            raise RunError(
                f"All devices had empty batteries in round {round_index}; nothing can go on. Raise "
                "`devices.battery_j`, or lower `radio.tx_power_dbm` or `method.local_steps`."
            )
        self.absent = dead
        return new
