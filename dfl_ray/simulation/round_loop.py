"""One round: train, let the radio carry what is asked for, take it in; the same lines for the run and the plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from channels.energy import ComputeCost, DeviceClasses
from dfl_ray.devices.records import ExchangeReport, TrainReport
from dfl_ray.errors import RunError
from dfl_ray.methods.faults import Faults
from dfl_ray.network.traffic import TransferOutcomes, TransferRequests
from dfl_ray.simulation.radio_tables import Hops, expand_hops
from dfl_ray.simulation.schedules import Barrier, Schedule

if TYPE_CHECKING:
    from channels.presence import Presence
    from channels.transfers import RoundPlan, Transfers
    from dfl_ray.network.comm_graph import CommGraph
    from dfl_ray.network.local_rounds import LocalRounds
    from dfl_ray.network.movement import Moved, Movement


class RoundBackend(Protocol):
    """What a round needs of whoever hosts the devices and the channel."""

    def train(
        self, round_index: int, absent: Sequence[int] = (), ended: LocalRounds | None = None
    ) -> list[TrainReport]:
        """Local steps everywhere but on absent devices; the payloads stay where they were made.

        Args:
            round_index: The round, from 1.
            absent: Devices that are out of the run.
            ended: Where devices do not wait for each other, the local rounds that end in this window; the other
                devices do nothing.

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

    def move(self, positions_m: np.ndarray, velocity_mps: np.ndarray | None, graph: CommGraph | None) -> None:
        """Put the devices elsewhere before a round.

        Args:
            positions_m: (devices, 2) where they are now, metres.
            velocity_mps: (devices, 2) their velocities from now on, m/s; None: those at which they got there.
            graph: The communication graph from now on; None: it is as it was.
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
        around: Makes a context that is held open around each part, given its name: shows what is going on.
        parts: Name of a part -> seconds spent in it so far.
    """

    around: Callable[[str], AbstractContextManager[Any]] = nullcontext
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the block's time to a part."""
        began = time.perf_counter()
        try:
            with self.around(name):
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
        moved: Where the devices were in it; None where they stand still and stay on, and in the first round.
        gone: Whether no device with any charge and work left is ever on again.
        ended: The local rounds that ended in it; None where all devices wait for each other.
    """

    trained: list[TrainReport]
    requests: TransferRequests
    hops: Hops
    cost: ComputeCost
    plan: RoundPlan
    arrived: np.ndarray
    taken: list[ExchangeReport]
    emptied: tuple[int, ...]
    moved: Moved | None = None
    gone: bool = False
    ended: LocalRounds | None = None

    @property
    def nobody_left(self) -> str | None:
        """Why no later round can do anything, in words; None where one can."""
        alive = bool(self.plan.alive.any())
        return nobody_left(alive) if self.gone or not alive else None


@dataclass
class RoundLoop:
    """Plays the rounds of one experiment, one after the other: the event loop of the run and of its plan.

    Who trains in a round, when each device may send and who waits for what is the schedule's (`simulation.schedules`).
    Under `sync` a round ends with its last event; under `async` it is a window in which no device has two.

    Attributes:
        backend: Hosts devices and channel.
        classes: The devices' classes.
        relays: (a, b) -> devices on the way from a to b, where a logical link takes several hops.
        flops_per_token: Floating-point operations of training on one token.
        absent: Devices whose battery is empty: they are out of the coming rounds.
        movement: Where the devices are over virtual time; None where they stand still.
        schedule: Who waits for whom; all devices for each other unless it says otherwise.
        clock_s: Virtual time at which the next round begins.
        skipped_s: Virtual time of rounds that a plan has left out, which the channel's clock does not know.
        faults: The devices that fail or attack; here those count that stop or send nothing.
        presence: When devices are on; None where they always are.
        rests: Says of a round whether nobody trains in it by the method's calendar.
    """

    backend: RoundBackend
    classes: DeviceClasses
    relays: Mapping[tuple[int, int], tuple[int, ...]]
    flops_per_token: float
    absent: tuple[int, ...] = ()
    movement: Movement | None = None
    schedule: Schedule = field(default_factory=Barrier)
    clock_s: float = 0.0
    skipped_s: float = 0.0
    faults: Faults = field(default_factory=Faults)
    presence: Presence | None = None
    rests: Callable[[int], bool] = lambda _round: False
    _graph_since: int = 0

    def move(self, round_index: int) -> Moved | None:
        """Move the devices to where they are when a round begins, and tell the backend.

        Args:
            round_index: The round, from 1; in the first one the devices are where they were placed.

        Returns:
            Where they are and the graph they have; None where they have not moved.
        """
        if self.movement is None or round_index == 1:
            return None
        moved = self.movement.advance(self.clock_s, round_index)
        changed = moved.graph.since != self._graph_since
        graph = moved.graph if changed else None
        self.backend.move(self.movement.positions_m, self.movement.velocity_mps, graph)
        self.relays, self._graph_since = moved.graph.relays, moved.graph.since
        return moved

    def play(self, round_index: int, wall_times: WallTimes) -> PlayedRound:
        """Play a round: move, train, expand the requests to radio hops, let the channel plan them, exchange.

        Computing takes a device tokens · `flops_per_token` operations; a request that takes several hops arrives
        if all of them are delivered.

        Args:
            round_index: The round, from 1.
            wall_times: Gets the real seconds of `train`, `plan` and `exchange`.

        Returns:
            What happened. `absent` then holds the devices without energy; where that is all of them, `nobody_left`
            of the result tells the caller to record the round and stop.

        Raises:
            RunError: The radio cannot carry the round, or no graph can be built where the devices have moved to.
        """
        moved = self.move(round_index)
        ended = self.schedule.ended(round_index, self.absent, self.clock_s)
        with wall_times.measure("train"):
            out = (*self._out(), *self.faults.stopped(round_index))
            trained = self.backend.train(round_index, out, ended)
        requests = TransferRequests.join([r.requests for r in trained])
        requests = requests.select(~np.isin(requests.source, self.faults.silent(round_index)))
        hops = expand_hops(requests, self.relays)
        with wall_times.measure("plan"):
            began_s, flops = self.clock_s, self._flops(trained)
            cost = self.schedule.cost(ended, flops, self.classes)
            ready_s = self.schedule.ready_s(ended, cost, self.clock_s)
            plan = self._planned(round_index, hops, ready_s, cost)
            arrived = hops.arrived(plan.delivered, len(requests))
            self.clock_s = plan.end_s + self.skipped_s
            emptied = self._leave_out_empty(plan.alive)
            outcomes = self.schedule.outcomes(ended, requests, hops, plan, arrived)
        with wall_times.measure("exchange"):
            taken = self.backend.exchange(round_index, outcomes)
        if plan.training_s is not None:
            cost = replace(cost, seconds=plan.training_s)
        gone = self._gone(plan.alive)
        if ended is None and not self.rests(round_index):
            worked = np.concatenate([np.flatnonzero(flops), requests.source, requests.destination[arrived]])
            gone |= not plan.alive[worked].any() if len(worked) and self.presence is None else False
            gone |= not len(worked) and self._stuck(began_s)
        return PlayedRound(trained, requests, hops, cost, plan, arrived, taken, emptied, moved, gone, ended)

    def _planned(self, round_index: int, hops: Hops, ready_s: np.ndarray, cost: ComputeCost) -> RoundPlan:
        """What the radio does with a round's transfers; it may go by an installed package's scheduler."""
        try:
            return self.backend.plan(round_index, hops.transfers, ready_s, cost.energy_j)
        except ValueError as error:
            raise RunError(f"The radio cannot carry round {round_index}: {error}") from error

    def _out(self) -> tuple[int, ...]:
        """Devices that take no part in a round: without energy, or off when it begins."""
        if self.presence is None:
            return self.absent
        off = np.flatnonzero(~self.presence.on_at(self.clock_s)).tolist()
        return tuple(sorted({*self.absent, *off}))

    def _gone(self, alive: np.ndarray) -> bool:
        """Whether no device with energy is ever on again."""
        return (
            self.presence is not None and not np.isfinite(self.presence.on_after(self.clock_s)[alive]).any()
        )

    def _stuck(self, began_s: float) -> bool:
        """Whether, after a round in which nobody did anything, nobody ever will: none that works comes back."""
        return bool(self.absent) if self.presence is None else self.clock_s <= began_s

    def _flops(self, trained: Sequence[TrainReport]) -> np.ndarray:
        tokens = np.zeros(len(self.classes))
        for report in trained:
            tokens[report.devices] = report.tokens
        return tokens * self.flops_per_token

    def _leave_out_empty(self, alive: np.ndarray) -> tuple[int, ...]:
        dead = tuple(int(d) for d in np.flatnonzero(~alive))
        new = tuple(sorted(set(dead) - set(self.absent)))
        self.absent = dead
        return new


def nobody_left(gone: bool) -> str:
    """Why a run ends with a round that left no device, in words.

    Args:
        gone: Whether devices with energy are left, but off for good, or without anything to do.
    """
    if gone:
        return (
            "no device that has energy and work is ever on again. For more rounds let `devices.availability.path` "
            "bring a device back, or give devices more `devices.battery_j`"
        )
    return (
        "all devices have empty batteries. For more rounds raise `devices.battery_j`, or lower `radio.tx_power_dbm`, "
        "`radio.listen_power_w` or `method.local_steps`"
    )
