"""What a benchmark was run on."""

from __future__ import annotations

import platform
from pathlib import Path

from dfl_ray.packing.machine import usable_cpus


def machine() -> dict[str, str | int | None]:
    """Operating system, processor, Python and number of cores."""
    return {
        "system": platform.system(),
        "processor": _processor(),
        "python": platform.python_version(),
        "cpus": usable_cpus(),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    named = [
        line.partition(":")[2].strip()
        for line in (facts.read_text().splitlines() if facts.exists() else [])
        if line.startswith("model name")
    ]
    return named[0] if named else platform.machine()
