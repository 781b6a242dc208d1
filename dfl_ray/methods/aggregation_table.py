"""The aggregation rules by name; importing this needs no torch.

A new one is an object with the functions of `dfl_ray.methods.aggregations.Aggregation` and a line here, or an entry
point in the group `dfl_ray.aggregations`.
"""

from __future__ import annotations

from typing import Any

from channels.registry import Registry

AGGREGATIONS: Registry[Any] = Registry(
    "aggregation rule",
    "dfl_ray.aggregations",
    {
        "gossip": "dfl_ray.methods.aggregations:GOSSIP",
        "push_sum": "dfl_ray.methods.aggregations:PUSH_SUM",
        "clip": "dfl_ray.methods.robust:CLIP",
        "trimmed_mean": "dfl_ray.methods.robust:TRIMMED_MEAN",
        "median": "dfl_ray.methods.robust:MEDIAN",
        "krum": "dfl_ray.methods.robust:KRUM",
        "balance": "dfl_ray.methods.robust:BALANCE",
    },
    kinds=("dfl_ray.methods.aggregations:Aggregation",),
)
"""Every aggregation rule by name."""

TRIMMING = ("trimmed_mean", "krum")
"""Those of ours that read `method.faulty_share`."""
