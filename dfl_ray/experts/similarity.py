"""What devices can tell of their data without naming tasks: the input sketch of each local data set.

A device sorts its rows into its local data sets, of which it says no name. Of each it gives the sketch
C = mean z z^T with z = R x, x the inputs of some of the frozen base model's layers and R random projections that all
devices draw from the seed, alike for every method. The base model is frozen, so a sketch is the same before, during
and after training: nothing need be warmed up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.seeds import Stream, generator

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.engines.adapted_layers import Targets
    from dfl_ray.models.weights import BaseWeights
    from dfl_ray.tasks.tokens import TokenTask

RANK = 16
"""Rows of R for each layer."""
ROWS = 32
"""Training rows of a local data set that its sketch is taken from, at most."""
LAYERS = 4
"""Layers with inputs of their own that are looked at, spread evenly over the model."""


@dataclass(frozen=True)
class SharedSketches:
    """One sketch for each local data set.

    Attributes:
        values: (sets, features) float64, a row for each: the layers' sketches, each divided by its trace.
        device: (sets,) the device that has it.
        task: (sets,) the declared task it is of: only for the score, never used to find groups.
    """

    values: np.ndarray
    device: np.ndarray
    task: np.ndarray


def shared_sketches(
    config: Config,
    weights: BaseWeights,
    tokens: Sequence[TokenTask],
    targets: Targets,
    held: Mapping[int, tuple[int, ...]],
    rows: Mapping[int, tuple[np.ndarray, ...]],
) -> SharedSketches:
    """Compute the sketches of all local data sets.

    Args:
        config: The experiment; only its seed is used.
        weights: The base model.
        tokens: The tasks' rows.
        targets: The layers that can be adapted.
        held: Device -> the tasks it holds.
        rows: Device -> for each held task the indices of its training rows.

    Returns:
        The sketches in the order of devices, then of their data sets.
    """
    import torch

    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.experts.sketch import sketch, training_rows
    from dfl_ray.lora.inject import inject
    from dfl_ray.lora.projection import common_factors
    from dfl_ray.models.build import build_model

    built = build_model(weights, "cpu")
    model = ScoredModel(built, inject(built, targets.layers))
    places = np.unique(np.linspace(0, len(targets.distinct) - 1, LAYERS).round().astype(int))
    looked_at = [targets.distinct[place] for place in places.tolist()]
    factors = common_factors(config.seed, targets.layers, RANK)
    projections = [torch.from_numpy(np.asarray(a, np.float32))[None] for a in factors]
    sets = [(d, t, mine) for d, tasks in held.items() for t, mine in zip(tasks, rows[d], strict=True)]
    values: list[np.ndarray] = []
    for device, task, mine in sets:
        rng = generator(config.seed, Stream.SKETCH_ROWS, task, device)
        chosen = rng.choice(mine, min(len(mine), ROWS), replace=False)
        found = sketch(model, projections, looked_at, training_rows(tokens[task].train, chosen))
        values.append(np.concatenate([c[np.triu_indices(len(c))] / np.trace(c) for c in found]))
    ends = np.array([(device, task) for device, task, _ in sets])
    return SharedSketches(np.stack(values), ends[:, 0], ends[:, 1])
