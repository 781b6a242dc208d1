"""The methods by name; importing this needs no torch. What a name stands for is in `dfl_ray.methods.entries`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channels.registry import Registry

if TYPE_CHECKING:
    from dfl_ray.methods.base import Context, Method
    from dfl_ray.methods.entries import MethodEntry

METHODS: Registry[MethodEntry] = Registry(
    "method",
    "dfl_ray.methods",
    {
        "sparse_orthogonal": "dfl_ray.methods.entries:SPARSE_ORTHOGONAL",
        "dlora": "dfl_ray.methods.entries:DLORA",
        "ffa": "dfl_ray.methods.entries:FFA",
        "rolora": "dfl_ray.methods.entries:ROLORA",
        "fedsa": "dfl_ray.methods.entries:FEDSA",
        "choco": "dfl_ray.methods.entries:CHOCO",
        "flora": "dfl_ray.methods.entries:FLORA",
        "flexlora": "dfl_ray.methods.entries:FLEXLORA",
        "hetlora": "dfl_ray.methods.entries:HETLORA",
        "local": "dfl_ray.methods.entries:LOCAL",
        "centralized": "dfl_ray.methods.entries:CENTRALIZED",
    },
)
"""Every method by name."""


def make_method(context: Context) -> Method:
    """The method that the context's config section names."""
    return METHODS[context.config.name].make(context)
