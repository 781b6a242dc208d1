"""What inference rules make one adapter of: the experts a device holds, their projections and correlations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.config.methods import ExpertsConfig, experts_settings
from dfl_ray.devices.records import GroupSetup
from dfl_ray.devices.routing import Router
from dfl_ray.engines.training import ScoredModel
from dfl_ray.experts.merging import filtered_projections, input_correlations
from dfl_ray.experts.routing import filter_matrices, semidefinite
from dfl_ray.experts.sketch import stacked, training_rows
from dfl_ray.lora.layout import Factor
from dfl_ray.lora.stacks import up_factors
from dfl_ray.methods.base import Device, Expert, Method
from dfl_ray.seeds import Stream, generator

Experts = Sequence[Expert | None]
References = Mapping[int, np.ndarray] | None

_NOT_ALL = "the rule `filter` needs sketches of all layers, and devices have not received those"


@dataclass(frozen=True)
class MergeTask:
    """What a rule makes one adapter of.

    Attributes:
        merger: The run's constants and what has been computed of them.
        device: The device that answers.
        factors: B of every layer of every task's expert, [task][layer]; 0 for one the device has not.
        stacks: A of every layer, (T, r, d).
        references: Task -> all layers' exact sketches; None = the rules go by what the device has received.
        held: Number of tasks whose expert the device has.
    """

    merger: Merger
    device: Device
    factors: list[list[torch.Tensor]]
    stacks: Sequence[torch.Tensor]
    references: References
    held: int

    @property
    def a(self) -> list[torch.Tensor]:
        """[A_1; ...; A_T] of every layer, (T*r, d)."""
        return stacked(self.stacks)

    @property
    def joined(self) -> list[torch.Tensor]:
        """[B_1, ..., B_T] of every layer, (m, T*r)."""
        return [torch.cat([f[i] for f in self.factors], dim=1) for i in range(len(self.factors[0]))]


class Merger:
    """Gives rules that make one adapter out of experts what they need, and keeps what does not change in a run.

    Args:
        setup: The run.
        model: The shared base.
        method: The learning method.
        router: Gives `likelihood_soft` its mixtures.
        projections: Gives the (T, r, d) projections of every layer.
    """

    def __init__(
        self,
        setup: GroupSetup,
        model: ScoredModel,
        method: Method,
        router: Router,
        projections: Callable[[], Sequence[torch.Tensor]],
    ) -> None:
        self.setup = setup
        self.section = setup.config.method
        self.model = model
        self.method = method
        self.router = router
        self.projections = projections
        self.rank = self.section.rank
        self._filter: tuple[References, object, np.ndarray] | None = None
        self._sketches: dict[tuple[int, object], np.ndarray] = {}
        self._full_rows: list[torch.Tensor] | None = None

    @property
    def settings(self) -> ExpertsConfig:
        """The configuration keys of the rules."""
        return experts_settings(self.section)

    def task(self, device: Device, experts: Experts, references: References) -> MergeTask:
        """Collect what a rule makes the device's adapter of.

        Args:
            device: The device that answers.
            experts: For each task the expert it holds, or None.
            references: Task -> all layers' sketches (layers, T*r, T*r), or None.

        Returns:
            The rule's input.
        """
        held = sum(expert is not None for expert in experts)
        return MergeTask(self, device, self._factors(experts, "b"), self._stacks(experts), references, held)

    def _factors(self, experts: Experts, factor: Factor) -> list[list[torch.Tensor]]:
        """One factor of every layer of every task's expert; 0 for one the device has not."""
        layout = self.method.layout
        zero = torch.zeros(layout.size)
        flat = [(zero if e is None else e.values.cpu()).unsqueeze(0) for e in experts]
        return [
            [v[0] for v in (up_factors(layout, f) if factor == "b" else layout.views(f, factor))]
            for f in flat
        ]

    def _stacks(self, experts: Experts) -> Sequence[torch.Tensor]:
        """A of every task's expert, (T, r, d) a layer: trained with it, or static."""
        if "a" in self.method.layout.trains:
            return [torch.stack(layer) for layer in zip(*self._factors(experts, "a"), strict=True)]
        static = self.method.static_a([(0, t) if e is None else e.owner for t, e in enumerate(experts)])
        assert static is not None, "A is neither trained nor static"
        return static

    def filtered_projections(self) -> list[torch.Tensor]:
        """Compute A_t C_t (sum_s C_s + lambda I)^-1 of all tasks from full input correlations; computed once in a run.

        See `experts.merging.filtered_projections` for the equation and its source.

        Returns:
            One (T*r, d) float32 a layer.

        Raises:
            ValueError: The correlations would hold more than `DENSE_LIMIT` values.
        """
        if self._full_rows is None:
            correlations = self._full_correlations()
            self._full_rows = [
                torch.from_numpy(
                    filtered_projections(
                        [a.numpy() for a in stack],
                        [c[i] for c in correlations],
                        ridge=self.settings.filter_lambda,
                    )
                ).float()
                for i, stack in enumerate(self.projections())
            ]
        return self._full_rows

    def _full_correlations(self) -> list[list[np.ndarray]]:
        """Task -> layer -> full input correlation, from the author's rows: a reference, not charged to the radio.

        That of a task which nobody holds is 0.
        """
        sizes = [s.in_features for s in self.method.layout.layers]
        held = self._held()
        return [
            input_correlations(self.model, sizes, self._author_rows(t))
            if t in held
            else [np.zeros((d, d)) for d in sizes]
            for t in range(len(self.setup.tasks))
        ]

    def _held(self) -> set[int]:
        """The tasks that some device holds."""
        return {task for held in self.setup.held.values() for task in held}

    def _author_rows(self, task: int) -> list[np.ndarray]:
        author = min(a for (t, _), a in self.setup.graph.authority.items() if t == task)
        mine = self.setup.rows[author][self.setup.held[author].index(task)]
        count = min(len(mine), self.settings.sketch_prompts)
        rng = generator(self.setup.config.seed, Stream.SKETCH_ROWS, task, author)
        return training_rows(self.setup.tasks[task].train, rng.choice(mine, count, replace=False))

    def filter_matrices(self, device: Device, references: References) -> np.ndarray:
        """Compute the filters over sketched inputs: the same for devices with equal sketches.

        See `experts.routing.filter_matrices` for the equation. Of a task whose sketch is unknown to the device the
        correlation counts as 0, and so is its filter. Received sketches are made semi-definite again after rounding.

        Args:
            device: The device that answers.
            references: Task -> all layers' exact sketches (layers, T*r, T*r), for all devices alike; None = the
                sketches that the device has received.

        Returns:
            (T, layers, T*r, T*r) float64.

        Raises:
            ValueError: The sketch of a task that somebody holds is missing among the references, or those received
                are not of all layers.
        """
        key, decoded = ((), None) if references is not None else self._received(device)
        if self._filter is None or self._filter[0] is not references or self._filter[1] != key:
            found = self._all_layers(references) if decoded is None else self._definite(key, decoded())
            matrices = filter_matrices(found, ridge=self.settings.filter_lambda)
            self._filter = (references, key, matrices)
        return self._filter[2]

    def _received(self, device: Device) -> tuple[tuple[object, ...], Callable[[], np.ndarray]]:
        """A key that is equal for equal sketches, and what decodes the sketches the device has."""
        found = self.method.sketches(device)
        if found is None:
            raise ValueError(_NOT_ALL)
        return found

    def _definite(self, key: Sequence[object], received: np.ndarray) -> np.ndarray:
        """Received sketches (T, layers, n, n) as correlations: 0 for tasks whose sketch is unknown (NaN).

        A sketch is made definite once, whatever other sketches devices have beside it.
        """
        if received.shape[1] != len(self.method.layout.layers):
            raise ValueError(_NOT_ALL)
        out = np.zeros_like(received)
        for name in ((task, maker) for task, maker in enumerate(key) if maker is not None):
            if name not in self._sketches:
                self._sketches[name] = semidefinite(received[name[0]])
            out[name[0]] = self._sketches[name]
        for old in list(self._sketches)[: -2 * len(key)]:
            del self._sketches[old]
        return out

    def _all_layers(self, references: References) -> np.ndarray:
        if not references or not self._held() <= set(references):
            raise ValueError("the rule `filter` needs every held task's sketch of all layers")
        nothing = np.zeros_like(next(iter(references.values())))  # of a task that nobody has
        return np.stack([references.get(t, nothing) for t in range(len(self.setup.tasks))])
