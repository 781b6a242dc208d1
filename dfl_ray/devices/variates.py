"""Local steps under control variates: from what devices keep to the engine, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dfl_ray.config.training import AveragedConfig, TrainingConfig
from dfl_ray.engines.correction import Correction
from dfl_ray.engines.training import TrainingResult
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.methods.base import Device
from dfl_ray.methods.exchange import ExchangeState
from dfl_ray.methods.variates import Variates

Steps = Callable[..., TrainingResult]


def with_variates(config: TrainingConfig, devices: Sequence[Device[Any]], steps: Steps) -> Steps:
    """Make local steps follow control variates where the configuration asks for them.

    Args:
        config: The `method` section.
        devices: The devices that train together, one adapter each.
        steps: Makes the steps of the adapters it is given as `state`.

    Returns:
        `steps` itself without control variates.
    """
    if not (isinstance(config, AveragedConfig) and config.control_variates):
        return steps

    def corrected(state: AdapterState) -> TrainingResult:
        kept = [variates_of(device) for device in devices]
        size = state.theta.shape[1]
        added = torch.from_numpy(np.stack([v.correction(size) for v in kept])).to(state.theta.device)
        correction = Correction(added)
        result = steps(state=state, correction=correction)
        for variates, total, count in zip(
            kept, correction.sums.cpu().numpy(), correction.steps.tolist(), strict=True
        ):
            variates.observe(total.copy(), count)
        return result

    return corrected


def variates_of(device: Device[Any]) -> Variates:
    """The control variates that a device keeps."""
    memory = device.memory
    assert isinstance(memory, ExchangeState), "the method does not average parts of adapters"
    return memory.variates
