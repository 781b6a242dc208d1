"""The trackers by name; a new one is one file and one line here, or an entry point in the group `dfl_ray.trackers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channels.registry import Registry

TRACKERS: Registry[Callable[..., Any]] = Registry(
    "tracker", "dfl_ray.trackers", {"wandb": "dfl_ray.tracking.wandb_tracker:wandb_tracker"}
)
"""Makers: `(track: TrackConfig, *, name, say, verbose, options) -> Tracker`."""
