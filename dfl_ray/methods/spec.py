"""What the driver and the plan must know of each method without making it; importing this needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dfl_ray.config.training import TrainingConfig
from dfl_ray.lora.layout import Factor
from dfl_ray.methods.laws import LawContext, TrafficLaw, whole_adapter
from dfl_ray.methods.table import METHODS


@dataclass(frozen=True)
class MethodSpec:
    """What is known of one method before it is made; the default is one adapter a device with A and B trained and sent.

    Attributes:
        law: Makes its traffic law: the one place that says what it sends.
        rule: The inference rule its accuracy is reported by.
        rules: Inference rules it can be asked by.
        compared: Those compared at the end of a run unless `evaluate.rules` names others (`all` = all).
        trains: Factors stored in an adapter.
        per_task: Whether a device has an adapter a task and mixes inside tasks (else one, over the whole graph).
        feedback: Whether the rounding error of int8 is carried into the next message (`method.error_feedback`, or the
            public copies of CHOCO); not by methods that send whole modules.
        task_labels: Whether training uses which task each row belongs to, which not every user can tell.
        barrier: Why the method needs all devices to wait for each other, in words; empty where it can go without
            (`schedule: async`, docs/time.md).
    """

    law: Callable[[LawContext], TrafficLaw] = whole_adapter
    rule: str = "single"
    rules: tuple[str, ...] = ("single",)
    compared: tuple[str, ...] = ("single",)
    trains: tuple[Factor, ...] = ("a", "b")
    per_task: bool = False
    task_labels: bool = False
    feedback: bool = True
    barrier: str = ""


def method_spec(config: TrainingConfig) -> MethodSpec:
    """Find the specification of the configured method, with the rule that its section names.

    Args:
        config: The `method` section.

    Returns:
        The specification.
    """
    spec = METHODS[config.name].spec
    return spec if config.reported_rule is None else replace(spec, rule=config.reported_rule)
