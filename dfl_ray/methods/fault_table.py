"""The kinds of faults by name; importing this needs no torch.

A new one is a `dfl_ray.methods.faults.Fault` and a line here, or an entry point in the group `dfl_ray.faults`.
"""

from __future__ import annotations

from typing import Any

from channels.registry import Registry

FAULTS: Registry[Any] = Registry(
    "fault",
    "dfl_ray.faults",
    {
        name: f"dfl_ray.methods.faults:{name.upper()}"
        for name in (
            "sign_flip",
            "scaled_noise",
            "stale_replay",
            "nan_payload",
            "label_flip",
            "silent",
            "crash",
            "backdoor",
            "sybil",
        )
    },
    kinds=("dfl_ray.methods.faults:Fault",),
)
"""Every kind of fault by name."""

SCALED = ("sign_flip", "scaled_noise", "sybil")
"""Those of ours that read `devices.faults.scale`."""
