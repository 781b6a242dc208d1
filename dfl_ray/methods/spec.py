"""What the driver and the plan must know of each method without making it; importing this needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import get_args

from dfl_ray.config.methods import Rule, TrainingConfig
from dfl_ray.lora.layout import Factor
from dfl_ray.methods import laws
from dfl_ray.methods.expert_law import ExpertLaw
from dfl_ray.methods.laws import LawContext, TrafficLaw


@dataclass(frozen=True)
class MethodSpec:
    """What is known of one method before it is made.

    Attributes:
        law: Makes its traffic law: the one place that says what it sends.
        rule: The inference rule its accuracy is reported by.
        rules: Inference rules it can be asked by.
        compared: Those compared at the end of a run unless `evaluate.rules` names others (`all` = all).
        trains: Factors stored in an adapter.
        per_task: Whether a device has an adapter a task and mixes inside tasks (else one, over the whole graph).
    """

    law: Callable[[LawContext], TrafficLaw]
    rule: str = "single"
    rules: tuple[str, ...] = ("single",)
    compared: tuple[str, ...] = ("single",)
    trains: tuple[Factor, ...] = ("a", "b")
    per_task: bool = False


_COMPARED = ("likelihood", "oracle", "likelihood_soft", "filter", "sum", "average")

METHOD_SPECS: Mapping[str, MethodSpec] = MappingProxyType(
    {
        "sparse_orthogonal": MethodSpec(ExpertLaw, _COMPARED[0], get_args(Rule), _COMPARED, ("b",), True),
        "dlora": MethodSpec(laws.whole_adapter),
        "ffa": MethodSpec(laws.whole_adapter, trains=("b",)),
        "rolora": MethodSpec(laws.alternating_factor),
        "fedsa": MethodSpec(laws.shared_factor),
        "choco": MethodSpec(laws.ChocoLaw),
        "flora": MethodSpec(laws.whole_adapter),
        "flexlora": MethodSpec(laws.ranked_module),
        "hetlora": MethodSpec(laws.ranked_module),
        "local": MethodSpec(laws.silent),
        "centralized": MethodSpec(laws.joint),
    }
)


def method_spec(config: TrainingConfig) -> MethodSpec:
    """The specification of the configured method, with the rule that its section names."""
    spec = METHOD_SPECS[config.name]
    return spec if config.reported_rule is None else replace(spec, rule=config.reported_rule)
