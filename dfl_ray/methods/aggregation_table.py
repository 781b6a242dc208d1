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
    },
)
"""Every aggregation rule by name."""
