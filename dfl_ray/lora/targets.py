"""Which linear layers of a base model are adapted, and which of them see the same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.models.decoder import input_of

if TYPE_CHECKING:
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
    layers = choose_layers(shape.linear_layers(), target_modules)
    inputs = [input_of(s.name) for s in layers]
    return Targets(tuple(layers), tuple(inputs.index(x) for x in dict.fromkeys(inputs)), parameters)


def _targets_by_trial(weights: BaseWeights, target_modules: str | Sequence[str], parameters: int) -> Targets:
    from dfl_ray.experts.sketch import distinct_inputs
    from dfl_ray.lora.inject import find_targets, inject
    from dfl_ray.lora.training import ScoredModel
    from dfl_ray.models.build import build_model

    model = build_model(weights)
    layers = tuple(find_targets(model, target_modules))
    return Targets(layers, tuple(distinct_inputs(ScoredModel(model, inject(model, layers)))), parameters)


def choose_layers(found: Sequence[LayerShape], target_modules: str | Sequence[str]) -> list[LayerShape]:
    """Those of a model's linear layers that are to be adapted; see `targets_of`.

    Raises:
        InputError: Nothing matches.
    """
    chosen = list(found)
    if target_modules != "all-linear":
        wanted = (target_modules,) if isinstance(target_modules, str) else tuple(target_modules)
        chosen = [s for s in found if any(s.name == w or s.name.endswith("." + w) for w in wanted)]
    if not chosen:
        suffixes = sorted({s.name.rsplit(".", 1)[-1] for s in found})
        raise InputError(
            f"`model.target_modules` = {target_modules!r} matches no linear layer of the model",
            expected="`all-linear` or some of: "
            + (", ".join(suffixes) or "none, the model has no linear layer"),
            change="Change `model.target_modules`.",
        )
    return chosen
