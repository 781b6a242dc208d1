"""What the driver must know of each method without making it; importing this needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, get_args

from dfl_ray.config.methods import Rule, TrainingConfig
from dfl_ray.lora.layout import Factor

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
        "sparse_orthogonal": MethodSpec(_OURS[0], get_args(Rule), _OURS, ("b",), True),
        "ffa": replace(USUAL, trains=("b",)),
    }
)


def method_spec(config: TrainingConfig) -> MethodSpec:
    """MethodSpec of the configured method."""
    section: Any = config
    facts = METHOD_SPECS.get(section.type, USUAL)
    return replace(facts, rule=getattr(section, "rule", facts.rule))
