"""DeviceGroup: some devices in one process, trained together, each with its own adapters, data and streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dfl_ray.config.methods import experts_settings
from dfl_ray.devices.evaluate import Evaluator
from dfl_ray.devices.records import (
    EvaluationReport,
    ExchangeReport,
    GroupSetup,
    Payloads,
    Snapshot,
    TrainReport,
)
from dfl_ray.devices.sharing import SharedUpdates
from dfl_ray.devices.snapshots import collect_snapshot, restore_snapshot
from dfl_ray.engines.gpu.decoder import LargeDecoder
from dfl_ray.engines.gpu.make import devices_that_fit, free_memory
from dfl_ray.engines.training import LocalWork, ScoredModel, TrainingResult, train_adapters
from dfl_ray.experts.sketch import sketch, training_rows
from dfl_ray.lora.inject import inject
from dfl_ray.lora.optimizer import AdapterState, StepSize
from dfl_ray.methods.base import Context, Delivery, Device
from dfl_ray.methods.entries import make_method
from dfl_ray.methods.laws import Planned
from dfl_ray.models.build import build_model
from dfl_ray.network.traffic import TransferOutcomes, TransferRequests
from dfl_ray.seeds import Stream, generator
from dfl_ray.tasks.local_rows import draw_steps
from dfl_ray.tasks.tokens import TokenRows

TOKENS_PER_MICRO_BATCH = 2560
"""Tokens trained together: enough to spread the cost of calls, few enough for a core's cache and for memory."""


