"""Bases of a core that come from the base model's first gradient: computed once, before the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dfl_ray.config.literature import FedSbConfig
from dfl_ray.devices.records import GroupSetup
from dfl_ray.lora.first_update import FirstUpdate, first_update
from dfl_ray.seeds import Stream, generator


def with_gradient_bases(setup: GroupSetup) -> GroupSetup:
    """Put the bases and the first core of LoRA-SB in the place of drawn ones, where `method.bases: gradient` asks.

    Args:
        setup: The run, with drawn bases.

    Returns:
        The run, with `projections`, `ups` and `cores` of `lora.first_update`; `setup` itself where they are drawn.
    """
    method = setup.config.method
    if not (isinstance(method, FedSbConfig) and method.bases == "gradient"):
        return setup
    found = _decompose(setup, method)
    return replace(setup, projections=tuple(a[None] for a in found.downs), ups=found.ups, cores=found.cores)


def basis_rows(setup: GroupSetup, count: int) -> list[tuple[int, int]]:
    """Draw training rows of the devices: a device, a task by its mixture, one of its rows of that task.

    Args:
        setup: The run.
        count: Rows to draw, with repetition.

    Returns:
        (task, row index) of each.
    """
    rng = generator(setup.config.seed, Stream.BASES)
    devices = sorted(setup.held)
    found: list[tuple[int, int]] = []
    for device in rng.choice(devices, count).tolist():
        place = int(rng.choice(len(setup.held[device]), p=setup.shares[device]))
        found.append((setup.held[device][place], int(rng.choice(setup.rows[device][place]))))
    return found


def _decompose(setup: GroupSetup, method: FedSbConfig) -> FirstUpdate:
    from dfl_ray.devices.step_size import step_size
    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.engines.weight_gradients import weight_gradients
    from dfl_ray.lora.inject import inject
    from dfl_ray.models.build import build_model

    built = build_model(setup.weights, "cpu")
    model = ScoredModel(built, inject(built, setup.layers))
    rows = [(setup.tasks[task].train, row) for task, row in basis_rows(setup, method.bases_rows)]
    gradients = weight_gradients(model, setup.layers, rows)
    assert all(np.isfinite(g).all() for g in gradients), "the base model's gradient is not finite"
    return first_update(
        gradients,
        rank=method.rank,
        learning_rate=step_size(method, 1).learning_rate,
        scale=method.alpha / method.rank,
    )
