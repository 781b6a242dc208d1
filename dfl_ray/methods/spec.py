"""What the driver and the plan must know of each method without making it; importing this needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dfl_ray.config.training import GossipConfig, TrainingConfig
from dfl_ray.lora.layout import Factor
from dfl_ray.methods.laws import LawContext, TrafficLaw, whole_adapter
from dfl_ray.methods.table import METHODS

ROBUST_HEARD = 7.0
"""Float32 arrays that a robust rule holds of each neighbour; measured in test_kept_arrays.py."""
PRODUCTS_HEARD = 3.0
"""Float32 arrays of each neighbour where products of its factors are needed: values, and the factors in float64."""
_SUMMED = ("gossip", "push_sum")
"""Rules that add up what has arrived, one after the other."""


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
        arrays: Float32 arrays of an adapter's size that a device keeps beside adapter, moments and int8's residual.
        copies: Whether it keeps one more for each neighbour.
        heard: Float32 arrays of an adapter's size that a device holds, while it mixes, of each other that it hears at
            once; of a server that sums what it hears the messages as they were sent, here as float16.
        own_base: Whether it keeps a float32 update of the size of all adapted layers, its own base.
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
    arrays: int = 0
    copies: bool = False
    heard: float = 1.0
    own_base: bool = False
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


def filters_received(config: TrainingConfig) -> bool:
    """Whether the rule `filter` goes by the sketches that a device has received: where it is the method's own rule.

    As one rule of a comparison it is a reference: it goes by exact sketches of all layers and tasks, which were not
    sent.

    Args:
        config: The `method` section.

    Returns:
        True if it does.
    """
    return method_spec(config).rule == "filter"


def kept_arrays(config: TrainingConfig, neighbours: float) -> float:
    """Count the arrays of an adapter's size that a device keeps beside adapter, moments and int8's residual.

    Args:
        config: The `method` section.
        neighbours: Neighbours of a device, their mean.

    Returns:
        Arrays of float32; those of control variates, own, mean and gradient, are among them.
    """
    spec = method_spec(config)
    variates = 3 if getattr(config, "control_variates", False) else 0
    return spec.arrays + (neighbours if spec.copies else 0.0) + variates


def heard_arrays(config: TrainingConfig, neighbours: float, server_share: float) -> float:
    """Count the arrays of an adapter's size that mixing holds at once: of a device's neighbours, or of all at a server.

    Args:
        config: The `method` section.
        neighbours: Neighbours of the device that has most.
        server_share: Devices, but of the server's memory only the share that is to be counted.

    Returns:
        Arrays of float32. Robust rules hold `ROBUST_HEARD` of each neighbour, in float64 and sorted.
    """
    heard, mixes = method_spec(config).heard, not isinstance(config, GossipConfig) or config.mixes
    if not mixes:
        return 0.0
    if config.hub is not None:
        return heard * server_share
    robust = isinstance(config, GossipConfig) and config.aggregation not in _SUMMED
    return (ROBUST_HEARD if robust else heard) * neighbours
