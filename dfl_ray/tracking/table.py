"""The trackers by name; a new one is one file and one line here, or an entry point in the group `dfl_ray.trackers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channels.registry import Registry

TRACKERS: Registry[Callable[..., Any]] = Registry(
    "tracker",
    "dfl_ray.trackers",
    {
        "wandb": "dfl_ray.tracking.wandb_tracker:wandb_tracker",
        "tensorboard": "dfl_ray.tracking.tensorboard_tracker:tensorboard_tracker",
        "trackio": "dfl_ray.tracking.trackio_tracker:trackio_tracker",
        "none": "dfl_ray.tracking.tracker:no_tracker",
    },
)
"""Makers: `(track: TrackConfig, *, name, say, verbose, options) -> Tracker`."""
