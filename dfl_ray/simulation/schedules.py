"""Who waits for whom: all devices for each other in every round, or nobody for anybody.

`Barrier` (`schedule: sync`): every device trains, and the round ends with its last event.

`NoBarrier` (`schedule: async`): a device's local round ends when its training is done and its last messages have left;
then it sends, mixes what has come by then, and begins the next one. Local rounds are played in windows, whose messages
the radio takes in the order of the windows. With e_i the end of device i's local round under way, c_i the time that
its next one takes to train, and h the time until which the radio is busy with earlier windows, a window holds the
devices, in the order of (e_i, i), as long as e_i <= h or e_i < min e_j + c_j over those before. It follows:

1. No device is in a window twice. A window's local rounds can be trained as one batch, in any order: each starts from
   what its device mixed in an earlier window.
2. All messages of a window are known before anybody in it mixes. They are planned together, each from its own e_i on,
   and no plan is revised later.
3. Causality: the radio is done with a window at or after every e_i in it, and takes up a later window's messages only
   then. So whatever has been delivered by e_i is known when device i mixes.
4. The radio never idles while a message waits: where e_i <= h it was busy, and else a message of a later window is
   made at or after min e_j + c_j, that is after every e_i of this one.

Ends depend on the rows that devices draw, on their speeds and on the radio, never on trained values or the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from channels.energy import ComputeCost, DeviceClasses, compute_cost
from dfl_ray.network.local_rounds import LocalRounds
from dfl_ray.network.traffic import TimedOutcomes, TransferOutcomes, TransferRequests

if TYPE_CHECKING:
    from channels.transfers import RoundPlan
    from dfl_ray.simulation.experiment import Experiment
    from dfl_ray.simulation.radio_tables import Hops


class Schedule(Protocol):
    """Says who trains in a round, and when each device may send and mix."""

    def ended(self, round_index: int, absent: Collection[int], clock_s: float) -> LocalRounds | None:
        """The local rounds that end in a round; None = everybody's.

        Args:
            round_index: The round, from 1.
            absent: Devices that are out of the run.
            clock_s: Virtual time until which the radio is busy.
        """
        ...

    def cost(self, ended: LocalRounds | None, flops: np.ndarray, classes: DeviceClasses) -> ComputeCost:
        """What the round's training takes.

        Args:
            ended: What `ended` gave.
            flops: (devices,) operations, as the devices have counted them.
            classes: The devices' classes.

        Returns:
            Virtual time and energy of each device, 0 for one that did not train.
        """
        ...

    def ready_s(self, ended: LocalRounds | None, cost: ComputeCost, clock_s: float) -> np.ndarray:
        """When each device can send.

        Args:
            ended: What `ended` gave.
            cost: What `cost` gave.
            clock_s: Virtual time at which the channel takes up the round's messages.

        Returns:
            (devices,) seconds after `clock_s`.
        """
        ...

    def outcomes(
        self,
        ended: LocalRounds | None,
        requests: TransferRequests,
        hops: Hops,
        plan: RoundPlan,
        arrived: np.ndarray,
    ) -> TransferOutcomes:
        """What the devices are told, and the schedule's own step to the next round.

        Args:
            ended: What `ended` gave.
            requests: What the devices wanted sent.
            hops: The same as radio hops.
            plan: What the radio did.
            arrived: (requests,) whether each request arrived.

        Returns:
            The outcomes of all requests.
        """
        ...

    def snapshot(self) -> dict[str, np.ndarray]:
        """State that `restore` needs, by name."""
        ...

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint; names that are not its own are passed over."""
        ...


class Barrier:
    """All devices wait for the round's last event.

    Args:
        local_steps: Local steps of a round, for classes that take time for each beyond its operations.
    """

    def __init__(self, local_steps: int = 0) -> None:
        self._local_steps = local_steps

    def ended(self, round_index: int, absent: Collection[int], clock_s: float) -> LocalRounds | None:
        """Everybody's."""
        return None

    def cost(self, ended: LocalRounds | None, flops: np.ndarray, classes: DeviceClasses) -> ComputeCost:
        """What the counted operations take."""
        return compute_cost(classes, flops, self._local_steps)

    def ready_s(self, ended: LocalRounds | None, cost: ComputeCost, clock_s: float) -> np.ndarray:
        """All begin with the round and send when they are done."""
        return cost.seconds

    def outcomes(
        self,
        ended: LocalRounds | None,
        requests: TransferRequests,
        hops: Hops,
        plan: RoundPlan,
        arrived: np.ndarray,
    ) -> TransferOutcomes:
        """What arrived in the round."""
        return TransferOutcomes(requests, arrived)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Nothing."""


PREFIX = "schedule/"
"""Begins the names of a schedule's arrays beside those of the channel."""
_STATE = ("number", "since", "begin_s", "free_s")


