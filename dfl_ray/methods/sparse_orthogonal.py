"""Sparse-and-orthogonal LoRA: one expert per task with a static A_t, masked B_t, exact averaging inside the task.

Delta W_t = s B_t A_t with A_i A_j^T = 0 between tasks, A_t shared by all holders of task t, so that averaging B_t
is exact: mean(B) A = mean(B A). Only the kept values of B_t travel. Experts of tasks a device does not hold are
versioned read-only replicas that the task's author publishes every E rounds.

`TaskExperts` is what every method with an expert a task has: adapters, exchange among holders, replicas, sketches. What
its experts are made of is the subclass's; the controls are in `methods.per_task`.

Source: arXiv 2602.20492; departures are named in `lora.projection`, `wire.codec` and `methods.pruning`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final
from weakref import WeakValueDictionary

import numpy as np
import torch

from dfl_ray.config.methods import PerTaskConfig
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.masks import effective_rank
from dfl_ray.lora.projection import drawn_projections
from dfl_ray.lora.stacks import task_stacks, tensors_of
from dfl_ray.methods import published
from dfl_ray.methods.aggregations import Arrival
from dfl_ray.methods.base import Context, Delivery, Device, Expert, Factors, Outgoing
from dfl_ray.methods.exchange import Exchange, Part
from dfl_ray.methods.expert_law import PUBLISHED_KINDS, ExpertLaw
from dfl_ray.methods.gossip import finite_values, sort_by_kind, used_once
from dfl_ray.methods.laws import Planned
from dfl_ray.methods.pruning import ExpertState, Pruning
from dfl_ray.methods.spec import method_spec
from dfl_ray.wire.codec import CodecError, decode_mask, decode_values, encode_mask, encode_values
from dfl_ray.wire.message import Kind, Message, MessageError, Refusal, mask_hash, pack, unpack
from dfl_ray.wire.sketch import decode_sketch, encode_sketch


class TaskExperts(ABC):
    """One expert a task, averaged among its holders and replicated to everybody; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        if not isinstance(context.config, PerTaskConfig):
            raise TypeError(f"no section of a method with an expert a task: {type(context.config).__name__}")
        self.context = context
        self.config = context.config
        self.layout = Layout(context.layers, context.config.rank, method_spec(context.config).trains)
        self.law = ExpertLaw(context.law_context(self.layout))
        self.pruning = Pruning(context, self.layout)
        self.exchange = Exchange(context, self.layout.size)
        self._drawn: dict[int, tuple[np.ndarray, ...]] = {}
        self._decoded: dict[tuple[object, ...], np.ndarray] = {}
        # Thousands of devices answer with the same few replicas; they are held while an evaluation goes on.
        self._replicas: WeakValueDictionary[tuple[object, ...], Expert] = WeakValueDictionary()

    def adapter_tasks(self, device: int) -> tuple[int, ...]:
        """One adapter for each task the device holds."""
        return self.context.held[device]

    def memory(self, device: int) -> ExpertState:
        """Nothing held and nothing known but what the traffic law starts with."""
        return ExpertState(self.law.start(device))

    def start(self, device: int) -> torch.Tensor:
        """B = 0, of methods that train B alone."""
        return torch.zeros(len(self.adapter_tasks(device)), self.layout.size)

    @abstractmethod
    def static_a(self, owners: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor] | None:
        """See `Method.static_a`."""

    def projections(self, device: int = 0) -> Sequence[np.ndarray]:
        """Give A of all tasks for every layer: the run's draw, or a device's own under `projection: per_device`.

        Args:
            device: Whose; it matters under `method.projection: per_device` alone, where it is drawn when first asked
                for (`lora.projection.drawn_projections`).

        Returns:
            One (T, r, d) float32 a layer.
        """
        if self.config.projection != "per_device":
            return self.context.projections
        if device not in self._drawn:
            self._drawn[device] = drawn_projections(
                self.context.seed, self.context.layers, tasks=self.context.tasks, rank=self.config.rank,
                kind="per_device", device=device,
            )  # fmt: skip
        return self._drawn[device]

    def router_a(self, device: int) -> Sequence[torch.Tensor]:
        """Give the projections through which the router sees inputs: those of `projections`, without copies."""
        return tensors_of(self.projections(device))

    def frozen(self, devices: Sequence[Device[ExpertState]]) -> list[Factors] | None:
        """Nothing."""
        return None

    def begin(self, device: Device[ExpertState], round_index: int) -> None:
        """Put due masks in force."""
        for adapter_index, task in enumerate(device.adapter_tasks):
            version = self.law.activate(device.memory.law, task, round_index)
            if version:
                self.pruning.apply(device, task, adapter_index, version)
            self.exchange.begin(device, self._part(device, task))

    def keep(self, device: Device[ExpertState], round_index: int) -> torch.Tensor | None:
        """Give the masks in force, outside which B may not change.

        Args:
            device: The device.
            round_index: Not used.

        Returns:
            (adapters, size) bool; None while all its tasks are dense.
        """
        masks = [self.pruning.current(device, task) for task in device.adapter_tasks]
        if all(m is None for m in masks):
            return None
        full = np.ones(self.layout.size, bool)
        return torch.from_numpy(np.stack([full if m is None else m for m in masks]))

    def outgoing(self, device: Device[ExpertState], round_index: int) -> list[Outgoing]:
        """Fill what the traffic law asks for: published updates owed to tree children, kept values to neighbours.

        Args:
            device: The sender; what it publishes in this round is made first and kept.
            round_index: The round, from 1.

        Returns:
            The messages with their bytes, in the law's order.
        """
        traffic = device.memory.law
        for update in self.law.publications(device.index, traffic, round_index):
            self.law.publish(traffic, self._publish(device, update, round_index))
        return [
            self.exchange.message(device, self._part(device, planned.task), planned)
            if planned.kind is Kind.ADAPTER
            else self._passed_on(device, planned)
            for planned in self.law.messages(device.index, traffic, round_index)
        ]

    def incoming(
        self,
        device: Device[ExpertState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average B_t with same-task neighbours, B_t,i <- sum_j W_ij B_t,j, and keep newer published updates.

        Arguments and result are those of `Method.incoming`.
        """
        for delivery in sent:
            self.law.delivered(device.index, device.memory.law, delivery.planned, delivery.reached)
        refused: Counter[str] = Counter()
        messages = sort_by_kind(received, run=self.context.run, round_index=round_index, refused=refused)
        for kind in PUBLISHED_KINDS:
            for message in messages.get(kind, []):
                self._checked(refused, self._take_update, device, message)
        arrived: dict[int, dict[int, Arrival]] = {}
        for message in messages.get(Kind.ADAPTER, []):
            self._checked(refused, self._take_values, device, message, arrived)
        for task in device.adapter_tasks:
            part = self._part(device, task)
            if arrived.get(task) or self.exchange.pending(device, part):
                weights = self.context.graph.task_weights[task]
                self.exchange.mix(device, part, arrived.get(task, {}), weights, sent)
        return refused

    def expert(self, device: Device[ExpertState], task: int) -> Expert | None:
        """Give own B_t if the device holds the task, else the newest replica it has received.

        Args:
            device: The device.
            task: The task.

        Returns:
            The expert; None where no replica has arrived yet.

        Raises:
            MessageError: The replica held does not decode.
        """
        if task in device.adapter_tasks:
            return Expert(("own", device.index, task), device.state.theta[device.adapter_tasks.index(task)])
        maker = published.maker(device.memory, Kind.EXPERT, task)
        if maker is None:
            return None
        key = ("replica", task, *maker)
        found = self._replicas.get(key)
        if found is None and (message := published.held(device.memory, Kind.EXPERT, task)) is not None:
            found = self._replicas[key] = Expert(key, torch.from_numpy(self._expert_values(message)))
        return found

    def sketches(self, device: Device[ExpertState]) -> tuple[tuple[object, ...], Callable[[], np.ndarray]]:
        """Give the published sketches the device holds.

        Args:
            device: The device.

        Returns:
            A key, author and version of each task's sketch, and what decodes them: (T, layers, T*r, T*r) float64, NaN
            for tasks whose sketch has not arrived.
        """
        key = tuple(published.maker(device.memory, Kind.SKETCH, t) for t in range(self.context.tasks))
        return key, lambda: self._decoded_sketches(device, key)

    def _decoded_sketches(self, device: Device[ExpertState], key: tuple[object, ...]) -> np.ndarray:
        if key not in self._decoded:
            layers, width = len(self.context.router_layers), self.context.tasks * self.config.rank
            out = np.full((self.context.tasks, layers, width, width), np.nan)
            for task in range(self.context.tasks):
                if (message := published.held(device.memory, Kind.SKETCH, task)) is not None:
                    out[task] = self._sketch_of(message)
            self._decoded = {key: out}  # only the last: devices of one cluster hold the same
        return self._decoded[key]

    def density(self, device: Device[ExpertState]) -> float:
        """Share of B's entries that may be non-zero, mean over the device's tasks, in (0, 1]."""
        masks = [self.pruning.current(device, task) for task in device.adapter_tasks]
        return float(np.mean([1.0 if m is None else m.mean() for m in masks]))

    def masks(self, device: Device[ExpertState]) -> dict[int, np.ndarray]:
        """Task -> (size,) bool of the masks in force, where this device is the author; all True while dense."""
        dense = np.ones(self.layout.size, bool)
        found = {t: self.pruning.current(device, t) for t in self.law.authored(device.index)}
        return {t: dense if m is None else m for t, m in found.items()}

    def _passed_on(self, device: Device[ExpertState], planned: Planned) -> Outgoing:
        """A published update as it is held; an expert's values can be compared with those of an older one."""
        data = device.memory.updates[planned.kind, planned.task].tobytes()
        if planned.kind is not Kind.EXPERT:
            return Outgoing(planned, data)
        return Outgoing(planned, data, lambda: self._expert_values(unpack(data)))

    def _publish(self, device: Device[ExpertState], update: Planned, round_index: int) -> Planned:
        """Make and keep the bytes of an update this device is the author of; returns it with its real length."""
        mask: np.ndarray | None = None
        if update.kind is Kind.MASK:
            density = self.law.density_due(device.index, device.memory.law, update.task, round_index)
            assert density is not None, "the law has planned a mask"
            message, mask = self.pruning.message(device, update, density, self._scores(device, update.task))
            self.pruning.store(device, update.task, update.version, mask)
        else:
            message = self._message(device, update)
        data = pack(message)
        published.store(device.memory, message, data)
        kept = update.kept if mask is None else int(mask.sum())
        return replace(update, payload_bytes=len(data), kept=kept)

    def _message(self, device: Device[ExpertState], update: Planned) -> Message:
        kind, task, precision, kept = update.kind, update.task, self.config.precision, 0
        if kind is Kind.BID:
            assert self.pruning.bidding is not None
            adapter_index = device.adapter_tasks.index(task)
            return self.pruning.bidding.message(device, task, adapter_index, update.version)
        if kind is Kind.SKETCH:
            precision = self.config.sketch_precision
            body = encode_sketch(
                self.context.sketch(device.index, task, self.context.router_layers), precision
            )
        elif kind is Kind.PROJECTION:
            precision = "float32"
            body = encode_values(self._projection(device, task), precision)
        else:
            body, kept = self._expert_body(device, task)
        return Message(kind, task, device.index, update.version, self.context.run, kept, precision, body)

    def _projection(self, device: Device[ExpertState], task: int) -> np.ndarray:
        return np.concatenate([p[task].ravel() for p in self.projections(device.index)])

    def _expert_body(self, device: Device[ExpertState], task: int) -> tuple[bytes, int]:
        """The mask, the values it keeps, and the mask's hash."""
        mask = self.pruning.current(device, task)
        dense = np.ones(self.layout.size, bool) if mask is None else mask
        packed = encode_mask(dense)
        flat = device.state.theta[device.adapter_tasks.index(task)].cpu().numpy()
        values = encode_values(flat[dense], self.config.precision)
        return len(packed).to_bytes(4, "little") + packed + values, mask_hash(dense)

    def _part(self, device: Device[ExpertState], task: int) -> Part:
        mask = self.pruning.current(device, task)
        adapter_index = device.adapter_tasks.index(task)
        return Part(str(task), task, adapter_index, mask, 0 if mask is None else mask_hash(mask))

    @staticmethod
    def _checked(refused: Counter[str], take: object, *args: object) -> None:
        try:
            take(*args)  # type: ignore[operator]
        except MessageError as error:
            refused[error.refusal.value] += 1

    def _take_values(
        self, device: Device[ExpertState], message: Message, arrived: dict[int, dict[int, Arrival]]
    ) -> None:
        task = message.task
        if message.sender not in self.context.graph.task_weights.get(task, {}).get(device.index, {}):
            raise MessageError(Refusal.FOREIGN, f"task {task} from device {message.sender}")
        mine, part = arrived.setdefault(task, {}), self._part(device, task)
        with self.exchange.share_kept(device, part, message, mine), used_once(device, message):
            mask = self.pruning.by_hash(device, task, message.mask_hash)
            self.exchange.add(mine, message.sender, self.exchange.read(message, mask))

    def _take_update(self, device: Device[ExpertState], message: Message) -> None:
        if not self.context.graph.authored_by(message.sender, message.task, device.index):
            raise MessageError(Refusal.FOREIGN, f"task {message.task} is not authored by {message.sender}")
        if self.context.graph.since and self._has_it(device, message):
            return
        with used_once(device, message):
            self._keep_update(device, message)

    def _has_it(self, device: Device[ExpertState], message: Message) -> bool:
        """Whether a device holds the very update: after its tree has changed another device may send it again."""
        return published.maker(device.memory, message.kind, message.task) == (message.sender, message.version)

    def _keep_update(self, device: Device[ExpertState], message: Message) -> None:
        """Check what an update says and keep it if the traffic law accepts it."""
        kept = in_force = 0
        mask: np.ndarray | None = None
        if message.kind is Kind.MASK:
            mask, in_force = self.pruning.read(message)
            kept = int(mask.sum())
        else:
            if message.kind is Kind.EXPERT and not np.isfinite(self._expert_values(message)).all():
                raise MessageError(Refusal.NOT_FINITE, f"expert of task {message.task}")
            if message.kind is Kind.SKETCH and not np.isfinite(self._sketch_of(message)).all():
                raise MessageError(Refusal.NOT_FINITE, f"sketch of task {message.task}")
            if message.kind is Kind.BID:
                self.pruning.check_bid(message)
            if message.kind is Kind.PROJECTION:
                self._check_projection(device, message)
        data = pack(message)
        update = published.as_planned(message, len(data), kept=kept, in_force=in_force)
        if self.law.accept(device.memory.law, update):
            published.store(device.memory, message, data)
            if mask is not None and message.task in device.adapter_tasks:
                self.pruning.store(device, message.task, message.version, mask)

    def _sketch_of(self, message: Message) -> np.ndarray:
        layers, width = len(self.context.router_layers), self.context.tasks * self.config.rank
        try:
            return decode_sketch(message.body, message.precision, layers, width)
        except CodecError as error:
            raise MessageError(Refusal.CORRUPTED, str(error)) from error

    def _expert_values(self, message: Message) -> np.ndarray:
        length = int.from_bytes(message.body[:4], "little")
        try:
            mask = decode_mask(message.body[4 : 4 + length], self.layout.size)
            values = decode_values(message.body[4 + length :], message.precision, int(mask.sum()))
        except CodecError as error:
            raise MessageError(Refusal.CORRUPTED, str(error)) from error
        out = np.zeros(self.layout.size, np.float32)
        out[mask] = values
        return out

    def _check_projection(self, device: Device[ExpertState], message: Message) -> None:
        own = self._projection(device, message.task)
        if not np.array_equal(finite_values(message.body, "float32", len(own)), own):
            raise MessageError(Refusal.FOREIGN, f"A of task {message.task} differs from the device's own")

    def _scores(self, device: Device[ExpertState], task: int) -> list[float] | None:
        """The layers' scores, where the budget goes by them."""
        if self.law.exact_masks:
            return None
        return [effective_rank(c) for c in self.context.sketch(device.index, task, None)]


@final
class SparseOrthogonal(TaskExperts):
    """Sparse-and-orthogonal LoRA: B_t alone is trained and stored, under A_t that no other task shares.

    Args:
        context: The run.
    """

    def static_a(self, owners: Sequence[tuple[int, int]]) -> Sequence[torch.Tensor] | None:
        """Give A_t of each owner's task, cut from the layer's projections.

        Args:
            owners: (device, task) of each adapter.

        Returns:
            One (owners, r, d) float32 stack a layer, a view where the tasks are neighbours.
        """
        if self.config.projection != "per_device":
            return task_stacks(tensors_of(self.context.projections), [t for _, t in owners])
        return [
            torch.from_numpy(np.stack([self.projections(d)[i][t] for d, t in owners]))
            for i in range(len(self.context.layers))
        ]
