"""DeviceGroup: some devices in one process, trained together, each with its own adapters, data and streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dfl_ray.config.radio import radio_settings
from dfl_ray.devices.attack import AttackMeter
from dfl_ray.devices.changes import message_changes, settle
from dfl_ray.devices.evaluate import Evaluator
from dfl_ray.devices.faulty import drawn_faults
from dfl_ray.devices.figures import exchange_report, part_finite, placed_means, trained_in_place
from dfl_ray.devices.local_rows import LocalRows, sketch_rows
from dfl_ray.devices.mail import mail_of
from dfl_ray.devices.micro_batches import micro_batches
from dfl_ray.devices.outbox import Outbox
from dfl_ray.devices.own_base import base_and_frozen, take_turns
from dfl_ray.devices.records import (
    EvaluationReport,
    ExchangeReport,
    GroupSetup,
    Payloads,
    Snapshot,
    TrainReport,
)
from dfl_ray.devices.sharing import SharedUpdates
from dfl_ray.devices.snapshots import check_memory, collect_snapshot, restore_snapshot
from dfl_ray.devices.step_size import step_size
from dfl_ray.devices.store import bytes_kept, make_store
from dfl_ray.devices.variates import with_variates
from dfl_ray.engines.cpu.heap import ENOUGH_FREE_BYTES, trim_heap
from dfl_ray.engines.private import train_privately
from dfl_ray.engines.training import LocalWork, ScoredModel, TrainingResult, train_adapters
from dfl_ray.evaluation.scorer import Adapter
from dfl_ray.experts.sketch import sketch
from dfl_ray.lora.inject import inject
from dfl_ray.methods.base import Context, Device, first_adapters
from dfl_ray.methods.due import due_round, exchanged
from dfl_ray.methods.entries import make_method
from dfl_ray.methods.private_updates import PrivateUpdates
from dfl_ray.methods.shared import reset_moments
from dfl_ray.models.build import build_model
from dfl_ray.network.comm_graph import CommGraph
from dfl_ray.network.local_rounds import LocalRound, LocalRounds
from dfl_ray.network.traffic import TransferOutcomes
from dfl_ray.tasks.triggered import WrongTasks


class DeviceGroup:
    """Hosts devices; a plain class, made an actor elsewhere.

    Args:
        setup: What all groups share.
        devices: The devices hosted here.
        torch_device: "cpu" or a CUDA device; None = CUDA where the run asks for GPUs and there is one.

    Attributes:
        absent: Devices that are out of the newest round: they are not asked in an evaluation.
    """

    def __init__(self, setup: GroupSetup, devices: Sequence[int], torch_device: str | None = None) -> None:
        torch.set_num_threads(setup.config.runtime.threads)
        self.setup = setup
        self.config = setup.config.method
        self.faults = drawn_faults(setup.config)
        self._wrong = WrongTasks(setup.tasks, self.faults.fault.backdoor)
        self._rows = LocalRows(setup, self.faults, self._wrong)
        wanted = setup.config.runtime.gpus_per_actor > 0 and torch.cuda.is_available()
        self.torch_device = torch_device or ("cuda" if wanted else "cpu")
        model = build_model(setup.weights, self.torch_device)
        compile = setup.config.runtime.compile
        self.model = ScoredModel(model, inject(model, setup.layers), compile=compile)
        self.method = make_method(self._context())
        self.scale = self.config.alpha / self.config.rank
        self._make_devices(sorted(devices))
        self._outbox = Outbox()
        self._rounds: dict[int, LocalRound] = {}
        self._parts: list[list[Device[Any]]] = []
        self._finite: dict[int, bool] = {}
        self.absent: frozenset[int] = frozenset()
        self._evaluator: Evaluator | None = None
        self._attack = AttackMeter(setup, self.faults, self._wrong, self.model)
        self._advance: Callable[[int, int], None] | None = None
        self._updates = SharedUpdates()
        self._by_change = radio_settings(setup.config.radio).by_change()

    def _context(self) -> Context:
        s = self.setup
        return Context(
            config=self.config, seed=s.config.seed, run=s.run, rounds=s.config.rounds, layers=s.layers,
            tasks=len(s.tasks), held=s.held, graph=s.graph, sketch=self.sketch, router_layers=s.router_layers,
            projections=s.projections, faults=self.faults, barrier=s.config.schedule == "sync",
            privacy=PrivateUpdates(s.config.privacy, s.config.seed), warm=s.warm, ups=s.ups, cores=s.cores,
        )  # fmt: skip

    def rewire(self, graph: CommGraph) -> None:
        """Go on with another communication graph; what the devices hold stays.

        Args:
            graph: Who exchanges what with whom from the next round on.
        """
        self.setup = replace(self.setup, graph=graph)
        self.method = make_method(self._context())
        if self._evaluator is not None:
            self._evaluator.use(self.method)

    def _make_devices(self, devices: list[int]) -> None:
        adapter_tasks = {d: self.method.adapter_tasks(d) for d in devices}
        counts = {d: len(tasks) for d, tasks in adapter_tasks.items()}
        self.owners = [(d, t) for d in devices for t in adapter_tasks[d]]
        size = self.method.layout.size
        self._store = make_store(
            self.setup.config.runtime, len(devices) / len(self.setup.held),
            bytes_kept(self.setup, size, len(self.owners), len(devices)), self.torch_device,
        )  # fmt: skip
        self.state = self._store.adapters(
            counts, size, lambda some: first_adapters(self.method, self._context(), some)
        )
        self.starts = np.cumsum([0, *counts.values()])
        self.devices: dict[int, Device[Any]] = {}
        for d, start in zip(devices, self.starts.tolist(), strict=False):
            rows = self.state.rows(start, start + counts[d])
            self.devices[d] = Device(d, adapter_tasks[d], rows, self.method.memory(d))
        if self.devices:
            check_memory(self.config.name, next(iter(self.devices.values())).memory)
        self._place = {d: k for k, d in enumerate(devices)}

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
            ValueError: The device does not hold the task, or the method has no router.
        """
        wanted = range(len(self.setup.layers)) if layers is None else layers
        return sketch(self.model, self._projections(), list(wanted), sketch_rows(self.setup, device, task))

    def _projections(self) -> Sequence[torch.Tensor]:
        stack = self.method.router_a(0)  # one device's for all, whichever devices are hosted together
        if stack is None:
            raise ValueError("this method has no projections to sketch through")
        return stack

    def follow(self, advance: Callable[[int, int], None]) -> None:
        """Say whom to tell how far an evaluation is.

        Args:
            advance: Called with the parts scored so far and the parts in all.
        """
        self._advance = advance

    def full_sketches(self) -> dict[int, np.ndarray]:
        """Compute all layers' sketches of tasks: a reference for `filter`, not charged to the radio.

        Returns:
            Task -> (layers, T*r, T*r) float64, of tasks whose first holder, whatever the graph's parts, is here.
        """
        first = {t: d for d in sorted(self.setup.held, reverse=True) for t in self.setup.held[d]}
        with self.model.not_training():
            return {t: self.sketch(d, t, None) for t, d in first.items() if d in self.devices}

    def train(
        self, round_index: int, absent: Sequence[int] = (), ended: LocalRounds | None = None
    ) -> tuple[TrainReport, Payloads]:
        """Local steps of all devices, then the messages they want sent.

        Args:
            round_index: The round.
            absent: Devices that are out of the run (empty battery): they neither train, send nor answer.
            ended: The local rounds that end in this window, where devices do not wait for each other: the others do
                nothing. None: everybody's of this round.

        Returns:
            The report, and the payloads of messages that leave this group.
        """
        began, first = time.perf_counter(), not self._parts
        work = self.prepare(round_index, absent, ended)
        results: list[TrainingResult] = []
        for part in self._store.parts(self._parts, list):
            results.append(next(work)())
            self._speak(part, results[-1])
        trim_heap(0 if first else ENOUGH_FREE_BYTES)  # what the first round draws is drawn once
        return self.report(results, began)

    def prepare(
        self, round_index: int, absent: Sequence[int] = (), ended: LocalRounds | None = None
    ) -> Iterator[Callable[[], TrainingResult]]:
        """Begin a round: what `train` does before the steps, and the steps of each micro-batch, which a call makes.

        Args:
            round_index: The round.
            absent: See `train`.
            ended: See `train`.

        Returns:
            One callable for each micro-batch; each makes its local steps in place and is to be called once.
        """
        self.absent = frozenset(absent)
        everyone = LocalRound(round_index, round_index - 1, round_index, 0.0)
        rounds = dict.fromkeys(self.devices, everyone) if ended is None else dict(ended)
        self._rounds = {d: rounds[d] for d in self.devices if d in rounds}
        self._outbox, self._finite = Outbox(), {}
        turns = [(self.devices[d], turn.number) for d, turn in self._rounds.items()]
        alone = take_turns(self.method, self.model)
        self._parts = micro_batches(self.setup, self.model, self.method.layout.size, turns, alone=alone)
        return (self._training(part) for part in self._parts)

    def report(self, parts: Sequence[TrainingResult], began: float) -> tuple[TrainReport, Payloads]:
        """What `train` does behind the steps: figures and messages.

        Args:
            parts: What the steps of `prepare` gave, in their order.
            began: When the round began.

        Returns:
            The report, and the payloads of messages that leave this group; devices whose loss or gradient was not
            finite, or whose adapters left the range of float16, send nothing.
        """
        for part, result in zip(self._parts, parts, strict=True):
            if part[0].index not in self._finite:
                self._speak(part, result)
        order = [self._place[device.index] for part in self._parts for device in part]
        loss, norm, tokens = placed_means(parts, order, self.starts)
        finite = np.array([self._finite.get(d, True) for d in self.devices], bool)
        report = TrainReport(
            np.array(list(self.devices)), loss, norm, tokens, finite, self._outbox.requests(self._rounds),
            time.perf_counter() - began,
        )  # fmt: skip
        return report, self._outbox.leaving

    def _training(self, part: list[Device[Any]]) -> Callable[[], TrainingResult]:
        """What makes the local steps of devices that are trained together, in place, when called."""
        for d in part:
            self.method.begin(d, self._rounds[d.index].begin_window)
        rows = self._adapters_of(part)
        keeps = [self.method.keep(d, self._rounds[d.index].begin_window) for d in part]
        keep = None
        if any(k is not None for k in keeps):
            size = self.method.layout.size
            ones = [torch.ones(len(d.adapter_tasks), size, dtype=torch.bool) for d in part]
            keep = torch.cat([o if k is None else k for k, o in zip(keeps, ones, strict=True)])
            keep = keep.to(self.torch_device)
        owners = [self.owners[row] for row in rows]
        static = self.method.static_a(owners)
        model, frozen = base_and_frozen(self.method, self.model, part)
        if static is not None and self.torch_device != "cpu":
            static = [a.to(self.torch_device) for a in static]
        number = self._rounds[part[0].index].number
        noise = self._rows.noise([d.index for d in part], number, self.absent)
        if noise is None:
            gpu = self.torch_device
            held = None if frozen is None else [(a.to(gpu), b.to(gpu)) for a, b in frozen]
            train: Callable[..., TrainingResult] = partial(train_adapters, frozen=held)
        else:
            train = partial(train_privately, noise=noise)
        steps = partial(
            train, model, self.method.layout, work=self._work(part),
            size=step_size(self.config, number), scale=self.scale, keep=keep, static_a=static,
        )  # fmt: skip
        return partial(trained_in_place, self.state, rows, with_variates(self.config, part, steps))

    def _adapters_of(self, part: Sequence[Device[Any]]) -> list[int]:
        places = [self._place[d.index] for d in part]
        return [row for p in places for row in range(int(self.starts[p]), int(self.starts[p + 1]))]

    def _work(self, part: list[Device[Any]]) -> list[LocalWork]:
        work: list[LocalWork] = []
        for device in part:
            turn, law = self._rounds[device.index], self.method.law
            works = law.trains(device.index, device.memory.traffic, turn.begin_window)
            sources = law.sources(device.index) if works and device.index not in self.absent else ()
            work += self._rows.work(sources, turn.number, device.adapter_tasks)
        return work

    def _speak(self, part: Sequence[Device[Any]], result: TrainingResult) -> None:
        """Ask the devices of a part for their messages, while their state is at hand."""
        sizes = [len(device.adapter_tasks) for device in part]
        fine = part_finite(result, self.state.theta, self._adapters_of(part), sizes)
        for device, finite in zip(part, fine.tolist(), strict=True):
            index, turn = device.index, self._rounds[device.index]
            self._finite[index] = finite
            for fate in device.waiting.fates.values():
                self.method.law.delivered(index, device.memory.traffic, fate.planned, fate.reached.tolist())
                device.memory.told.arrived(fate.planned, fate.reached.tolist())
            if finite and index not in self.absent:
                due = due_round(self.method.law, self.config, self.setup.config.rounds, turn)
                messages = self.method.outgoing(device, due)
                changes = message_changes(device, messages) if self._by_change else ()
                self._outbox.put(index, messages, self.devices, changes)

    def exchange(self, round_index: int, outcomes: TransferOutcomes, *bundles: Payloads) -> ExchangeReport:
        """Take in what the radio delivered.

        Args:
            round_index: The round.
            outcomes: Outcomes of all transfers that start or end here.
            bundles: Payloads that other groups sent out.

        Returns:
            Bytes received and messages refused of each device.
        """
        began = time.perf_counter()
        payloads: Payloads = dict(self._outbox.payloads)
        for bundle in bundles:
            payloads |= bundle
        mail = mail_of(self.devices, outcomes, payloads, self._outbox.made, self.setup.config.asynchrony)
        refused: dict[int, Mapping[str, int]] = {index: {} for index in self.devices}
        for device in self._store.walked([self.devices[index] for index in mail]):
            index, mine = device.index, mail[device.index]
            device.trust = mine.trust
            refused[index] = dict(self.method.incoming(device, round_index, mine.received, mine.sent))
            if self._by_change:
                settle(device, mine.sent)
            device.trust = {}
            rounds = self.setup.config.rounds
            if self.config.fresh_optimizer and exchanged(
                self.method.law, self.config, rounds, self._rounds[index]
            ):
                reset_moments(device)
        self._updates.share(self.devices.values())
        self._outbox = Outbox()
        return exchange_report(list(self.devices), refused, mail, time.perf_counter() - began)

    def evaluate(
        self, round_index: int, rules: Sequence[str], references: Mapping[int, np.ndarray] | None = None
    ) -> EvaluationReport:
        """Accuracy of every device on every task by each rule, and the state metrics.

        Args:
            round_index: The round; 0 asks the bare base model once, as device -1, by rule `base`.
            rules: Inference rules.
            references: Task -> all layers' sketches, for rules that need them.

        Returns:
            Accuracies, and state metrics of the honest devices that are present and have a model.
        """
        began = time.perf_counter()
        if self._evaluator is None:
            self._evaluator = Evaluator(self.setup, self.model, self.method)
        self._evaluator.follow(self._scored)
        with self.model.not_training():
            if round_index == 0:
                return self._evaluator.base(began)
            out = {*self.absent, *self.faults.devices}
            asked = self._store.walked(
                [d for i, d in self.devices.items() if i not in out and self.method.law.sources(i)]
            )
            report = self._evaluator.devices(asked, round_index, rules, references, began)
            return self._attack.measured(report, asked, self.method, round_index, references)

    def _scored(self, done: int, total: int) -> None:
        self._store.read()
        if self._advance is not None:
            self._advance(done, total)

    def answers(self, device: int) -> tuple[Adapter, dict[int, Adapter | None]]:
        """What a device answers with: one adapter for all tasks, and that of each task.

        Args:
            device: The device.

        Returns:
            The adapter made by the rule `filter` where there is an expert a task, else the device's own; and task ->
            its expert's adapter, None for one the device has not.
        """
        if self._evaluator is None:
            self._evaluator = Evaluator(self.setup, self.model, self.method)
        return self._evaluator.answers(self.devices[device], self.full_sketches)

    def snapshot(self, devices: Sequence[int]) -> Snapshot:
        """All state of some devices hosted here, such as a part of `devices.snapshots.in_parts`."""
        return collect_snapshot(self._store.walked([self.devices[device] for device in devices]))

    def restore(self, snapshots: Iterable[Snapshot]) -> None:
        """Take the state of devices hosted here out of the snapshots of any groups."""
        restore_snapshot(self.devices, snapshots, self._store.walked)
        self._updates.share(self.devices.values())
        self._outbox = Outbox()
