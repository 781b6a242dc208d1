"""What a learning method is: how a device's adapters start, what it sends, how it takes in what arrives.

A method holds no state of its own. All state of a device is in its `Device` record: adapters and moments, and a
dataclass that the method declares. Snapshots, restores and moves between processes are written once for dataclasses
of arrays and numbers (`devices.snapshots`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from dfl_ray.config.methods import TrainingConfig
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.lora.warm import WarmStart
from dfl_ray.methods.changes import Told
from dfl_ray.methods.faults import Faults
from dfl_ray.methods.laws import LawContext, Planned, TrafficLaw
from dfl_ray.methods.private_updates import PrivateUpdates
from dfl_ray.methods.waiting import Waiting
from dfl_ray.network.comm_graph import CommGraph

Factors = tuple[torch.Tensor, torch.Tensor]
"""A and B of one layer."""


@dataclass
class MethodState:
    """What every method keeps of a device; a method declares what more it keeps in a subclass.

    Attributes:
        traffic: The state of the method's traffic law.
        seen: (kind, task, sender) -> version of the newest message used, so that a replay is refused.
        updates: (kind, task) -> (bytes,) uint8 of the published update the device holds.
        told: What it knows its receivers to have, where messages are ordered by what is new in them.
    """

    traffic: Any
    seen: dict[tuple[int, int, int], int] = field(default_factory=dict)
    updates: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    told: Told = field(default_factory=Told)


S = TypeVar("S", bound=MethodState)
S_co = TypeVar("S_co", bound=MethodState, covariant=True)


@dataclass
class Device(Generic[S_co]):
    """The whole state of one device.

    Attributes:
        index: The device.
        adapter_tasks: Task index of each adapter it trains, or -1 for one adapter shared by all its tasks.
        state: Its adapters and moments: rows of the group's tensors.
        memory: What the method keeps besides.
        waiting: Where devices do not wait for each other, what is under way to and from it.
        trust: Sender -> factor on the mixing weight of its message, in (0, 1], while messages are taken in; those that
            are not there count 1.
    """

    index: int
    adapter_tasks: tuple[int, ...]
    state: AdapterState
    memory: S_co
    waiting: Waiting = field(default_factory=Waiting)
    trust: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outgoing:
    """One message a device wants sent.

    Attributes:
        planned: What the traffic law says of it.
        payload: Its bytes, as many as the law says.
        values: Gives the (size,) trained values that it says, for `methods.changes`; None: of an adapter the sender's
            own, and of anything else none that could be compared.
    """

    planned: Planned
    payload: bytes
    values: Callable[[], np.ndarray] | None = None

    def __post_init__(self) -> None:
        """Hold the message to its law."""
        assert len(self.payload) == self.planned.payload_bytes, (
            f"{self.planned.kind.name} of task {self.planned.task} has {len(self.payload)} bytes, "
            f"its traffic law says {self.planned.payload_bytes}"
        )


@dataclass(frozen=True)
class Delivery:
    """What became of one of a device's own messages.

    Attributes:
        planned: What the traffic law said of it.
        reached: Those of its destinations that got it.
    """

    planned: Planned
    reached: tuple[int, ...]


@dataclass(frozen=True)
class Expert:
    """An adapter a device can answer with.

    Attributes:
        origin: Where it comes from: ("own", device, task), or ("replica", task, author, version).
        values: (size,) its values, by the method's layout.
        frozen: Gives one further (R, d) and (m, R) pair a layer that is added to them, or None: they may be of the size
            of the base, and are made for as long as they are used.
        digest: Of all it answers with, what is frozen included, where adapters of different origin may be equal.
    """

    origin: tuple[Any, ...]
    values: torch.Tensor
    frozen: Callable[[], Sequence[Factors]] | None = None
    digest: bytes | None = None

    @property
    def owner(self) -> tuple[int, int]:
        """(device, task) whose static A it is multiplied with: the device that answers, or the author of a replica."""
        kind, first, second, *_ = self.origin
        return (first, second) if kind == "own" else (second, first)

    @property
    def key(self) -> Hashable:
        """A name that only equal contents share: the digest, or the origin where there is none."""
        return self.origin if self.digest is None else self.digest


@dataclass(frozen=True)
class Context:
    """What every method knows of the run.

    Attributes:
        config: The `method` section.
        seed: The run's seed.
        run: Low 32 bits of the run's identity; part of every message.
        rounds: Number of rounds, 1-based: the last round is `rounds`.
        layers: The adapted layers.
        tasks: Number of tasks T.
        held: Device -> the tasks it holds.
        graph: Who exchanges what with whom.
        sketch: (device, task, layer indices or None for all) -> the device's own input sketch of a task.
        router_layers: Layer indices the likelihood router looks at.
        projections: The static A of all devices, drawn once for the run: one (T, r, d) float32 a layer of an expert a
            task, one (1, r, d) of an adapter for all tasks; empty where A is trained or a device draws its own.
        faults: The devices that fail or attack.
        barrier: Whether all devices wait for each other in every round (`schedule: sync`).
        privacy: Clipping and noise on what is sent.
        warm: The adapter that all devices start from; None = the method's own start.
        ups: The static U^T of a core, one (r, m) float32 a layer; empty where no core is trained.
        cores: The diagonal of the first core of all devices, one (r,) float32 a layer; empty = the method's own start.
    """

    config: TrainingConfig
    seed: int
    run: int
    rounds: int
    layers: tuple[LayerShape, ...]
    tasks: int
    held: Mapping[int, tuple[int, ...]]
    graph: CommGraph
    sketch: Callable[[int, int, Sequence[int] | None], np.ndarray]
    router_layers: tuple[int, ...]
    projections: Sequence[np.ndarray] = ()
    faults: Faults = field(default_factory=Faults)
    barrier: bool = True
    privacy: PrivateUpdates = field(default_factory=PrivateUpdates)
    warm: WarmStart | None = None
    ups: Sequence[np.ndarray] = ()
    cores: Sequence[np.ndarray] = ()

    def law_context(self, layout: Layout) -> LawContext:
        """Make what the method's traffic law knows of the run.

        Args:
            layout: Where the trained factors lie in one adapter.

        Returns:
            The same run without layers and sketches.
        """
        return LawContext(
            self.config,
            self.rounds,
            self.tasks,
            self.held,
            self.graph,
            layout,
            len(self.router_layers),
            self.barrier,
            self.seed,
        )


class Method(Protocol):
    """One learning method; see the module's text for who owns which state."""

    @property
    def law(self) -> TrafficLaw:
        """What it sends: who, to whom, when and how many bytes."""
        ...

    @property
    def layout(self) -> Layout:
        """Where the trained factors lie in one adapter."""
        ...

    def adapter_tasks(self, device: int) -> tuple[int, ...]:
        """Tasks of the adapters a device trains; (-1,) for one shared adapter."""
        ...

    def memory(self, device: int) -> MethodState:
        """What the method keeps of a device, before the first round."""
        ...

    def start(self, device: int) -> torch.Tensor:
        """The device's first adapters, (adapters, layout.size); `first_adapters` puts a warm start into them."""
        ...

    def static_a(self, owners: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor] | None:
        """Give A of each adapter where it is not trained.

        Args:
            owners: (device, adapter task) of each adapter.

        Returns:
            One (owners, r, d) stack a layer; None when A is in the layout.
        """
        ...

    def router_a(self, device: int) -> Sequence[torch.Tensor] | None:
        """The (T, r, d) projections a layer through which a device's router sees inputs; None = no router."""
        ...

    def frozen(self, devices: Sequence[Device[Any]]) -> list[Factors] | None:
        """Give what each device adds to its adapter without training it.

        Args:
            devices: The devices of a group.

        Returns:
            One pair (adapters, R, d) and (adapters, m, R) a layer; None = nothing.
        """
        ...

    def begin(self, device: Device[Any], round_index: int) -> None:
        """Called before the local steps of a round, e.g. to put a new mask in force."""
        ...

    def keep(self, device: Device[Any], round_index: int) -> torch.Tensor | None:
        """(adapters, size) bool of the entries that may change in this round; None = all."""
        ...

    def outgoing(self, device: Device[Any], round_index: int) -> list[Outgoing]:
        """The messages the device wants sent after its local steps."""
        ...

    def incoming(
        self,
        device: Device[Any],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Take in what arrived and what became of own messages.

        Args:
            device: The receiver.
            round_index: The round, from 1.
            received: Messages that arrived, as bytes.
            sent: What became of the device's own messages.

        Returns:
            Refused messages, counted by reason.
        """
        ...

    def expert(self, device: Device[Any], task: int) -> Expert | None:
        """The adapter a device would answer a task with if it knew the task; None = it has none yet."""
        ...

    def sketches(self, device: Device[Any]) -> tuple[tuple[object, ...], Callable[[], np.ndarray]] | None:
        """What the device has received to route by; None = no router.

        Returns:
            A key, a name of each task's sketch or None; and what decodes them: (T, layers, n, n), NaN where unknown.
        """
        ...

    def density(self, device: Device[Any]) -> float:
        """Share of the adapter's values that may be non-zero, mean over the device's adapters."""
        ...

    def masks(self, device: Device[Any]) -> dict[int, np.ndarray]:
        """Task -> (size,) bool of the masks in force, for tasks this device is the author of."""
        ...


def first_adapters(method: Method, context: Context, devices: Sequence[int]) -> torch.Tensor:
    """Give the adapters that devices begin the run with: the method's start, and in it a warm start or first cores.

    Args:
        method: The method.
        context: The run.
        devices: Some devices, at least one.

    Returns:
        (adapters, layout.size) float32, device after device.

    Raises:
        InputError: A is not trained, and the method's own A is not the warm start's.
    """
    theta = torch.cat([method.start(d) for d in devices])
    for view, core in zip(method.layout.views(theta, "c"), context.cores, strict=False):
        view.copy_(torch.from_numpy(np.diag(core)))
    if context.warm is None:
        return theta
    context.warm.put(method.layout, theta)
    owners = [(d, t) for d in devices for t in method.adapter_tasks(d)][:1]
    static = method.static_a(owners) if owners else None
    if static is not None and not context.warm.is_in([a[0].cpu().numpy() for a in static]):
        raise InputError(
            f"The method {context.config.name} cannot start from `model.warm_start`",
            got="an A of its own that it does not train",
            expected="a method that trains A, or takes it from `Context.projections`",
        )
    return theta
