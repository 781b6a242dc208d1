"""Installs a package's entry points into a folder, as an installer would, without one."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "tests" / "plugin_example"


def install(project: Path, target: Path) -> Path:
    """Copy a project's package to a folder and write its entry points beside it.

    Args:
        project: Folder with a `pyproject.toml` and a package.
        target: Folder to put on `PYTHONPATH`.
    """
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for package in project.iterdir():
        if (package / "__init__.py").is_file():
            shutil.copytree(package, target / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    name = described["name"].replace("-", "_")
    info = target / f"{name}-{described['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n",
        encoding="utf-8",
    )
    lines = []
    for group, points in described["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return target


def environment(target: Path) -> dict[str, str]:
    """The environment of a process that has the folder's packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), str(ROOT)])}