class DeviceGroup:
    """Hosts devices; a plain class, made an actor elsewhere.

    Args:
        setup: What all groups share.
        devices: The devices hosted here.
        torch_device: "cpu" or a CUDA device; None = CUDA where the run asks for GPUs and there is one.
    """

    def __init__(self, setup: GroupSetup, devices: Sequence[int], torch_device: str | None = None) -> None:
        torch.set_num_threads(setup.config.runtime.threads)
        self.setup = setup
        self.config = setup.config.method
        if torch_device is None:
            wanted = setup.config.runtime.gpus_per_actor > 0
            torch_device = "cuda" if wanted and torch.cuda.is_available() else "cpu"
        self.torch_device = torch_device
        model = build_model(setup.weights, torch_device)
        compile = setup.config.runtime.compile
        self.model = ScoredModel(model, inject(model, setup.layers), compile=compile)
        self.method = make_method(self._context())
        self.scale = self.config.alpha / self.config.rank
        self._make_devices(sorted(devices))
        self._outbox: Payloads = {}
        self._sent: dict[tuple[int, int], Planned] = {}
        self._finite: dict[int, bool] = {}
        self._absent: frozenset[int] = frozenset()
        self._evaluator: Evaluator | None = None
        self._updates = SharedUpdates()

    def _context(self) -> Context:
        s = self.setup
        return Context(
            config=self.config, seed=s.config.seed, run=s.run, rounds=s.config.rounds, layers=s.layers,
            tasks=len(s.tasks), held=s.held, graph=s.graph, sketch=self.sketch, router_layers=s.router_layers,
        )  # fmt: skip

    def _make_devices(self, devices: list[int]) -> None:
        adapter_tasks = {d: self.method.adapter_tasks(d) for d in devices}
        self.owners = [(d, t) for d in devices for t in adapter_tasks[d]]
        theta = torch.cat([self.method.start(d) for d in devices]).to(self.torch_device)
        self.state = AdapterState.from_theta(theta)
        self.devices: dict[int, Device[Any]] = {}
        start = 0
        for d in devices:
            stop = start + len(adapter_tasks[d])
            self.devices[d] = Device(d, adapter_tasks[d], self.state.rows(start, stop), self.method.memory(d))
            start = stop
        self._place = {d: k for k, d in enumerate(devices)}
        self.starts = np.cumsum([0, *[len(adapter_tasks[d]) for d in devices]])

    def sketch(self, device: int, task: int, layers: Sequence[int] | None) -> np.ndarray:
        """Compute a device's own input sketch of a task it holds, on a seeded draw of its training rows.

        C = mean of z z^T over tokens with z = [A_1; ...; A_T] x; see `experts.sketch.sketch`.

        Args:
            device: The device.
            task: A task it holds.
            layers: Indices of the layers; None = all.

        Returns:
            (layers, T*r, T*r) float64.

        Raises:
            ValueError: The device does not hold the task, or the method has no static projections.
        """
        held = self.setup.held[device]
        mine = self.setup.rows[device][held.index(task)]
        count = min(len(mine), experts_settings(self.config).sketch_prompts)
        rng = generator(self.setup.config.seed, Stream.SKETCH_ROWS, task, device)
        rows = training_rows(self.setup.tasks[task].train, rng.choice(mine, count, replace=False))
        tasks_a = self._projections()
        wanted = range(len(self.setup.layers)) if layers is None else layers
        return sketch(self.model, tasks_a, list(wanted), rows)

    def _projections(self) -> list[torch.Tensor]:
        stack = self.method.static_a(
            [(min(self.devices, default=0), t) for t in range(len(self.setup.tasks))]
        )
        if stack is None:
            raise ValueError("this method has no static projections to sketch through")
        return stack

    def full_sketches(self) -> dict[int, np.ndarray]:
        """Compute all layers' sketches of the tasks authored here: a reference for `filter`, not charged to the radio.

        Returns:
            Task -> (layers, T*r, T*r) float64.
        """
        graph = self.setup.graph
        mine = [(t, d) for d in self.devices for t in self.setup.held[d] if graph.authority.get((t, d)) == d]
        return {t: self.sketch(d, t, None) for t, d in mine}

    def train(self, round_index: int, absent: Sequence[int] = ()) -> tuple[TrainReport, Payloads]:
        """Local steps of all devices, then the messages they want sent.

        Args:
            round_index: The round.
            absent: Devices that are out of the run (empty battery): they neither train, send nor answer.

        Returns:
            The report, and the payloads of messages that leave this group.
        """
        began = time.perf_counter()
        return self.report(round_index, [steps() for steps in self.prepare(round_index, absent)], began)

    def prepare(self, round_index: int, absent: Sequence[int] = ()) -> Iterator[Callable[[], TrainingResult]]:
        """Begin a round: what `train` does before the steps, and the steps of each micro-batch, which a call makes.

        Args:
            round_index: The round.
            absent: See `train`.

        Returns:
            One callable for each micro-batch; each makes its local steps in place and is to be called once.
        """
        self._absent = frozenset(absent)
        for device in self.devices.values():
            self.method.begin(device, round_index)
        return (self._training(part, round_index) for part in self._micro_batches())

    def report(
        self, round_index: int, parts: Sequence[TrainingResult], began: float
    ) -> tuple[TrainReport, Payloads]:
        """What `train` does behind the steps: figures and messages.

        Args:
            round_index: The round.
            parts: What the steps of `prepare` gave, in their order.
            began: When the round began.

        Returns:
            The report, and the payloads of messages that leave this group; devices whose loss or gradient was not
            finite send nothing.
        """
        loss, norm, tokens, finite = self._per_device(parts)
        self._finite = dict(zip(self.devices, finite.tolist(), strict=True))
        requests, leaving = self._collect(round_index)
        report = TrainReport(
            np.array(list(self.devices)), loss, norm, tokens, finite, requests, time.perf_counter() - began
        )
        return report, leaving

    def _micro_batches(self) -> list[list[Device[Any]]]:
        """The devices in the parts that are trained together."""
        devices = list(self.devices.values())
        size = self.setup.config.runtime.micro_devices
        if size == "auto" and self.model.large is not None:
            size = self._devices_that_fit(self.model.large)
        elif size == "auto":
            longest = max(float(t.train.lengths.mean()) for t in self.setup.tasks)
            size = int(max(1, TOKENS_PER_MICRO_BATCH // (self.config.batch_rows * longest)))
        return [devices[i : i + size] for i in range(0, len(devices), size)]

    def _devices_that_fit(self, base: LargeDecoder) -> int:
        longest = max(int(t.train.lengths.max()) for t in self.setup.tasks)
        gpus = self.setup.config.runtime.gpus_per_actor
        return devices_that_fit(
            base, free_memory(self.model.device, gpus if 0 < gpus < 1 else 1.0),
            tokens=self.config.batch_rows * longest, adapters=max(len(d.adapter_tasks) for d in self.devices.values()),
            size=self.method.layout.size, rank=self.config.rank,
        )  # fmt: skip

    def _training(self, part: list[Device[Any]], round_index: int) -> Callable[[], TrainingResult]:
        """The local steps of devices that are trained together, everything but the steps done.

        Args:
            part: One of `_micro_batches`.
            round_index: The round.

        Returns:
            Makes the steps, in place, when called.
        """
        first = self._place[part[0].index]
        start, stop = int(self.starts[first]), int(self.starts[first + len(part)])
        keeps = [self.method.keep(d, round_index) for d in part]
        keep = None
        if any(k is not None for k in keeps):
            size = self.method.layout.size
            ones = [torch.ones(len(d.adapter_tasks), size, dtype=torch.bool) for d in part]
            keep = torch.cat([o if k is None else k for k, o in zip(keeps, ones, strict=True)]).to(
                self.torch_device
            )
        static, frozen = self.method.static_a(self.owners[start:stop]), self.method.frozen(part)
        return partial(
            train_adapters, self.model, self.method.layout, self.state.rows(start, stop), self._work(part, round_index),
            size=self._step_size(round_index), scale=self.scale, keep=keep,
            static_a=None if static is None else [a.to(self.torch_device) for a in static],
            frozen=None if frozen is None else [(a.to(self.torch_device), b.to(self.torch_device)) for a, b in frozen],
        )  # fmt: skip

    def _step_size(self, round_index: int) -> StepSize:
        warm = min(1.0, round_index / self.config.warmup_rounds) if self.config.warmup_rounds else 1.0
        return StepSize(self.config.learning_rate * warm, self.config.weight_decay, self.config.clip_norm)

    def _work(self, part: list[Device[Any]], round_index: int) -> list[LocalWork]:
        out: list[LocalWork] = []
        for device in part:
            present = () if device.index in self._absent else self.method.law.sources(device.index)
            sources = [self._draw(d, round_index) for d in present]
            for adapter_task in device.adapter_tasks:
                steps = [
                    [row for s in sources for task, row in s[step] if adapter_task in (-1, task)]
                    for step in range(self.config.local_steps)
                ]
                out.append(LocalWork(steps))
        return out

    def _draw(self, device: int, round_index: int) -> list[list[tuple[int, tuple[TokenRows, int]]]]:
        """For each local step the rows a device draws from its own data, as (task, row)."""
        held, mine = self.setup.held[device], self.setup.rows[device]
        drawn = draw_steps(
            self.setup.config.seed, round_index, device, self.setup.shares[device], [len(r) for r in mine],
            steps=self.config.local_steps, batch_rows=self.config.batch_rows,
        )  # fmt: skip
        tables = [self.setup.tasks[t].train for t in held]
        return [[(held[k], (tables[k], int(mine[k][i]))) for k, i in step] for step in drawn]

    def _per_device(
        self, parts: Sequence[TrainingResult]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """From per adapter to per device: means over the adapters that had rows."""
        loss, norm = (np.concatenate([getattr(p, f) for p in parts]) for f in ("loss", "gradient_norm"))
        finite, tokens = (np.concatenate([getattr(p, f) for p in parts]) for f in ("finite", "tokens"))
        cut = self.starts[:-1]
        seen = ~np.isnan(loss)
        trained = np.add.reduceat(seen, cut)
        counts = np.where(trained > 0, trained, np.nan)  # no rows, no loss
        return (
            np.add.reduceat(np.where(seen, loss, 0), cut) / counts,
            np.add.reduceat(np.where(seen, norm, 0), cut) / counts,
            np.add.reduceat(tokens, cut),
            np.logical_and.reduceat(finite, cut),
        )

    def _collect(self, round_index: int) -> tuple[TransferRequests, Payloads]:
        self._outbox, self._sent = {}, {}
        planned: dict[int, list[Planned]] = {}
        leaving: Payloads = {}
        for device in self.devices.values():
            if not self._finite[device.index] or device.index in self._absent:
                continue
            planned[device.index] = []
            for number, out in enumerate(self.method.outgoing(device, round_index)):
                key = (device.index, number)
                self._outbox[key], self._sent[key] = out.payload, out.planned
                planned[device.index].append(out.planned)
                if any(d not in self.devices for d in out.planned.destinations):
                    leaving[key] = out.payload
        return TransferRequests.of(planned), leaving

    def exchange(
        self, round_index: int, outcomes: TransferOutcomes, *bundles: Mapping[tuple[int, int], bytes]
    ) -> ExchangeReport:
        """Take in what the radio delivered.

        Args:
            round_index: The round.
            outcomes: Outcomes of all transfers that start or end here.
            bundles: Payloads that other groups sent out.

        Returns:
            Bytes received and messages refused of each device.
        """
        began = time.perf_counter()
        payloads: dict[tuple[int, int], bytes] = dict(self._outbox)
        for bundle in bundles:
            payloads |= bundle
        inbox: dict[int, list[bytes]] = {}
        sent: dict[int, list[Delivery]] = {}
        for key, destinations in outcomes.reached().items():
            for to in destinations:
                if to in self.devices:
                    inbox.setdefault(to, []).append(payloads[key])
            if key in self._sent:
                sent.setdefault(key[0], []).append(Delivery(self._sent[key], tuple(destinations)))
        refused = [
            self.method.incoming(d, round_index, inbox.get(d.index, []), sent.get(d.index, []))
            for d in self.devices.values()
        ]
        self._updates.share(self.devices.values())
        received = np.array([sum(map(len, inbox.get(d, []))) for d in self.devices])
        self._outbox, self._sent = {}, {}
        return ExchangeReport(
            np.array(list(self.devices)),
            tuple(dict(r) for r in refused),
            received,
            time.perf_counter() - began,
        )

    def evaluate(
        self, round_index: int, rules: Sequence[str], references: Mapping[int, np.ndarray] | None = None
    ) -> EvaluationReport:
        """Accuracy of every device on every task by each rule, and the state metrics.

        Args:
            round_index: The round; 0 asks the bare base model once, as device -1, by rule `base`.
            rules: Inference rules.
            references: Task -> all layers' sketches, for rules that need them.

        Returns:
            Accuracies, and state metrics of the devices that are present and have a model.
        """
        began = time.perf_counter()
        if self._evaluator is None:
            self._evaluator = Evaluator(self.setup, self.model, self.method)
        if round_index == 0:
            return self._evaluator.base(began)
        asked = [
            d
            for d in self.devices.values()
            if d.index not in self._absent and self.method.law.sources(d.index)
        ]
        return self._evaluator.devices(asked, round_index, rules, references, began)

    def snapshot(self) -> Snapshot:
        """All state of the devices hosted here."""
        return collect_snapshot(self.devices)

    def restore(self, snapshots: Sequence[Snapshot]) -> None:
        """Take the state of the devices hosted here out of the snapshots of any groups.

        Raises:
            KeyError: No snapshot holds one of the devices.
        """
        restore_snapshot(self.devices, snapshots)
        self._updates.share(self.devices.values())
        self._outbox, self._sent = {}, {}
