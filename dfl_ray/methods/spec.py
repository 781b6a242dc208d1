"""What the driver must know of each method without making it; importing this needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dfl_ray.config.training import TrainingConfig
from dfl_ray.experts.table import RULES
from dfl_ray.lora.layout import Factor
from dfl_ray.methods.table import METHODS

MERGED = "merged"
"""Name in a device's memory of the dense update merged into its base: all layers' (m, d), one after the other."""


@dataclass(frozen=True)
class MethodSpec:
    """MethodSpec of one method.

    Attributes:
        rule: The inference rule its accuracy is reported by.
        rules: Inference rules it can be asked by.
        compared: Those compared at the end of a run unless `evaluate.rules` names others (`all` = all).
        trains: Factors stored in an adapter.
        per_task: Whether a device has an adapter a task and mixes inside tasks (else one, over the whole graph).
    """

    rule: str
    rules: tuple[str, ...]
    compared: tuple[str, ...]
    trains: tuple[Factor, ...]
    per_task: bool


USUAL = MethodSpec("single", ("single",), ("single",), ("a", "b"), False)
"""One adapter a device for all its tasks, A and B stored: what holds of every method not named below."""
_OURS = ("likelihood", "oracle", "likelihood_soft", "filter", "sum", "average")

METHOD_SPECS: Mapping[str, MethodSpec] = MappingProxyType(
    {
        "sparse_orthogonal": MethodSpec(_OURS[0], RULES.own, _OURS, ("b",), True),
        "ffa": replace(USUAL, trains=("b",)),
    }
)


def method_spec(config: TrainingConfig) -> MethodSpec:
    """MethodSpec of the configured method, with the inference rule that its section names."""
    section: Any = config
    spec = METHODS[section.type].spec
    return replace(spec, rule=section.rule) if "rule" in type(config).model_fields else spec
