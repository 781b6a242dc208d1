"""The likelihood router of a group: how likely every held-out prompt is under each task's sketch, per device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch

from dfl_ray.config.methods import experts_settings
from dfl_ray.devices.records import GroupSetup
from dfl_ray.engines.training import ScoredModel
from dfl_ray.evaluation.scorer import Scorer
from dfl_ray.experts.gates import posterior
from dfl_ray.experts.routing import log_likelihoods, prompt_features
from dfl_ray.methods.base import Device, Method

ALONE = 2.0**-24
"""Half of what float32 tells from 1."""

OPEN = -1
"""In place of a task: no single expert answers this row."""


class Router:
    """Routes held-out prompts; devices with equal sketches are routed once.

    Args:
        setup: The run.
        model: The shared base.
        method: The learning method.
        scorer: Says which held-out rows are asked.
        projections: Gives the (T, r, d) projections of every layer.
    """

    def __init__(
        self,
        setup: GroupSetup,
        model: ScoredModel,
        method: Method,
        scorer: Scorer,
        projections: Callable[[], Sequence[torch.Tensor]],
    ) -> None:
        self.setup = setup
        self.section = setup.config.method
        self.model = model
        self.method = method
        self.scorer = scorer
        self.projections = projections
        self._features: list[list[np.ndarray]] | None = None
        self._known: dict[Hashable, list[np.ndarray]] = {}
        self._used: set[Hashable] = set()
        self._chosen: dict[Hashable, list[np.ndarray]] = {}

    def begin(self) -> None:
        """Begin an evaluation: keep what the last one used, so that sketches since replaced are forgotten."""
        self._known = {key: found for key, found in self._known.items() if key in self._used}
        self._used = set()
        self._chosen.clear()

    def log_likelihoods(self, device: Device) -> tuple[Hashable, list[np.ndarray]]:
        """Compute how likely each held-out prompt is under each task's sketch; see `experts.routing.log_likelihoods`.

        Args:
            device: The device, whose sketches are used.

        Returns:
            A key that is equal for equal sketches, and for each task (rows, T) float64; -inf where a sketch is
            unknown.

        Raises:
            ValueError: The method has no sketches.
        """
        known = self.method.sketches(device)
        if known is None:
            raise ValueError("this method has no sketches to route by")
        key, decoded = known
        self._used.add(key)
        if key not in self._known:
            shrinkage = experts_settings(self.section).sketch_shrinkage
            self._known[key] = [
                log_likelihoods(f, decoded(), shrinkage=shrinkage) for f in self._prompt_features()
            ]
        return key, self._known[key]

    def choices(self, device: Device) -> list[np.ndarray]:
        """Choose for each prompt the expert with the largest log-likelihood, the first of equal ones.

        Args:
            device: The device.

        Returns:
            For each task (rows,) int64 task indices; the very arrays for devices with equal sketches.
        """
        key, likely = self.log_likelihoods(device)
        if key not in self._chosen:
            self._chosen[key] = [found.argmax(axis=1) for found in likely]
        return self._chosen[key]

    def shares(self, device: Device) -> tuple[Hashable, dict[int, np.ndarray]]:
        """Compute for each prompt its mixture of experts, softmax(log-likelihoods / `soft_temperature`).

        Args:
            device: The device.

        Returns:
            A key that is equal for equal sketches, and task -> (rows, T) float64, rows sum to 1.
        """
        key, found = self.log_likelihoods(device)
        temperature = experts_settings(self.section).soft_temperature
        return key, {task: posterior(table, temperature) for task, table in enumerate(found)}

    def sole_experts(self, device: Device) -> list[np.ndarray]:
        """Find the expert that alone answers each prompt under the mixtures of `shares`.

        An expert is alone where the others' shares together are less than 2^-24, which float32 cannot tell from none
        beside it: then the mixture is that expert, and need not be computed again.

        Args:
            device: The device.

        Returns:
            For each task (rows,) int64 task indices, `OPEN` for prompts with more than one expert.
        """
        found = self.shares(device)[1]
        return [np.where(_others(found[t]) < ALONE, found[t].argmax(axis=1), OPEN) for t in sorted(found)]

    def _prompt_features(self) -> list[list[np.ndarray]]:
        if self._features is None:
            self._features = [
                prompt_features(
                    self.model, self.projections(), self.setup.router_layers,
                    [task.test.prompt(int(i)) for i in rows],
                )
                for task, rows in zip(self.setup.tasks, self.scorer.rows, strict=True)
            ]  # fmt: skip
        return self._features


def _others(shares: np.ndarray) -> np.ndarray:
    """What all but the largest share come to, (rows,), summed from the smallest so that nothing is lost."""
    return np.sort(shares, axis=1)[:, :-1].sum(axis=1)
