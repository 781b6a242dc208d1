"""The path-loss models, schedulers and mixes of device classes by name, imported when they are asked for.

A new one is one file and one line here, or, in a package of one's own, an entry point in the group of the table
(docs/extending.md). A path-loss model or scheduler with options is a function whose keyword arguments are the
options; its range checks raise `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from channels.registry import Registry

if TYPE_CHECKING:
    from channels.energy import DeviceClass
    from channels.pathloss.model import PathLossModel
    from channels.scheduling.problem import Scheduler

PATH_LOSS: Registry[PathLossModel | Callable[..., PathLossModel]] = Registry(
    "path-loss model",
    "dfl_ray.path_loss",
    {
        "free_space": "channels.pathloss.basic:FREE_SPACE",
        "log_distance": "channels.pathloss.basic:log_distance_model",
        "umi": "channels.pathloss.cellular:UMI",
        "uma": "channels.pathloss.cellular:UMA",
        "inh": "channels.pathloss.indoor:INH",
        "v2x_urban": "channels.pathloss.v2x:V2X_URBAN",
        "v2x_highway": "channels.pathloss.v2x:V2X_HIGHWAY",
        "d2d_outdoor": "channels.pathloss.d2d:D2D_OUTDOOR",
    },
)
"""A `PathLossModel`, or a function of options that gives one."""

SCHEDULERS: Registry[Scheduler | Callable[..., Scheduler]] = Registry(
    "scheduler",
    "dfl_ray.schedulers",
    {
        "tdma": "channels.scheduling.tdma:TDMA",
        "coloring": "channels.scheduling.coloring:COLORING",
        "greedy_sinr": "channels.scheduling.greedy_sinr:GREEDY_SINR",
        "broadcast": "channels.scheduling.broadcast:BROADCAST",
        "fplinq": "channels.scheduling.fplinq:FPLINQ",
        "aloha": "channels.scheduling.aloha:ALOHA",
        "max_weight": "channels.scheduling.weighted:MAX_WEIGHT",
        "proportional_fair": "channels.scheduling.weighted:PROPORTIONAL_FAIR",
    },
)
"""A `Scheduler`, or a function of options that gives one."""

DEVICE_MIXES: Registry[tuple[DeviceClass, ...]] = Registry(
    "mix of device classes",
    "dfl_ray.device_mixes",
    {"uniform": "channels.device_mixes:UNIFORM", "mixed": "channels.device_mixes:MIXED"},
)
"""Classes that devices are drawn from, each with its share."""
