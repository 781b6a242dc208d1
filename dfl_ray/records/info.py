"""`run.json`: what ran where: versions, git commit, host facts, command line, state."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from dfl_ray.packing.machine import total_memory_bytes, usable_cpus
from dfl_ray.records.files import replacing, sync_folder
from dfl_ray.records.schema import SCHEMA_VERSION

State = Literal["running", "done", "interrupted", "failed"]
STATES: tuple[State, ...] = ("running", "done", "interrupted", "failed")

PACKAGES = (
    "dfl-ray",
    "ray",
    "torch",
    "transformers",
    "peft",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "networkx",
    "wandb",
)


def new_info(name: str) -> dict[str, Any]:
    """Collect the facts of a run that starts now.

    Args:
        name: Name of the run.

    Returns:
        The content of its `run.json`.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "state": "running",
        "started_at": now(),
        "ended_at": None,
        "restarts": 0,
        "command": list(sys.argv),
        "versions": versions(),
        "git": git_state(Path(__file__).resolve().parents[2]),
        "host": host_facts(),
    }


def now() -> str:
    """Give the present moment in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Installed versions of `PACKAGES` and of those that extend dfl-ray, from their metadata without importing them."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # Run from a checkout, the project need not be installed; its module knows its version then.
            found[package] = getattr(sys.modules.get(package.replace("-", "_")), "__version__", None)
    return found | extensions()


def extensions() -> dict[str, str]:
    """Versions of installed packages that extend dfl-ray: with an entry point in a group `dfl_ray.*`."""
    points = metadata.entry_points()
    mine = (
        point.dist
        for group in points.groups
        if group.startswith("dfl_ray.")
        for point in points.select(group=group)
    )
    return {dist.name: dist.version for dist in mine if dist is not None}


def host_facts() -> dict[str, Any]:
    """System, CPUs and memory in bytes that are open to this process."""
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": usable_cpus(),
        "memory_bytes": total_memory_bytes(),
    }


def git_state(root: Path) -> dict[str, Any] | None:
    """Find the commit of the checkout the code runs from and whether tracked files are changed.

    Args:
        root: Folder of the packages. A repository that merely holds it (a virtual environment inside another
            project) does not count.

    Returns:
        `commit` and `dirty`; None when it is no checkout or git cannot be run.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def read_info(path: Path) -> dict[str, Any]:
    """Read `run.json`.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON object.
    """
    info = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(info, dict):
        raise ValueError(f"{path} holds no JSON object")
    return info


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a file whole: a reader sees the old text or the new, also after a crash.

    Args:
        path: The file, in an existing folder.
        text: Its new content, written as UTF-8.

    Raises:
        OSError: It cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with replacing(path, temporary):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    sync_folder(path.parent)


def write_info(path: Path, info: dict[str, Any]) -> None:
    """Replace `run.json` atomically.

    Args:
        path: The file.
        info: Its new content, ready for JSON.
    """
    write_text_atomically(path, json.dumps(info, indent=2) + "\n")
