"""The path-loss models, schedulers and mixes of device classes by name, imported when they are asked for.

A new one is one file and one line here, or, in a package of one's own, an entry point in the group of the table
(docs/extending.md). A path-loss model or scheduler with options is a function whose keyword arguments are the
options; its range checks raise `ValueError`. The tables name no types, so that nothing that is chosen by name has to
be imported where names are read; `get_model` and `get_scheduler` give typed objects.
"""

from __future__ import annotations

from typing import Any

from channels.registry import Registry

PATH_LOSS: Registry[Any] = Registry(
    "path-loss model",
    "dfl_ray.path_loss",
    {
        "free_space": "channels.pathloss.basic:FREE_SPACE",
        "log_distance": "channels.pathloss.basic:log_distance_model",
        "umi": "channels.pathloss.cellular:UMI",
        "uma": "channels.pathloss.cellular:UMA",
        "rma": "channels.pathloss.rural:rma_model",
        "inh": "channels.pathloss.indoor:INH",
        "v2x_urban": "channels.pathloss.v2x:v2x_urban_model",
        "v2x_highway": "channels.pathloss.v2x:v2x_highway_model",
        "d2d_outdoor": "channels.pathloss.d2d:D2D_OUTDOOR",
    },
    kinds=("channels.pathloss.model:PathLossModel", "collections.abc:Callable"),
)
"""A `channels.pathloss.model.PathLossModel`, or a function of options that gives one."""

SCHEDULERS: Registry[Any] = Registry(
    "scheduler",
    "dfl_ray.schedulers",
    {
        "tdma": "channels.scheduling.tdma:TDMA",
        "coloring": "channels.scheduling.coloring:COLORING",
        "greedy_sinr": "channels.scheduling.greedy_sinr:GREEDY_SINR",
        "broadcast": "channels.scheduling.broadcast:BROADCAST",
        "local_greedy": "channels.scheduling.local_greedy:LOCAL_GREEDY",
        "fplinq": "channels.scheduling.fplinq:FPLINQ",
        "aloha": "channels.scheduling.aloha:aloha_scheduler",
        "csma": "channels.scheduling.csma:csma_scheduler",
        "sidelink_mode2": "channels.scheduling.sidelink:sidelink_mode2_scheduler",
        "max_weight": "channels.scheduling.weighted:MAX_WEIGHT",
        "proportional_fair": "channels.scheduling.weighted:PROPORTIONAL_FAIR",
    },
    kinds=("channels.scheduling.rule:Scheduler", "collections.abc:Callable"),
)
"""A `channels.scheduling.problem.Scheduler`, or a function of options that gives one."""

DEVICE_MIXES: Registry[Any] = Registry(
    "mix of device classes",
    "dfl_ray.device_mixes",
    {
        "uniform": "channels.device_mixes:UNIFORM",
        "mixed": "channels.device_mixes:MIXED",
        "hardware": "channels.device_mixes:HARDWARE",
    },
    kinds=("builtins:tuple", "builtins:list"),
)
"""Tuples of `channels.energy.DeviceClass` that devices are drawn from, each with its share."""
