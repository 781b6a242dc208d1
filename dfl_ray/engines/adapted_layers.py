"""The layers a run adapts, and which of them see the same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.targets import choose_layers
from dfl_ray.models.decoder import DecoderShape, input_of, read_decoder
from dfl_ray.models.shapes import linear_layers

if TYPE_CHECKING:
    import torch

    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.models.base import BaseWeights


@dataclass(frozen=True)
class Targets:
    """What a run adapts.

    Attributes:
        layers: The adapted layers, in model order.
        distinct: Indices of those that see an input of their own, the first of each.
        parameters: Number of the base model's parameters.
    """

    layers: tuple[LayerShape, ...]
    distinct: tuple[int, ...]
    parameters: int


def targets_of(weights: BaseWeights, target_modules: str | Sequence[str]) -> Targets:
    """The adapted layers of a base model: of the Llama family by its shape alone, of others by trying it.

    Args:
        weights: The base model.
        target_modules: "all-linear" for every linear layer but the output head (as in PEFT), or name suffixes.

    Raises:
        InputError: Nothing matches.
    """
    shape = weights.decoder
    parameters = sum(prod(a.shape) for a in weights.arrays.values())
    if shape is None:
        return _targets_by_trial(weights, target_modules, parameters)
    return targets_by_shape(shape, target_modules, parameters)


def targets_by_shape(shape: DecoderShape, target_modules: str | Sequence[str], parameters: int) -> Targets:
    """The adapted layers of a model of the Llama family.

    Args:
        shape: Its shape, from its configuration.
        target_modules: See `targets_of`.
        parameters: Number of its parameters.

    Raises:
        InputError: Nothing matches.
    """
    layers = choose_layers(shape.linear_layers(), target_modules)
    inputs = [input_of(s.name) for s in layers]
    return Targets(tuple(layers), tuple(inputs.index(x) for x in dict.fromkeys(inputs)), parameters)


def planned_targets(folder: Path, target_modules: str | Sequence[str]) -> Targets:
    """The adapted layers of a local model folder, from its configuration and its weight files' headers alone.

    Outside the Llama family it isn't known without trying which layers see the same input; each counts as one that
    sees its own.

    Args:
        folder: The folder.
        target_modules: See `targets_of`.

    Raises:
        InputError: No weight files there, or nothing matches.
    """
    layers, parameters = linear_layers(folder, target_modules)
    described = folder / "config.json"
    shape = read_decoder(described.read_text(encoding="utf-8")) if described.is_file() else None
    if shape is not None:
        return targets_by_shape(shape, target_modules, parameters)
    return Targets(tuple(layers), tuple(range(len(layers))), parameters)


def _targets_by_trial(weights: BaseWeights, target_modules: str | Sequence[str], parameters: int) -> Targets:
    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.lora.inject import find_targets, inject
    from dfl_ray.models.build import build_model

    model = build_model(weights)
    layers = tuple(find_targets(model, target_modules))
    return Targets(layers, tuple(distinct_inputs(ScoredModel(model, inject(model, layers)))), parameters)


def distinct_inputs(model: ScoredModel) -> list[int]:
    """Indices of the adapted layers that see an input of their own (q, k and v share one, so do gate and up)."""
    seen: dict[int, tuple[int, torch.Tensor]] = {}
    order: list[int] = []

    def see(layer: int, x: torch.Tensor) -> None:
        if x.data_ptr() not in seen:
            order.append(layer)
        seen[x.data_ptr()] = (layer, x)  # kept alive, so that no address is used twice

    import numpy as np

    from dfl_ray.engines.batches import prompt_batch

    batch, _ = prompt_batch([np.array([1, 2, 3])])
    model.observe(batch.to(model.device), see)
    return order
