"""What goes into a group and what comes out of it: plain, picklable records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the channel's process reads these records too and must not import torch for them
    from dfl_ray.config.schema import Config
    from dfl_ray.lora.layout import LayerShape
    from dfl_ray.lora.warm import WarmStart
    from dfl_ray.models.weights import BaseWeights
    from dfl_ray.network.comm_graph import CommGraph
    from dfl_ray.network.traffic import TransferRequests
    from dfl_ray.tasks.tokens import TokenTask

Payloads = dict[tuple[int, int], bytes | memoryview]
"""(source device, message number) -> bytes of one message, or a view of them in the object store."""


@dataclass(frozen=True)
class GroupSetup:
    """All that is the same for every group of a run; put into the object store once.

    Attributes:
        config: The experiment.
        weights: The frozen base model.
        tasks: All tasks as tokens.
        layers: The adapted layers.
        router_layers: Indices of the layers the likelihood router looks at.
        held: Device -> tasks it holds.
        shares: Device -> its mixture over `held[device]`, sums to 1.
        rows: Device -> for each held task the indices of its training rows.
        graph: Who exchanges what with whom.
        run: Low 32 bits of the run's identity.
        projections: The static A of all devices, see `methods.base.Context`.
        warm: The adapter that all devices start from; None = the method's own start.
        ups: The static U^T of a core, see `methods.base.Context`.
        cores: The first cores where they are not 0, see `methods.base.Context`.
    """

    config: Config
    weights: BaseWeights
    tasks: tuple[TokenTask, ...]
    layers: tuple[LayerShape, ...]
    router_layers: tuple[int, ...]
    held: Mapping[int, tuple[int, ...]]
    shares: Mapping[int, np.ndarray]
    rows: Mapping[int, tuple[np.ndarray, ...]]
    graph: CommGraph
    run: int
    projections: tuple[np.ndarray, ...] = ()
    warm: WarmStart | None = None
    ups: tuple[np.ndarray, ...] = ()
    cores: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class TrainReport:
    """What a group did in the local steps; arrays are per device, in the order of `devices`.

    Attributes:
        devices: (devices,) int64, device numbers.
        loss: (devices,) mean over the device's adapters of their mean token loss in nats; NaN without rows.
        gradient_norm: (devices,) mean over its adapters of the mean gradient norm before clipping; NaN without rows.
        tokens: (devices,) int64, tokens trained on, summed over its adapters.
        finite: (devices,) bool, whether every loss and gradient norm was finite and the trained adapters are in the
            range of float16 (`lora.optimizer.in_range`).
        requests: The messages the devices want sent.
        busy_s: Wall time of the work in seconds.
    """

    devices: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    tokens: np.ndarray
    finite: np.ndarray
    requests: TransferRequests
    busy_s: float


@dataclass(frozen=True)
class ExchangeReport:
    """What a group took in.

    Attributes:
        devices: (devices,) int64, device numbers.
        refused: For each device reason -> number of messages refused.
        received_bytes: (devices,) int64, bytes of all messages that arrived, refused ones included.
        busy_s: Wall time of the work in seconds.
        messages: (devices,) int64, messages taken in; None where all devices wait for each other.
        age_rounds: (devices,) mean age of these in local rounds (`network.local_rounds.Letter`), NaN without any;
            None likewise.
    """

    devices: np.ndarray
    refused: tuple[Mapping[str, int], ...]
    received_bytes: np.ndarray
    busy_s: float
    messages: np.ndarray | None = None
    age_rounds: np.ndarray | None = None


@dataclass(frozen=True)
class EvaluationReport:
    """Accuracy rows and state metrics of a group.

    Attributes:
        rows: Columns device, task, rule, right, asked, routed_right (NaN unless a router chose).
        sums: Adapter task -> (count, sum of the folded updates over holders, sum of their squared norms;
        `devices.consensus`),
            for the consensus distance.
        masks: Task -> an author of the task and its (size,) bool mask in force; where a graph in parts has several, the
            one with the smallest index here.
        density: Device -> share of values kept.
        staleness: Device -> mean age in rounds of the replicas it answers with.
        busy_s: Seconds of work.
        experts: Columns device, task, author, version of what each device answers with: its author is -1 where it has
            nothing, its version -1 unless it is a replica.
        routing: Columns device, rule, task, chosen, rows: held-out rows of a task sent to the expert of another.
        attacked: Answers with the trigger that are the attacker's, and how many were asked; 0 without a backdoor.
    """

    rows: dict[str, list[object]]
    sums: dict[int, tuple[int, np.ndarray, float]]
    masks: dict[int, tuple[int, np.ndarray]]
    density: dict[int, float]
    staleness: dict[int, float]
    busy_s: float
    experts: dict[str, list[object]] = field(default_factory=dict)
    routing: dict[str, list[object]] = field(default_factory=dict)
    attacked: tuple[float, int] = (0.0, 0)


@dataclass(frozen=True)
class Snapshot:
    """The state of some devices: arrays and numbers by name; never pickled to disk.

    Attributes:
        arrays: Name -> array; the names begin with `<device>/`.
        numbers: Device (as text) -> name -> number; every device of the snapshot has an entry.
    """

    arrays: dict[str, np.ndarray]
    numbers: dict[str, dict[str, int | float | bool]] = field(default_factory=dict)


def contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays in C order, as files and shared memory need them.

    Args:
        arrays: Name -> array.

    Returns:
        Name -> array, copied where it lay otherwise.
    """
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
