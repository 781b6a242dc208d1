"""Evaluation of a group: which adapter answers which held-out row under each rule, each pair scored once."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dfl_ray.devices.consensus import Sums, folded_update, update_sums
from dfl_ray.devices.holdings import Choices, confusions, holdings
from dfl_ray.devices.merging import Merger
from dfl_ray.devices.records import EvaluationReport, GroupSetup
from dfl_ray.devices.routing import OPEN, Router
from dfl_ray.devices.rules import InferenceRule, checked_routes, inference_rule
from dfl_ray.engines.training import ScoredModel
from dfl_ray.evaluation.scorer import Adapter, Scorer, rows_of
from dfl_ray.experts.table import RULES
from dfl_ray.lora.stacks import up_factors
from dfl_ray.methods.base import Device, Expert, Factors, Method
from dfl_ray.methods.spec import filters_received, method_spec


class Evaluator:
    """Evaluates devices of one group; keeps what does not change between evaluations.

    Args:
        setup: The run.
        model: The shared base.
        method: The learning method.
    """

    def __init__(self, setup: GroupSetup, model: ScoredModel, method: Method) -> None:
        self.setup = setup
        self.method = method
        self.model = model
        self.scale = setup.config.method.alpha / setup.config.method.rank
        self.scorer = Scorer(
            model, setup.tasks, scale=self.scale, seed=setup.config.seed,
            rows_per_task=setup.config.evaluate.rows_per_task,
        )  # fmt: skip
        self.router = Router(setup, model, method, self.scorer, self._projections)
        self.merger = Merger(setup, model, method, self.router, self._projections)
        self._before = self._total = 0

    def follow(self, advance: Callable[[int, int], None]) -> None:
        """Tell how far an evaluation is while it goes on.

        Args:
            advance: Given the pairs of adapter and row that have been asked, and all that will be.
        """
        self.scorer.advance = lambda asked: advance(self._before + asked, self._total)

    def use(self, method: Method) -> None:
        """Go on with the method of another communication graph.

        Args:
            method: The same method of the same run.
        """
        self.method = self.router.method = self.merger.method = method

    def base(self, began: float) -> EvaluationReport:
        """Evaluate the bare base model on every task, as device -1 by rule `base`.

        Args:
            began: When the evaluation began, in seconds of `time.perf_counter`.

        Returns:
            One row a task; the state metrics are empty.
        """
        asked = {t: np.ones(len(r), bool) for t, r in enumerate(self.scorer.rows)}
        self._before, self._total = 0, rows_of(asked)
        right = self.scorer.score({"base": asked}, lambda _key: None)["base"]
        rows = _Rows()
        for task, ok in right.items():
            rows.add(-1, task, "base", ok, None)
        return EvaluationReport(rows.columns, {}, {}, {}, {}, time.perf_counter() - began)

    def devices(
        self,
        devices: Sequence[Device],
        round_index: int,
        rules: Sequence[str],
        references: Mapping[int, np.ndarray] | None,
        began: float,
    ) -> EvaluationReport:
        """Evaluate every device on every task by every rule; each pair of adapter and held-out row is scored once.

        Args:
            devices: The devices.
            round_index: The round.
            rules: Names of inference rules.
            references: Task -> all layers' sketches (layers, T*r, T*r), for rules that need them, or None.
            began: When the evaluation began, in seconds of `time.perf_counter`.

        Returns:
            One row a (rule, device, task), and the state metrics.
        """
        self.router.begin()
        experts = self._experts(devices)
        rows = _Rows()
        kinds = {name: inference_rule(name) for name in rules}
        routed = {name: self._choices(devices, name, kind) for name, kind in kinds.items() if kind.route}
        one = self._one_expert(experts, routed)
        alike: dict[str, _MergedAnswers] = {}
        for rule, kind in kinds.items():
            if kind.merge is not None:
                open_rows = {place: chosen == OPEN for place, chosen in routed.get(rule, {}).items()}
                alike[rule] = self._merged(devices, experts, kind, open_rows)
        self._before, self._total = 0, one.rows + sum(answers.rows for answers in alike.values())
        right = self._score_routed(one, routed)
        for rule, answers in alike.items():
            for place, ok in self._score_merged(answers, kinds[rule], references).items():
                right[rule, *place] = np.maximum(right.get((rule, *place), np.zeros_like(ok)), ok)
        for rule in rules:
            for device, task in experts:
                chosen = routed[rule][device, task] if kinds[rule].chooses else None
                rows.add(
                    device, task, rule, right[rule, device, task], None if chosen is None else chosen == task
                )
        return EvaluationReport(
            rows.columns, self._sums(devices, experts), _masks(self.method, devices),
            {d.index: self.method.density(d) for d in devices},
            {d.index: self._staleness(d, experts, round_index) for d in devices}, time.perf_counter() - began,
            holdings(experts), confusions({r: c for r, c in routed.items() if kinds[r].chooses}),
        )  # fmt: skip

    def answers(
        self, device: Device, references: Callable[[], Mapping[int, np.ndarray]]
    ) -> tuple[Adapter, dict[int, Adapter | None]]:
        """What a device answers with; see `DeviceGroup.answers`.

        Args:
            device: The device.
            references: Gives task -> all layers' exact sketches, for `filter` where it is not the method's own rule.

        Returns:
            One adapter for all tasks, and that of each task.
        """
        experts = [self.method.expert(device, t) for t in range(len(self.setup.tasks))]
        parts = {t: self._adapter(e) for t, e in enumerate(experts)}
        if not method_spec(self.setup.config.method).per_task:
            whole = parts[0]
            assert whole is not None
            return whole, parts
        merge = inference_rule("filter").merge
        assert merge is not None
        exact = None if filters_received(self.setup.config.method) else references()
        return merge(self.merger.task(device, experts, exact)), parts

    def _experts(self, devices: Sequence[Device]) -> dict[tuple[int, int], Expert | None]:
        """(device, task) -> what it answers with; one adapter for all tasks is read, and named by its bits, once."""
        tasks = range(len(self.setup.tasks))
        if method_spec(self.setup.config.method).per_task:
            return {(d.index, t): self.method.expert(d, t) for d in devices for t in tasks}
        whole = {d.index: self.method.expert(d, 0) for d in devices}
        return {(d, t): expert for d, expert in whole.items() for t in tasks}

    def _choices(self, devices: Sequence[Device], name: str, rule: InferenceRule) -> Choices:
        assert rule.route is not None
        out: Choices = {}
        asked = [len(rows) for rows in self.scorer.rows]
        own = [np.full(count, task) for task, count in enumerate(asked)]
        for device in devices:
            found = rule.route(self.router, device)
            if found is not None and name not in RULES.own:
                found = checked_routes(name, found, asked, len(asked), merges=rule.merge is not None)
            for task, chosen in enumerate(own if found is None else found):
                out[device.index, task] = chosen
        return out

    def _projections(self) -> Sequence[torch.Tensor]:
        stack = self.method.router_a(0)
        if stack is None:
            raise ValueError("this method has no router")
        return stack

    def _one_expert(
        self, experts: Mapping[tuple[int, int], Expert | None], routed: Mapping[str, Choices]
    ) -> _RoutedAnswers:
        """What rules ask that answer each row with one expert: each (expert, row) only once."""
        out = _RoutedAnswers()
        split: dict[int, list[tuple[int, np.ndarray]]] = {}  # devices that choose alike share the array
        for rule, choices in routed.items():
            for (device, task), chosen in choices.items():
                if id(chosen) not in split:
                    one = np.unique(chosen[chosen != OPEN]).tolist()
                    split[id(chosen)] = [(answering, chosen == answering) for answering in one]
                for answering, rows in split[id(chosen)]:
                    expert = experts[device, answering]
                    key: Hashable = None if expert is None else expert.key
                    out.experts.setdefault(key, expert)
                    asked = out.wanted.setdefault(key, {})
                    asked[task] = asked.get(task, np.zeros(len(rows), bool)) | rows
                    out.places.append((rule, device, task, key, rows))
        return out

    def _score_routed(
        self, answers: _RoutedAnswers, routed: Mapping[str, Choices]
    ) -> dict[tuple[str, int, int], np.ndarray]:
        """Score for every (rule, device, task)."""
        right = self._score(answers, lambda key: self._adapter(answers.experts[key]))
        out = {
            (r, *place): self.scorer.nothing(place[1]) for r, choices in routed.items() for place in choices
        }
        for rule, device, task, key, rows in answers.places:
            out[rule, device, task][rows] = right[key][task][rows]
        return out

    def _score(
        self, answers: _Answers, adapter: Callable[[Hashable], Adapter | None]
    ) -> dict[Hashable, dict[int, np.ndarray]]:
        right = self.scorer.score(answers.wanted, adapter)
        self._before += answers.rows
        return right

    def _adapter(self, expert: Expert | None) -> Adapter | None:
        if expert is None:
            return None
        layout = self.method.layout
        flat = expert.values.unsqueeze(0)
        b = [v[0] for v in up_factors(layout, flat)]
        if "a" in layout.trains:
            frozen = None if expert.frozen is None else expert.frozen()
            return _with_frozen([v[0] for v in layout.views(flat, "a")], b, frozen)
        static = self.method.static_a([expert.owner])
        assert static is not None
        return Adapter([a[0] for a in static], b)

    def _merged(
        self,
        devices: Sequence[Device],
        experts: Mapping[tuple[int, int], Expert | None],
        rule: InferenceRule,
        only: Mapping[tuple[int, int], np.ndarray],
    ) -> _MergedAnswers:
        """What a rule asks that makes one adapter of rank T*r out of all experts; equal experts share it.

        Args:
            devices: The devices asked.
            experts: What they hold.
            rule: The rule.
            only: (device, task) -> the rows to ask; all where not named. The same for devices that answer alike.

        Returns:
            Who answers with what, and what it is asked.
        """
        out = _MergedAnswers()
        extras = {} if rule.key is None else {d.index: rule.key(self.router, d) for d in devices}
        places = {extra: place for place, extra in enumerate(dict.fromkeys(extras.values()))}
        # One after the other who differ by nothing but their experts, so that what is made of the rest is made once.
        for device in sorted(devices, key=lambda d: places.get(extras.get(d.index), 0)):
            mine = [experts[device.index, t] for t in range(len(self.setup.tasks))]
            same = tuple(None if e is None else e.key for e in mine)
            extra = () if rule.key is None else (extras[device.index],)
            key = out.keys[device.index] = (same, *extra)
            out.holders[key] = (device, mine)
            out.wanted[key] = {
                t: only.get((device.index, t), np.ones(len(rows), bool))
                for t, rows in enumerate(self.scorer.rows)
            }
        return out

    def _score_merged(
        self, answers: _MergedAnswers, rule: InferenceRule, references: Mapping[int, np.ndarray] | None
    ) -> dict[tuple[int, int], np.ndarray]:
        """Score rules that merge; rows not asked are False or 0.

        Args:
            answers: What they are asked.
            rule: The rule.
            references: Task -> all layers' sketches, for `filter`.

        Returns:
            (device, task) -> score of each row (`Scorer.score`).
        """
        merge = rule.merge
        assert merge is not None
        right = self._score(answers, lambda key: merge(self.merger.task(*answers.holders[key], references)))
        return {(d, t): ok for d, key in answers.keys.items() for t, ok in right[key].items()}

    def _sums(self, devices: Sequence[Device], experts: Mapping[tuple[int, int], Expert | None]) -> Sums:
        return update_sums(
            (task, folded_update(self.setup.layers, adapter, self.scale))
            for device in devices
            for task in device.adapter_tasks
            if (adapter := self._adapter(experts[device.index, max(task, 0)])) is not None
        )

    def _staleness(
        self, device: Device, experts: Mapping[tuple[int, int], Expert | None], round_index: int
    ) -> float:
        """Mean age in rounds of the replicas a device answers with; one it never got is as old as the run."""
        ages = []
        for task in range(len(self.setup.tasks)):
            expert = experts[device.index, task]
            if expert is None:
                ages.append(round_index)
            elif expert.origin[0] == "replica":
                ages.append(round_index - int(expert.origin[3]))
        return float(np.mean(ages)) if ages else 0.0


@dataclass
class _Answers:
    """What adapters are asked: adapter's key -> task -> (rows,) bool."""

    wanted: dict[Hashable, dict[int, np.ndarray]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Pairs of adapter and row."""
        return sum(map(rows_of, self.wanted.values()))


@dataclass
class _RoutedAnswers(_Answers):
    """Answers of single experts: whose they are, and (rule, device, task, key, rows) that each row's score is for."""

    experts: dict[Hashable, Expert | None] = field(default_factory=dict)
    places: list[tuple[str, int, int, Hashable, np.ndarray]] = field(default_factory=list)


@dataclass
class _MergedAnswers(_Answers):
    """Answers of merged experts: the key that each device has, and one of the devices that hold it with its experts."""

    keys: dict[int, Hashable] = field(default_factory=dict)
    holders: dict[Hashable, tuple[Device, list[Expert | None]]] = field(default_factory=dict)


def _with_frozen(a: list[torch.Tensor], b: list[torch.Tensor], frozen: Sequence[Factors] | None) -> Adapter:
    if frozen is None:
        return Adapter(a, b)
    return Adapter(
        [torch.cat([x, f[0]]) for x, f in zip(a, frozen, strict=True)],
        [torch.cat([x, f[1]], dim=1) for x, f in zip(b, frozen, strict=True)],
    )


class _Rows:
    def __init__(self) -> None:
        names = ("device", "task", "rule", "right", "asked", "routed_right")
        self.columns: dict[str, list[object]] = {n: [] for n in names}

    def add(self, device: int, task: int, rule: str, right: np.ndarray, routed: np.ndarray | None) -> None:
        share = float(routed.mean()) if routed is not None and len(routed) else float("nan")
        values = (device, task, rule, float(right.sum()), len(right), share)
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)


def _masks(method: Method, devices: Sequence[Device]) -> dict[int, tuple[int, np.ndarray]]:
    found: dict[int, tuple[int, np.ndarray]] = {}
    for device in devices:
        for task, mask in method.masks(device).items():
            if task not in found or device.index < found[task][0]:
                found[task] = (device.index, mask)
    return found
