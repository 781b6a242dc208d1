"""The inference rules by name; importing this needs no torch.

A new one is an `InferenceRule` (`dfl_ray.devices.rules`) and a line here, or an entry point in the group
`dfl_ray.rules`.
"""

from __future__ import annotations

from typing import Any

from channels.registry import Registry

RULES: Registry[Any] = Registry(
    "inference rule",
    "dfl_ray.rules",
    {
        "likelihood": "dfl_ray.devices.rules:LIKELIHOOD",
        "oracle": "dfl_ray.devices.rules:ORACLE",
        "likelihood_soft": "dfl_ray.devices.rules:LIKELIHOOD_SOFT",
        "filter": "dfl_ray.devices.rules:FILTER",
        "sum": "dfl_ray.devices.rules:SUM",
        "average": "dfl_ray.devices.rules:AVERAGE",
        "arrow": "dfl_ray.devices.rules:ARROW",
        "ties": "dfl_ray.devices.rules:TIES",
        "filter_full": "dfl_ray.devices.rules:FILTER_FULL",
    },
    kinds=("dfl_ray.devices.rules:InferenceRule",),
)
"""Rules for methods with an expert a task; a method with one adapter a device has `dfl_ray.devices.rules.SINGLE`."""

WEIGHED = ("likelihood_soft", "arrow")
"""Those of them that weigh experts by what they read (`dfl_ray.experts.gates`)."""
