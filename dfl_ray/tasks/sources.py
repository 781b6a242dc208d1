"""The sources of tasks by name; importing this reads no data.

A new one is one file and one line here, or an entry point in the group `dfl_ray.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channels.registry import Registry

TASK_SOURCES: Registry[Callable[..., Any]] = Registry(
    "source of tasks",
    "dfl_ray.tasks",
    {
        "synthetic": "dfl_ray.tasks.load:synthetic",
        "files": "dfl_ray.tasks.load:files",
        "hub": "dfl_ray.tasks.load:hub",
    },
)
"""Loaders: `(tasks: TasksConfig, *, seed, options) -> LoadedTasks`."""
