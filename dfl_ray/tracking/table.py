"""The trackers by name; a new one is one file and one line here, or an entry point in the group `dfl_ray.trackers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from channels.registry import Registry

if TYPE_CHECKING:
    from dfl_ray.tracking.tracker import Tracker

TRACKERS: Registry[Callable[..., Tracker]] = Registry(
    "tracker", "dfl_ray.trackers", {"wandb": "dfl_ray.tracking.wandb_tracker:wandb_tracker"}
)
"""Makers: `(track: TrackConfig, *, name, say, verbose, options) -> Tracker`."""
