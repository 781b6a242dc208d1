"""The form that every benchmark's `--json` shares: the figures, and what they were measured with.

`benchmarks/result.schema.json` says it as a JSON schema (draft 2020-12).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = "dfl-ray/benchmark-result/1"
PACKAGES = ("dfl-ray", "ray", "torch", "transformers", "peft", "numpy", "numba")


def with_origin(figures: Mapping[str, Any], *, seeds: int | Sequence[int] = (0,)) -> dict[str, Any]:
    """Put what a result was measured with before its figures.

    Args:
        figures: What was measured; its own `seeds` and `machine` take the place of those here.
        seeds: The seeds, or how many there were, counted from 0.

    Returns:
        `schema`, `command`, `seeds`, `machine`, `versions`, `commit` (null outside a checkout) and the figures.
    """
    origin: dict[str, Any] = {
        "schema": SCHEMA,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seeds": seeds if isinstance(seeds, int) else list(seeds),
        "versions": {"python": sys.version.split()[0], **_versions()},
        "commit": _commit(),
    }
    if "machine" not in figures:
        from benchmarks.machine import machine

        origin["machine"] = machine()
    return {**origin, **figures}


def _versions() -> dict[str, str]:
    out: dict[str, str] = {}
    for name in PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def _commit() -> str | None:
    """The checkout's commit, with a + behind it where files were changed; None where there is no checkout."""
    here = ["git", "-C", str(Path(__file__).resolve().parent)]
    found = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    changed = subprocess.run(
        [*here, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")
