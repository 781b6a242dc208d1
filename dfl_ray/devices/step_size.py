"""The settings of a device's optimiser steps in one of its local rounds."""

from __future__ import annotations

from dfl_ray.config.training import TrainingConfig
from dfl_ray.lora.optimizer import StepSize


def step_size(config: TrainingConfig, number: int) -> StepSize:
    """Settings of a local round: the learning rate rises linearly to its full size over `method.warmup_rounds`.

    Args:
        config: The `method` section.
        number: The device's local round, from 1.

    Returns:
        The settings, with lr min(1, number / warmup_rounds).
    """
    warm = min(1.0, number / config.warmup_rounds) if config.warmup_rounds else 1.0
    return StepSize(
        config.learning_rate * warm, config.weight_decay, config.clip_norm, config.proximal, config.optimizer
    )
