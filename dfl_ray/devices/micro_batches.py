"""Which devices of a group are trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfl_ray.devices.records import GroupSetup
from dfl_ray.devices.step_size import step_size
from dfl_ray.engines.gpu.decoder import LargeDecoder
from dfl_ray.engines.gpu.make import devices_that_fit, free_memory
from dfl_ray.engines.memory import STEP_TOKENS
from dfl_ray.engines.training import ScoredModel
from dfl_ray.methods.base import Device


def micro_batches(
    setup: GroupSetup,
    model: ScoredModel,
    size: int,
    turns: Sequence[tuple[Device[Any], int]],
    *,
    alone: bool = False,
) -> list[list[Device[Any]]]:
    """Divide devices into the parts that are trained together, all of a part with one step size.

    Args:
        setup: The run.
        model: The base model, where it is trained.
        size: Values of one adapter.
        turns: The devices that end a local round, and its number.
        alone: Whether every device is trained alone, whatever else is said.

    Returns:
        The parts.
    """
    config, most = setup.config.method, 1 if alone else setup.config.runtime.micro_devices
    if most == "auto" and model.large is not None and model.device.type == "cuda":
        adapters = max((len(d.adapter_tasks) for d, _ in turns), default=1)
        most = _that_fit(setup, model, model.large, size, adapters)
    elif most == "auto":
        longest = max(float(t.train.lengths.mean()) for t in setup.tasks)
        most = int(max(1, STEP_TOKENS // (config.batch_rows * longest)))
    alike: dict[float, list[Device[Any]]] = {}
    for device, number in turns:
        alike.setdefault(step_size(config, number).learning_rate, []).append(device)
    return [part[i : i + most] for part in alike.values() for i in range(0, len(part), most)]


def _that_fit(setup: GroupSetup, model: ScoredModel, base: LargeDecoder, size: int, adapters: int) -> int:
    longest = max(int(t.train.lengths.max()) for t in setup.tasks)
    gpus, method = setup.config.runtime.gpus_per_actor, setup.config.method
    return devices_that_fit(
        base, free_memory(model.device, gpus if 0 < gpus < 1 else 1.0), tokens=method.batch_rows * longest,
        adapters=adapters, size=size, rank=method.rank,
    )  # fmt: skip
