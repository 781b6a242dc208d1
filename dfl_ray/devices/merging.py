"""Inference rules that make one adapter of all experts a device holds, fixed or gated by the input."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import torch

from dfl_ray.devices.records import GroupSetup
from dfl_ray.devices.routing import Router
from dfl_ray.engines.training import ScoredModel
from dfl_ray.evaluation.scorer import Adapter
from dfl_ray.experts.gates import GateOf, arrow_gate, prototype, soft_gate
from dfl_ray.experts.merging import filtered_projections, input_correlations, ties_merge
from dfl_ray.experts.routing import filter_matrices, filtered_factors
from dfl_ray.experts.sketch import stacked, training_rows
from dfl_ray.methods.base import Device, Expert, Method
from dfl_ray.methods.shared import merged_factors
from dfl_ray.seeds import Stream, generator

DENSE_LIMIT = 2**28
"""Most values of dense updates or correlations, over all tasks and layers, that a rule may form."""

Experts = Sequence[Expert | None]
References = Mapping[int, np.ndarray] | None


class Merger:
    """Makes adapters out of experts, one for each task.

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
        projections: Callable[[], list[torch.Tensor]],
    ) -> None:
        self.setup = setup
        self.config = setup.config.method
        self.model = model
        self.method = method
        self.router = router
        self.projections = projections
        self.rank = self.config.rank
        self._filter: tuple[References, np.ndarray] | None = None
        self._full_rows: list[torch.Tensor] | None = None

    def key(self, device: Device, experts: Experts, rule: str) -> Hashable:
        """A name equal for devices that would answer alike."""
        same = tuple(None if e is None else e.key for e in experts)
        return (same, self.router.shares(device)[0]) if rule == "likelihood_soft" else same

    def adapter(self, device: Device, experts: Experts, rule: str, references: References) -> Adapter:
        """The device's one adapter under a rule.

        Raises:
            ValueError: An unknown rule, one that needs sketches there are none of, or one too large to form.
        """
        factors = self._factors(experts)
        a = stacked(self.projections())
        if rule == "filter":
            return Adapter(a, filtered_factors(factors, self._filter_matrices(references), self.rank))
        joined = [torch.cat([f[i] for f in factors], dim=1) for i in range(len(a))]
        if rule == "sum":
            return Adapter(a, joined)
        if rule == "average":
            return Adapter(a, [b / len(experts) for b in joined])
        if rule == "filter_full":
            return Adapter(self._filtered(), joined)
        if rule == "ties":
            return self._ties(factors)
        return Adapter(a, joined, self._gate(device, factors, rule))

    def _gate(self, device: Device, factors: Sequence[Sequence[torch.Tensor]], rule: str) -> GateOf:
        if rule == "likelihood_soft":
            return soft_gate(self.router.shares(device)[1], self.rank)
        if rule != "arrow":
            raise ValueError(f"unknown inference rule {rule!r}")
        prototypes = [
            torch.stack([prototype(a, f[i]) for a, f in zip(stack, factors, strict=True)])
            for i, stack in enumerate(self.projections())
        ]
        top_k, temperature = (
            getattr(self.config, "arrow_top_k", 2),
            getattr(self.config, "arrow_temperature", 1.0),
        )
        return arrow_gate(prototypes, self.rank, top_k=top_k, temperature=temperature)

    def _factors(self, experts: Experts) -> list[list[torch.Tensor]]:
        """B of every layer of every task's expert; 0 for one the device has not."""
        layout = self.method.layout
        zero = torch.zeros(layout.size)
        flat = [(zero if e is None else e.values.cpu()).unsqueeze(0) for e in experts]
        return [[v[0] for v in layout.views(f, "b")] for f in flat]

    def _ties(self, factors: Sequence[Sequence[torch.Tensor]]) -> Adapter:
        layers = self.method.layout.layers
        self._check_size("ties", sum(s.out_features * s.in_features for s in layers))
        scale = self.config.alpha / self.rank
        updates = np.stack(
            [
                np.concatenate(
                    [
                        (scale * b @ stack[t]).numpy().ravel()
                        for b, stack in zip(mine, self.projections(), strict=True)
                    ]
                )
                for t, mine in enumerate(factors)
            ]
        )
        density, factor = getattr(self.config, "ties_density", 0.2), getattr(self.config, "ties_scale", 1.0)
        merged = ties_merge(updates, density=density, scale=factor)
        pairs = merged_factors(self.method.layout, merged, scale)
        return Adapter([p[0] for p in pairs], [p[1] for p in pairs])

    def _filtered(self) -> list[torch.Tensor]:
        """The filtered projections of every layer: nothing in them changes in a run."""
        if self._full_rows is None:
            correlations = self._full_correlations()
            self._full_rows = [
                torch.from_numpy(
                    filtered_projections(
                        [a.numpy() for a in stack], [c[i] for c in correlations], ridge=self._ridge()
                    )
                ).float()
                for i, stack in enumerate(self.projections())
            ]
        return self._full_rows

    def _full_correlations(self) -> list[list[np.ndarray]]:
        """Task -> layer -> full input correlation, from the author's rows: a reference, not charged to the radio."""
        sizes = [s.in_features for s in self.method.layout.layers]
        self._check_size("filter_full", sum(d * d for d in sizes))
        tasks = range(len(self.setup.tasks))
        return [input_correlations(self.model, sizes, self._author_rows(t)) for t in tasks]

    def _author_rows(self, task: int) -> list[np.ndarray]:
        author = min(a for (t, _), a in self.setup.graph.authority.items() if t == task)
        mine = self.setup.rows[author][self.setup.held[author].index(task)]
        count = min(len(mine), getattr(self.config, "sketch_prompts", 128))
        rng = generator(self.setup.config.seed, Stream.SKETCH_ROWS, task, author)
        return training_rows(self.setup.tasks[task].train, rng.choice(mine, count, replace=False))

    def _check_size(self, rule: str, values: int) -> None:
        if values * len(self.setup.tasks) > DENSE_LIMIT:
            raise ValueError(
                f"the rule `{rule}` would form {values:,} dense values for each of {len(self.setup.tasks)} tasks, "
                f"more than {DENSE_LIMIT:,} in all; leave it out of `evaluate.rules`"
            )

    def _filter_matrices(self, references: References) -> np.ndarray:
        """The same for all devices of one evaluation."""
        if self._filter is None or self._filter[0] is not references:
            matrices = filter_matrices(self._all_layers(references), ridge=self._ridge())
            self._filter = (references, matrices)
        return self._filter[1]

    def _ridge(self) -> float:
        return float(getattr(self.config, "filter_lambda", 0.01))

    def _all_layers(self, references: References) -> np.ndarray:
        if references is None or len(references) < len(self.setup.tasks):
            raise ValueError("the rule `filter` needs every task's sketch of all layers")
        return np.stack([references[t] for t in range(len(self.setup.tasks))])
