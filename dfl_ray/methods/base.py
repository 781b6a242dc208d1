"""What a learning method is: how a device's adapters start, what it sends, how it takes in what arrives.

A method holds no state of its own. All state of a device is in its `Device` record (adapters, moments, memory,
marks), so that snapshots, restores and moves between processes are the same for every method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from dfl_ray.config.methods import TrainingConfig
from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.network.comm_graph import CommGraph
from dfl_ray.wire.message import Kind

Factors = tuple[torch.Tensor, torch.Tensor]
"""A and B of one layer."""


@dataclass
class Device:
    """The whole state of one device.

    Attributes:
        index: The device.
        adapter_tasks: Task index of each adapter it trains, or -1 for one adapter shared by all its tasks.
        state: Its adapters and moments: rows of the group's tensors.
        memory: Named arrays a method keeps (masks, residuals, published updates).
        marks: Named integers a method keeps (versions seen, acknowledged).
    """

    index: int
    adapter_tasks: tuple[int, ...]
    state: AdapterState
    memory: dict[str, np.ndarray] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outgoing:
    """One message a device wants sent: the same bytes to each destination."""

    kind: Kind
    task: int
    destinations: tuple[int, ...]
    payload: bytes


@dataclass(frozen=True)
class Delivery:
    """What became of one of a device's own messages: who of its destinations got it."""

    kind: Kind
    task: int
    version: int
    reached: tuple[int, ...]


@dataclass(frozen=True)
class Expert:
    """An adapter a device can answer with.

    Attributes:
        key: A name that is equal exactly for equal contents.
        values: (size,) its values, by the method's layout.
        frozen: One further (R, d) and (m, R) pair a layer that is added to them, or None.
    """

    key: tuple[Any, ...]
    values: torch.Tensor
    frozen: Sequence[Factors] | None = None


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


class Method(Protocol):
    """One learning method; see the module's text for who owns which state."""

    @property
    def layout(self) -> Layout:
        """Where the trained factors lie in one adapter."""
        ...

    def adapter_tasks(self, device: int) -> tuple[int, ...]:
        """Tasks of the adapters a device trains; (-1,) for one shared adapter."""
        ...

    def sources(self, device: int) -> tuple[int, ...]:
        """The devices whose rows a device trains on: itself; a device with none has no model and isn't asked."""
        ...

    def start(self, device: int) -> torch.Tensor:
        """The device's first adapters, (adapters, layout.size)."""
        ...

    def static_a(self, owners: Sequence[tuple[int, int]]) -> list[torch.Tensor] | None:
        """A of each (device, adapter task), one (owners, r, d) stack a layer; None when A is in the layout."""
        ...

    def frozen(self, devices: Sequence[Device]) -> list[Factors] | None:
        """What each device adds to its adapter without training it: (adapters, R, d) and (adapters, m, R) a layer."""
        ...

    def begin(self, device: Device, round_index: int) -> None:
        """Called before the local steps of a round, e.g. to put a new mask in force."""
        ...

    def keep(self, device: Device, round_index: int) -> torch.Tensor | None:
        """(adapters, size) bool of the entries that may change in this round; None = all."""
        ...

    def outgoing(self, device: Device, round_index: int) -> list[Outgoing]:
        """The messages the device wants sent after its local steps."""
        ...

    def incoming(
        self,
        device: Device,
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Take in what arrived and what became of own messages.

        Returns:
            Refused messages, counted by reason.
        """
        ...

    def expert(self, device: Device, task: int) -> Expert | None:
        """The adapter a device would answer a task with if it knew the task; None = it has none yet."""
        ...

    def sketches(self, device: Device) -> tuple[tuple[object, ...], np.ndarray] | None:
        """Key and (T, layers, n, n) sketches the device's router uses (NaN where unknown); None = no router."""
        ...

    def density(self, device: Device) -> float:
        """Share of the adapter's values that may be non-zero, mean over the device's adapters."""
        ...

    def masks(self, device: Device) -> dict[int, np.ndarray]:
        """Task -> (size,) bool of the masks in force, for tasks this device is the author of."""
        ...
