"""Sparse-and-orthogonal LoRA: one expert per task with a static A_t, masked B_t, exact averaging inside the task.

Delta W_t = s B_t A_t with A_i A_j^T = 0 between tasks, A_t shared by all holders of task t, so that averaging B_t
is exact: mean(B) A = mean(B A). Only the kept values of B_t travel. Experts of tasks a device does not hold are
versioned read-only replicas that the task's author publishes every E rounds.

Source: arXiv 2602.20492; departures are named in `lora.projection`, `lora.codec` and `methods.pruning`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.experts.sketch import decode_sketch, encode_sketch
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.masks import effective_rank
from dfl_ray.lora.projection import task_projections
from dfl_ray.methods import published
from dfl_ray.methods.base import Context, Delivery, Device, Expert, Factors, Outgoing
from dfl_ray.methods.exchange import Arrival, Exchange, Part
from dfl_ray.methods.gossip import exchange_due, note_seen, sort_by_kind
from dfl_ray.methods.pruning import Pruning
from dfl_ray.wire.codec import CodecError, decode_mask, decode_values, encode_mask, encode_values
from dfl_ray.wire.message import Kind, Message, MessageError, Refusal, mask_hash

PUBLISHED_KINDS = (Kind.PROJECTION, Kind.SKETCH, Kind.BID, Kind.MASK, Kind.EXPERT)


class SparseOrthogonal:
    """See the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        if not isinstance(context.config, SparseOrthogonalConfig):
            raise TypeError(
                f"sparse_orthogonal needs its own config section, got {type(context.config).__name__}"
            )
        self.context = context
        self.config = context.config
        self.rule = context.config.rule
        self.layout = Layout(context.layers, context.config.rank, ("b",))
        self.pruning = Pruning(context, self.layout)
        self.exchange = Exchange(context, self.layout.size)
        self._drawn: dict[int, list[np.ndarray]] = {}
        self._decoded: dict[tuple[object, ...], np.ndarray] = {}

    def adapter_tasks(self, device: int) -> tuple[int, ...]:
        """One adapter for each task the device holds."""
        return self.context.held[device]

    def sources(self, device: int) -> tuple[int, ...]:
        """Its own rows."""
        return (device,)

    def start(self, device: int) -> torch.Tensor:
        """B = 0."""
        return torch.zeros(len(self.adapter_tasks(device)), self.layout.size)

    def projections(self, device: int = 0) -> list[np.ndarray]:
        """(T, r, d) float64 of every layer, as this device draws them; drawn once."""
        drawn = device if self.config.projection == "per_device" else 0
        if drawn not in self._drawn:
            self._drawn[drawn] = [
                task_projections(
                    self.context.seed, layer, tasks=self.context.tasks, rank=self.config.rank,
                    kind=self.config.projection, device=drawn,
                )
                for layer in self.context.layers
            ]  # fmt: skip
        return self._drawn[drawn]

    def static_a(self, owners: Sequence[tuple[int, int]]) -> list[torch.Tensor] | None:
        """A_t of each owner's task, cut from the layer's projections."""
        return [
            torch.from_numpy(np.stack([self.projections(d)[i][t] for d, t in owners])).float()
            for i in range(len(self.context.layers))
        ]

    def frozen(self, devices: Sequence[Device]) -> list[Factors] | None:
        """Nothing."""
        return None

    def begin(self, device: Device, round_index: int) -> None:
        """Put due masks in force; in the first round publish what the tasks' authors owe to all."""
        for adapter_index, task in enumerate(device.adapter_tasks):
            self.pruning.activate(device, task, adapter_index, round_index)
            self.exchange.begin(device, self._part(device, task, adapter_index))
        if round_index == 1:
            for task in self._authored(device):
                self._publish_sketch(device, task)
                if self.config.a_exchange == "send":
                    self._publish_projection(device, task)

    def keep(self, device: Device, round_index: int) -> torch.Tensor | None:
        """The masks in force."""
        masks = [self.pruning.current(device, task) for task in device.adapter_tasks]
        if all(m is None for m in masks):
            return None
        full = np.ones(self.layout.size, bool)
        return torch.from_numpy(np.stack([full if m is None else m for m in masks]))

    def outgoing(self, device: Device, round_index: int) -> list[Outgoing]:
        """Kept values to same-task neighbours, and the published updates owed to tree children."""
        for adapter_index, task in enumerate(device.adapter_tasks):
            scores = self._scores(device, task) if self._scores_due(device, task, round_index) else None
            self.pruning.announce(device, task, adapter_index, round_index, scores)
            if task in self._authored(device) and self._refresh_due(task, device.index, round_index):
                self._publish_expert(device, task, adapter_index, round_index)
        out = published.forward(device, self.context, PUBLISHED_KINDS)
        if exchange_due(self.config, round_index, self.context.rounds):
            for adapter_index, task in enumerate(device.adapter_tasks):
                neighbours = tuple(sorted(self.context.graph.task_weights[task].get(device.index, {})))
                if neighbours:
                    part = self._part(device, task, adapter_index)
                    out.append(self.exchange.message(device, part, round_index, neighbours))
        return out

    def incoming(
        self,
        device: Device,
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Average B_t with same-task neighbours; keep newer published updates."""
        for delivery in sent:
            if delivery.kind is not Kind.ADAPTER:
                published.note_delivered(device, delivery)
        refused: Counter[str] = Counter()
        messages = sort_by_kind(
            device, received, run=self.context.run, round_index=round_index, refused=refused
        )
        for kind in PUBLISHED_KINDS:
            for message in messages.get(kind, []):
                self._checked(refused, self._take_update, device, message)
        arrived: dict[int, dict[int, Arrival]] = {}
        for message in messages.get(Kind.ADAPTER, []):
            self._checked(refused, self._take_values, device, message, arrived)
        for adapter_index, task in enumerate(device.adapter_tasks):
            part = self._part(device, task, adapter_index)
            if arrived.get(task) or self.exchange.pending(device, part):
                weights = self.context.graph.task_weights[task]
                self.exchange.mix(device, part, arrived.get(task, {}), weights, sent)
        return refused

    def expert(self, device: Device, task: int) -> Expert | None:
        """Own B_t if the device holds the task, else the newest replica it has received."""
        if task in device.adapter_tasks:
            return Expert(("own", device.index, task), device.state.theta[device.adapter_tasks.index(task)])
        message = published.held(device, Kind.EXPERT, task)
        if message is None:
            return None
        key = ("replica", task, message.sender, message.version)
        return Expert(key, torch.from_numpy(self._expert_values(message)))

    def sketches(self, device: Device) -> tuple[tuple[object, ...], np.ndarray] | None:
        """The published sketches the device holds; NaN for tasks whose sketch has not arrived."""
        held = [published.held(device, Kind.SKETCH, t) for t in range(self.context.tasks)]
        key = tuple(None if m is None else (m.sender, m.version) for m in held)
        if key not in self._decoded:
            layers, width = len(self.context.router_layers), self.context.tasks * self.config.rank
            out = np.full((self.context.tasks, layers, width, width), np.nan)
            for task, message in enumerate(held):
                if message is not None:
                    out[task] = self._sketch_of(message)
            self._decoded = {key: out}  # only the last: devices of one cluster hold the same
        return key, self._decoded[key]

    def density(self, device: Device) -> float:
        """Share of B's entries that may be non-zero, mean over the device's tasks."""
        masks = [self.pruning.current(device, task) for task in device.adapter_tasks]
        return float(np.mean([1.0 if m is None else m.mean() for m in masks]))

    def masks(self, device: Device) -> dict[int, np.ndarray]:
        """Masks in force of the tasks this device is the author of."""
        dense = np.ones(self.layout.size, bool)
        found = {t: self.pruning.current(device, t) for t in self._authored(device)}
        return {t: dense if m is None else m for t, m in found.items()}

    def _authored(self, device: Device) -> tuple[int, ...]:
        return tuple(
            t
            for t in device.adapter_tasks
            if self.context.graph.authority.get((t, device.index)) == device.index
        )

    def _refresh_due(self, task: int, device: int, round_index: int) -> bool:
        """Every E rounds, timed so that the last refresh has reached the farthest device when the run ends."""
        depth = self.context.graph.everyone[task, device].depth
        last = max(1, self.context.rounds - max(0, depth - 1))
        return round_index <= last and (last - round_index) % self.config.replicas_every == 0

    def _message(
        self, kind: Kind, task: int, device: int, version: int, body: bytes, **more: object
    ) -> Message:
        fields = {"mask_hash": 0, "precision": "float16", **more}
        return Message(kind, task, device, version, self.context.run, body=body, **fields)  # type: ignore[arg-type]

    def _publish_sketch(self, device: Device, task: int) -> None:
        correlation = self.context.sketch(device.index, task, self.context.router_layers)
        form = self.config.sketch_precision
        body = encode_sketch(correlation, form)
        published.publish(device, self._message(Kind.SKETCH, task, device.index, 1, body, precision=form))

    def _publish_projection(self, device: Device, task: int) -> None:
        rows = np.concatenate([p[task].ravel() for p in self.projections(device.index)]).astype(np.float32)
        body = encode_values(rows, "float32")
        published.publish(
            device, self._message(Kind.PROJECTION, task, device.index, 1, body, precision="float32")
        )

    def _publish_expert(self, device: Device, task: int, adapter_index: int, round_index: int) -> None:
        mask = self.pruning.current(device, task)
        dense = np.ones(self.layout.size, bool) if mask is None else mask
        packed = encode_mask(dense)
        values = encode_values(device.state.theta[adapter_index].cpu().numpy()[dense], self.config.precision)
        body = len(packed).to_bytes(4, "little") + packed + values
        message = self._message(
            Kind.EXPERT, task, device.index, round_index, body,
            precision=self.config.precision, mask_hash=mask_hash(dense),
        )  # fmt: skip
        published.publish(device, message)

    def _part(self, device: Device, task: int, adapter_index: int) -> Part:
        mask = self.pruning.current(device, task)
        return Part(str(task), task, adapter_index, mask, 0 if mask is None else mask_hash(mask))

    @staticmethod
    def _checked(refused: Counter[str], take: object, *args: object) -> None:
        try:
            take(*args)  # type: ignore[operator]
        except MessageError as error:
            refused[error.refusal.value] += 1

    def _take_values(self, device: Device, message: Message, arrived: dict[int, dict[int, Arrival]]) -> None:
        task = message.task
        if message.sender not in self.context.graph.task_weights.get(task, {}).get(device.index, {}):
            raise MessageError(Refusal.FOREIGN, f"task {task} from device {message.sender}")
        mask = self.pruning.by_hash(device, task, message.mask_hash)
        arrived.setdefault(task, {})[message.sender] = self.exchange.read(message, mask)
        note_seen(device, message)

    def _take_update(self, device: Device, message: Message) -> None:
        if self.context.graph.authority.get((message.task, device.index)) != message.sender:
            raise MessageError(Refusal.FOREIGN, f"task {message.task} is not authored by {message.sender}")
        if message.kind is Kind.MASK:
            self.pruning.take_in(device, message)
        else:
            if message.kind is Kind.EXPERT and not np.isfinite(self._expert_values(message)).all():
                raise MessageError(Refusal.NOT_FINITE, f"expert of task {message.task}")
            if message.kind is Kind.SKETCH and not np.isfinite(self._sketch_of(message)).all():
                raise MessageError(Refusal.NOT_FINITE, f"sketch of task {message.task}")
            if message.kind is Kind.BID and self.pruning.bidding is not None:
                self.pruning.bidding.check(message)
            if message.kind is Kind.PROJECTION:
                self._check_projection(device, message)
            published.accept(device, message)
        note_seen(device, message)

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

    def _check_projection(self, device: Device, message: Message) -> None:
        own = np.concatenate([p[message.task].ravel() for p in self.projections(device.index)]).astype(
            np.float32
        )
        if not np.array_equal(decode_values(message.body, "float32", len(own)), own):
            raise MessageError(Refusal.FOREIGN, f"A of task {message.task} differs from the device's own")

    def _scores_due(self, device: Device, task: int, round_index: int) -> bool:
        due = self.config.budget == "effective_rank" and round_index in self.pruning.schedule
        return due and task in self._authored(device)

    def _scores(self, device: Device, task: int) -> list[float]:
        return [effective_rank(c) for c in self.context.sketch(device.index, task, None)]
