"""Which keys of a configuration commands take that are given a run, beside the places of its inputs (`says_where`)."""

from __future__ import annotations

MAY_CHANGE = ("rounds", "stop", "evaluate", "checkpoint", "track", "runtime")
"""What a run may go on with: nothing in it changes what has been trained."""

MEASURES = ("evaluate", "stop")
"""Those of them that say how a run is measured and when it ends: its records depend on them."""

READ = (
    "runtime.threads",
    "runtime.gpus_per_actor",
    "runtime.compile",
    "runtime.state_memory_mb",
    "runtime.state_dir",
)
"""Keys beside `evaluate` that an evaluation of a saved state reads."""

UNREAD = ("evaluate.every",)
"""Keys of `evaluate` that say when a run is evaluated, not how."""
