"""RayBackend: the same groups and the same channel as Ray actors; payloads move between them by reference."""

from __future__ import annotations

import itertools
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
import ray

from actors.channel import ChannelActor
from actors.device import DeviceActor
from actors.nodes import NodePlacement, own_node
from actors.progress import forget, read_told, together
from actors.replay import ActorSet, Answer, Call, RecoverableActor
from channels.transfers import RoundPlan, Transfers
from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.devices.records import (
    EvaluationReport,
    ExchangeReport,
    GroupSetup,
    Snapshot,
    TrainReport,
)
from dfl_ray.network.comm_graph import CommGraph
from dfl_ray.network.deployment import ChannelSetup
from dfl_ray.network.local_rounds import LocalRounds
from dfl_ray.network.traffic import TransferOutcomes, TransferRequests
from dfl_ray.packing.actors import Packing
from dfl_ray.simulation.backend import BackendState, SavedState
from dfl_ray.simulation.saved_parts import SavedParts

START_NOTICE_S = 20.0
"""Seconds without any actor after which that is said."""


class RayBackend:
    """Hosts devices and channel in Ray actors; see `dfl_ray.simulation.backend.Backend`.

    Args:
        setup: What all groups share; put into the object store once.
        channel: What the channel is made from.
        packing: Which actor hosts which devices, and on which node.
        say: Tells the user something.
        services_lost: Whether Ray's own services are gone.
    """

    def __init__(
        self,
        setup: GroupSetup,
        channel: ChannelSetup,
        packing: Packing,
        say: Callable[[str], None] = lambda _text: None,
        services_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        runtime = setup.config.runtime
        self.packing = packing
        self._host = np.empty(sum(map(len, packing.groups)), np.int64)
        for k, group in enumerate(packing.groups):
            self._host[list(group)] = k
        self._node_placement = NodePlacement(packing, runtime, say)
        self._actor_set = ActorSet(say, self._node_placement, self._look)
        self._services_lost = services_lost
        self._namespace = f"dfl-ray-{uuid4().hex}"  # names are the run's own: another may use this Ray too
        self._progress_key = f"progress/{uuid4().hex}/"
        self._asked: Sequence[RecoverableActor] = ()
        self._answered = 0
        self._bundles: list[Call] = []
        self._graph: Any = None
        self._stored_bytes = self._crossing_bytes = self._replay_bytes = 0
        self._replaces = runtime.max_restarts > 0
        self._advance: Callable[[int, int], None] = lambda _done, _total: None
        try:
            shared = ray.put(setup)
            self._channel = self._recoverable("channel", ChannelActor, (channel,), None, runtime)
            self._groups = [
                self._recoverable(
                    packing.actor_name(k), DeviceActor, (shared, group, self._key(k)), k, runtime
                )
                for k, group in enumerate(packing.groups)
            ]
        except BaseException:  # a caller's Ray would keep them
            self.close()
            raise

    def _recoverable(
        self, name: str, kind: type, args: tuple[Any, ...], number: int | None, runtime: RuntimeConfig
    ) -> RecoverableActor:
        def create(restarts: int) -> Any:
            shown = name if restarts == 0 else f"{name}.{restarts}"
            place = _beside_the_driver() if number is None else self._node_placement.options(number)
            own = ray.remote(kind).options(name=shown, namespace=self._namespace, max_restarts=0, **place)
            return own.remote(*args)

        return RecoverableActor(
            name, create, max_restarts=runtime.max_restarts, timeout_s=runtime.actor_timeout_s,
            # In a Ray of the run's own nobody takes the room that a dead actor leaves.
            wait_for_capacity_s=None if runtime.address is None else runtime.wait_for_capacity_s,
            actor_set=self._actor_set, number=number,
        )  # fmt: skip

    def await_ready(self) -> None:
        """Wait until all actors are made; before that they may not be called.

        Raises:
            RunError: An actor could not be made, or died too often.
        """
        calls = [(a, a.call("ready", changes_state=False)) for a in self._actor_set.members]
        if not ray.wait([call.refs[0] for _, call in calls], timeout=START_NOTICE_S)[0]:
            self._actor_set.say(_none_ready())
        for actor, call in calls:
            self._actor_set.note_started(actor, actor.result(call))

    @property
    def actors(self) -> int:
        """Number of device actors."""
        return len(self._groups)

    @property
    def nodes(self) -> int:
        """Number of machines the device actors were placed on."""
        return max(1, len(set(self.packing.nodes)))

    @property
    def restarts(self) -> int:
        """How often an actor has been replaced."""
        return sum(actor.restarts for actor in self._actor_set.members)

    @property
    def forked(self) -> int:
        """Number of device actors whose process is a fork; the others are ordinary workers."""
        return sum(g.started is not None and g.started.forked for g in self._groups)

    def actor_of(self, device: int) -> str:
        """Name of the actor that hosts a device."""
        return self._groups[self._host[device]].name

    def train(
        self, round_index: int, absent: Sequence[int] = (), ended: LocalRounds | None = None
    ) -> list[TrainReport]:
        """See `Backend.train`; the payloads stay in the object store."""
        graph = () if self._graph is None else (self._graph,)
        calls = [g.call("train", round_index, tuple(absent), ended, *graph, returns=2) for g in self._groups]
        reports = self._results(self._groups, calls)
        self._bundles = calls
        leaving = sum(self._leaving_bytes(r.requests) for r in reports)
        self._stored_bytes += leaving
        self._replay_bytes += leaving if self._replaces else 0
        return reports

    def follow(self, advance: Callable[[int, int], None]) -> None:
        """See `Backend.follow`; the parts are actors that have answered, in an evaluation what these have told."""
        self._advance = advance

    def _results(self, groups: Sequence[RecoverableActor], calls: Sequence[Call]) -> list[Any]:
        """The answers of all, in their order; tells how many have come, unless `_look` tells more."""
        answers: list[Any] = []
        for self._answered, (group, call) in enumerate(zip(groups, calls, strict=True)):
            if not self._asked:
                self._advance(self._answered, len(groups))
            answers.append(group.result(call))
        return answers

    def _look(self) -> bool:
        """While an answer is waited for: tell how far an evaluation is; says whether Ray's services are gone."""
        if self._asked:
            told = [read_told(self._key(group.number)) for group in self._asked[self._answered :]]
            self._advance(*together(told, self._answered))
        return self._services_lost()

    def _key(self, number: int | None) -> str:
        return f"{self._progress_key}{number}"

    def _leaving_bytes(self, requests: TransferRequests) -> int:
        """Bytes of the messages that leave the actor they were made in, each once."""
        outside = self._hosts(requests.source) != self._hosts(requests.destination)
        keys = np.stack([requests.source, requests.message, requests.payload_bytes], axis=1)[outside]
        return int(np.unique(keys, axis=0)[:, 2].sum()) if len(keys) else 0

    def _hosts(self, devices: np.ndarray) -> np.ndarray:
        return self._host[np.asarray(devices, np.int64)]

    def plan(
        self, round_index: int, transfers: Transfers, ready_s: np.ndarray, compute_energy_j: np.ndarray
    ) -> RoundPlan:
        """See `Backend.plan`."""
        call = self._channel.call("plan", round_index, transfers, ready_s, compute_energy_j)
        return self._channel.result(call)

    def move(self, positions_m: np.ndarray, velocity_mps: np.ndarray | None, graph: CommGraph | None) -> None:
        """See `Backend.move`; the graph goes with every `train`, for replacements of actors that begin there."""
        self._channel.result(self._channel.call("move", positions_m, velocity_mps))
        if graph is not None:
            self._graph = ray.put(graph)
            self._replay_bytes += len(pickle.dumps(graph, 5)) if self._replaces else 0

    def exchange(self, round_index: int, outcomes: TransferOutcomes) -> list[ExchangeReport]:
        """See `Backend.exchange`; each actor gets only the outcomes and bundles that concern it."""
        requests, delivered = outcomes.requests, outcomes.delivered
        sources, destinations = self._hosts(requests.source), self._hosts(requests.destination)
        node = np.unique(self._node_placement.node_of, return_inverse=True)[1]
        across = delivered & (node[sources] != node[destinations])
        self._crossing_bytes += int(requests.payload_bytes[across].sum())
        calls: list[Call] = []
        for number, group in enumerate(self._groups):
            mine = (sources == number) | (destinations == number)
            senders = np.unique(sources[(destinations == number) & (sources != number) & delivered])
            bundles = [Answer(self._groups[s], self._bundles[s], 1) for s in senders.tolist()]
            calls.append(
                group.call(
                    "exchange",
                    round_index,
                    outcomes.select(mine),
                    *bundles,
                )
            )
        reports = self._results(self._groups, calls)
        self._bundles = []
        return reports

    def evaluate(
        self, round_index: int, rules: Sequence[str], references: Mapping[int, np.ndarray] | None
    ) -> list[EvaluationReport]:
        """See `Backend.evaluate`; the base model is asked by one actor only."""
        asked = self._groups[:1] if round_index == 0 else self._groups
        shared = None if references is None else ray.put(references)
        calls = [g.call("evaluate", round_index, tuple(rules), shared, changes_state=False) for g in asked]
        self._asked = asked
        reports = self._results(asked, calls)
        self._asked = ()
        forget(self._progress_key)
        return reports

    def full_sketches(self) -> dict[int, np.ndarray]:
        """See `Backend.full_sketches`."""
        calls = [g.call("full_sketches", changes_state=False) for g in self._groups]
        return {t: s for g, c in zip(self._groups, calls, strict=True) for t, s in g.result(c).items()}

    def snapshot(self) -> BackendState:
        """See `Backend.snapshot`."""
        channel = self._channel.result(self._channel.call("snapshot", changes_state=False))
        return BackendState(self._device_snapshots(), channel)

    def _device_snapshots(self) -> Iterator[Snapshot]:
        """State of the devices, part by part; each actor makes one ahead of what is taken."""
        calls = [g.call("parts", changes_state=False) for g in self._groups]
        parts = [g.result(c) for g, c in zip(self._groups, calls, strict=True)]
        turns = itertools.zip_longest(
            *([(g, p) for p in ps] for g, ps in zip(self._groups, parts, strict=True))
        )
        under_way: deque[tuple[RecoverableActor, Call]] = deque()
        for group, part in filter(None, itertools.chain.from_iterable(turns)):
            under_way.append((group, group.call("snapshot", part, changes_state=False)))
            if len(under_way) > len(self._groups):
                first, call = under_way.popleft()
                yield first.result(call)
        for group, call in under_way:
            yield group.result(call)

    def recover_from(self, state: SavedState) -> None:
        """See `Backend.recover_from`; parts are read when an actor is lost, so that none waits in memory."""
        self._replay_bytes = 0
        self._actor_set.kept.forget()
        for group, devices in zip(self._groups, self.packing.groups, strict=True):
            group.set_recovery_point(partial(_stored, state.devices, devices))
        channel = ray.put(state.channel)
        self._channel.set_recovery_point(lambda: [channel])

    def restore(self, state: SavedState) -> None:
        """See `Backend.restore`."""
        self.recover_from(state)
        for actor in [*self._groups, self._channel]:
            actor.restore()

    def object_store_bytes(self) -> int:
        """Bytes of messages that left their actor since the last call."""
        stored, self._stored_bytes = self._stored_bytes, 0
        return stored

    def replay_bytes(self) -> int:
        """Bytes kept for replays since the last recovery point: in the object store, and as arguments here."""
        return self._replay_bytes + self._actor_set.kept.total

    def node_crossing_bytes(self) -> int:
        """Bytes of delivered messages whose ends lie on different nodes, each receiver counted, since the last call."""
        crossed, self._crossing_bytes = self._crossing_bytes, 0
        return crossed

    def memory(self) -> list[dict[str, int]]:
        """Memory of every device actor's process."""
        calls = [g.call("memory", changes_state=False) for g in self._groups]
        return [g.result(c) for g, c in zip(self._groups, calls, strict=True)]

    def close(self) -> None:
        """End all actors."""
        forget(self._progress_key)
        for actor in self._actor_set.members:
            ray.kill(actor.handle)
        self._node_placement.release()


def _stored(parts: SavedParts, devices: Sequence[int]) -> Iterator[Any]:
    """References to the parts that hold some devices, copied from disk into the object store one after the other."""
    return map(ray.put, parts.of(devices))


def _none_ready() -> str:
    context = ray.get_runtime_context()
    logs = os.path.join(context.get_temp_dir(), context.get_session_name(), "logs")
    return (
        f"No actor is ready after {START_NOTICE_S:.0f} s: the machine is busy or short of memory, or Ray's workers end "
        f"as they start; what they say is in {logs}. They are waited for (`runtime.actor_timeout_s`); Ctrl-C ends the "
        "run."
    )


def _beside_the_driver() -> dict[str, Any]:
    """Ray's options for an actor that asks for no resources and runs on the driver's node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(own_node(), soft=True)}
