"""What all devices of a run start from: the factors that are drawn once, or an adapter that was saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.config.methods import PerTaskConfig
from dfl_ray.config.schema import Config
from dfl_ray.lora.layout import LayerShape
from dfl_ray.methods.spec import method_spec

if TYPE_CHECKING:
    from dfl_ray.lora.warm import WarmStart


def warm_start(config: Config, layers: Sequence[LayerShape]) -> WarmStart | None:
    """Read the adapter that all devices start from.

    Args:
        config: The experiment.
        layers: The adapted layers.

    Returns:
        Its factors; None where `model.warm_start` is not set.

    Raises:
        InputError: It is not of this base model, or the method's adapters cannot hold it.
    """
    if config.model.warm_start is None:
        return None
    from dfl_ray.models.warm_start import read_warm_start

    method = config.method
    return read_warm_start(
        config.model.warm_start, layers, scale=method.alpha / method.rank, most_rank=min(method.device_ranks)
    )


def warm_notes(config: Config, warm: WarmStart | None, layers: Sequence[LayerShape]) -> tuple[str, ...]:
    """What is said of a warm start; nothing without one."""
    return () if warm is None else warm.note(str(config.model.warm_start), len(layers))


def static_projections(
    config: Config, layers: tuple[LayerShape, ...], tasks: int, warm: WarmStart | None = None
) -> tuple[np.ndarray, ...]:
    """Draw the static A that all devices share, the only draw of a run.

    Args:
        config: The experiment.
        layers: The adapted layers.
        tasks: Number of tasks T.
        warm: The adapter that all devices start from, whose A a method keeps that trains B alone.

    Returns:
        One (T, r, d) float32 a layer of a method with an expert a task (`config.methods.PerTaskConfig`), one
        (1, r, d) of another method that does not train A; empty where A is trained or each device draws its own
        (`method.projection: per_device`).

    Raises:
        InputError: There is no room for the tasks' projections.
    """
    from dfl_ray.lora.projection import common_factors, drawn_projections, input_bases

    method = config.method
    if isinstance(method, PerTaskConfig):
        if method.projection == "per_device":
            return ()
        return drawn_projections(config.seed, layers, tasks=tasks, rank=method.rank, kind=method.projection)
    trains = method_spec(method).trains
    if "a" in trains:
        return ()
    if "c" in trains:
        return tuple(a[None].astype(np.float32) for a in input_bases(config.seed, layers, method.rank))
    drawn = common_factors(config.seed, layers, method.rank)
    return tuple(a[None].astype(np.float32) for a in (drawn if warm is None else warm.common_a(drawn)))


def static_ups(config: Config, layers: Sequence[LayerShape]) -> tuple[np.ndarray, ...]:
    """Draw the static U^T that all devices share where a core is trained; see `lora.projection.output_bases`.

    Args:
        config: The experiment.
        layers: The adapted layers.

    Returns:
        One (r, m) float32 a layer; empty where no core is trained.
    """
    from dfl_ray.lora.projection import output_bases

    if "c" not in method_spec(config.method).trains:
        return ()
    return tuple(u.astype(np.float32) for u in output_bases(config.seed, layers, config.method.rank))