class NoBarrier:
    """No device waits for another; see the module's text.

    Args:
        classes: The devices' classes.
        flops: (device, local round) -> operations of its training.
        local_steps: As in `Barrier`.

    Attributes:
        number: (devices,) int64, the local round under way, from 1.
        since: (devices,) int64, window in which the one before ended, 0 before the first.
        begin_s: (devices,) virtual time at which the local round under way began, s.
        free_s: (devices,) virtual time at which the device's last messages have left, s.
    """

    def __init__(
        self, classes: DeviceClasses, flops: Callable[[int, int], float], local_steps: int = 0
    ) -> None:
        count = len(classes)
        self._classes, self._flops, self._local_steps = classes, flops, local_steps
        self.number = np.ones(count, np.int64)
        self.since = np.zeros(count, np.int64)
        self.begin_s, self.free_s = np.zeros(count), np.zeros(count)
        self._finished: dict[int, np.ndarray] = {0: np.zeros(count, np.int64)}
        self._present = np.arange(count)
        self._count_costs()

    def _count_costs(self) -> None:
        """Costs of the local rounds under way, and of the next ones."""
        self._cost = self._costs(self.number, range(len(self._classes)))
        self._next = self._costs(self.number + 1, range(len(self._classes)))

    def _costs(self, number: np.ndarray, devices: Collection[int]) -> ComputeCost:
        flops = np.zeros(len(self._classes))
        for d in devices:
            flops[d] = self._flops(d, int(number[d]))
        return compute_cost(self._classes, flops, self._local_steps)

    def end_s(self) -> np.ndarray:
        """(devices,) when the local rounds under way end: trained, and the last messages gone, s."""
        return np.maximum(self.begin_s + self._cost.seconds, self.free_s)

    def ended(self, round_index: int, absent: Collection[int], clock_s: float) -> LocalRounds:
        """Find the next window; see the module's text.

        Args:
            round_index: The window, from 1.
            absent: Devices that are out of the run.
            clock_s: Virtual time h until which the radio is busy.

        Returns:
            Their local rounds; of at least one device unless all are out.
        """
        end_s = self.end_s()
        there = np.setdiff1d(np.arange(len(end_s)), np.array(sorted(absent), np.int64))
        self._present = there
        order = there[np.lexsort((there, end_s[there]))]
        horizon_s = np.minimum.accumulate(end_s[order] + self._next.seconds[order])
        inside = np.ones(len(order), bool)
        inside[1:] = (end_s[order][1:] < horizon_s[:-1]) | (end_s[order][1:] <= clock_s)
        chosen = np.sort(order[inside])
        return LocalRounds(round_index, chosen, self.number[chosen], self.since[chosen], end_s[chosen])

    def cost(self, ended: LocalRounds | None, flops: np.ndarray, classes: DeviceClasses) -> ComputeCost:
        """What the window's local rounds took, as counted when they began."""
        assert ended is not None, "a schedule without a barrier names the devices"
        here = np.zeros(len(self.number), bool)
        here[ended.devices] = True
        return ComputeCost(np.where(here, self._cost.seconds, 0.0), np.where(here, self._cost.energy_j, 0.0))

    def ready_s(self, ended: LocalRounds | None, cost: ComputeCost, clock_s: float) -> np.ndarray:
        """Those of the window at the ends of their local rounds; the others forward messages at any time."""
        assert ended is not None, "a schedule without a barrier names the devices"
        ready = np.zeros(len(self.number))
        ready[ended.devices] = np.maximum(ended.end_s - clock_s, 0.0)
        return ready

    def outcomes(
        self,
        ended: LocalRounds | None,
        requests: TransferRequests,
        hops: Hops,
        plan: RoundPlan,
        arrived: np.ndarray,
    ) -> TimedOutcomes:
        """When each message arrives or is known to be lost; the window's devices begin their next local rounds."""
        assert ended is not None, "a schedule without a barrier names the devices"
        made_s = np.zeros(len(self.number))
        made_s[ended.devices] = ended.end_s
        known = np.maximum(known_s(plan, hops, arrived), made_s[requests.source])
        finished = self.number - 1
        before = np.zeros(len(requests), np.int64)
        for window in np.unique(self.since[ended.devices]).tolist():
            these = self.since[requests.source] == window
            before[these] = self._finished[window][requests.destination[these]]
        told = TimedOutcomes(requests, arrived, known, finished[requests.destination] - before, ended)
        self._advance(ended, requests, known)
        return told

    def _advance(self, ended: LocalRounds, requests: TransferRequests, known: np.ndarray) -> None:
        """Begin the next local rounds of a window's devices."""
        here = ended.devices
        self.begin_s[here], self.free_s[here] = ended.end_s, ended.end_s
        np.maximum.at(self.free_s, requests.source, known)
        self.number[here] += 1
        self.since[here] = ended.window
        following = self._costs(self.number + 1, here.tolist())
        for name in ("seconds", "energy_j"):
            getattr(self._cost, name)[here] = getattr(self._next, name)[here]
            getattr(self._next, name)[here] = getattr(following, name)[here]
        self._finished[ended.window] = self.number - 1
        least = int(self.since[self._present].min())
        self._finished = {w: counts for w, counts in self._finished.items() if w >= least}

    def snapshot(self) -> dict[str, np.ndarray]:
        """Where every device stands, and how many local rounds each had ended in the windows still asked about."""
        saved = {f"{PREFIX}{name}": getattr(self, name).copy() for name in _STATE}
        windows = np.array(sorted(self._finished), np.int64)
        counts = np.stack([self._finished[w] for w in windows.tolist()])
        return {**saved, f"{PREFIX}windows": windows, f"{PREFIX}finished": counts}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up a snapshot."""
        for name in _STATE:
            setattr(self, name, np.array(saved[f"{PREFIX}{name}"]))
        windows, counts = saved[f"{PREFIX}windows"], saved[f"{PREFIX}finished"]
        self._finished = {int(w): np.array(c) for w, c in zip(windows, counts, strict=True)}
        self._count_costs()


def no_barrier(experiment: Experiment) -> NoBarrier:
    """The schedule of a run under `schedule: async`.

    Args:
        experiment: The run.

    Returns:
        The schedule at its start.
    """
    from dfl_ray.simulation.dealing import DealtRows
    from dfl_ray.simulation.dry_backend import TokenCount

    setup = experiment.setup
    lengths = [t.train.lengths - 1 for t in setup.tasks]  # a row's last token is only predicted
    dealt = DealtRows(dict(setup.held), dict(setup.shares), dict(setup.rows))
    tokens = TokenCount(experiment.config, experiment.traffic_law(), lengths, dealt, np.zeros(0))
    steps, per_token = experiment.config.method.local_steps, experiment.flops_per_token
    return NoBarrier(experiment.channel.classes, lambda d, k: tokens.of(d, k) * per_token, steps)


def known_s(plan: RoundPlan, hops: Hops, arrived: np.ndarray) -> np.ndarray:
    """When each request's last hop was decoded, or the last attempt of a lost one ended.

    Args:
        plan: What the radio did.
        hops: The requests as radio hops.
        arrived: (requests,) whether each request arrived.

    Returns:
        (requests,) virtual time in s; 0 for a lost request of which nothing was ever sent.
    """
    tried_s = np.zeros(len(plan.delivered))
    table = plan.table
    np.maximum.at(tried_s, table["transfer"].to_numpy(np.int64), table["end_s"].to_numpy(float))
    lost_s = np.zeros(len(arrived))
    place = hops.last.copy()
    while (place >= 0).any():
        lost_s = np.where(place >= 0, np.maximum(lost_s, tried_s[place]), lost_s)
        place = np.where(place >= 0, hops.transfers.after[place], -1)
    return np.where(arrived, plan.finished_s[hops.last], lost_s)
