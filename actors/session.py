"""What belongs to a Ray session of one run on this machine: a private folder, ports on 127.0.0.1, a safe path."""

from __future__ import annotations

import os
import shutil
import site
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable that lets it listen on all interfaces; off, nodes are on 127.0.0.1, as on macOS by default."""
REMOVAL_S = 5.0
"""Longest time for which files that Ray's last processes still write are removed again."""


@contextmanager
def private_folder(parent: str) -> Iterator[str]:
    """Make a folder that only this user can look into, for Ray's own, which everybody may write to; remove it later.

    Args:
        parent: Where it is made.

    Yields:
        Path of the folder for Ray inside the private one; Ray makes it.
    """
    folder = tempfile.mkdtemp(prefix="dfl-", dir=parent)  # 0700
    try:
        yield os.path.join(folder, "r")
    finally:
        remove(folder)


def remove(folder: str) -> None:
    """Remove a folder that processes which are about to end may still write to.

    Args:
        folder: The folder; it may be gone.
    """
    deadline = time.monotonic() + REMOVAL_S
    while os.path.isdir(folder):
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


LAST_WORDS = "last_words"
"""File of the fork server's folder that holds what is to be said if the driver ends without a word."""


def say_last_words(folder: str, descriptor: int) -> None:
    """Say what a driver had left to be said, and let go of its standard error.

    Args:
        folder: The fork server's.
        descriptor: A copy of the driver's standard error.
    """
    with suppress(OSError), open(os.path.join(folder, LAST_WORDS), encoding="utf-8") as file:
        os.write(descriptor, file.read().encode())
    with suppress(OSError):
        os.close(descriptor)


def listen_only_here(only: bool) -> None:
    """Have Ray's processes listen on 127.0.0.1, or end that; before Ray is started, or after it has ended.

    Args:
        only: True for a run on this machine alone, False afterwards.
    """
    if only:
        os.environ[CLUSTER_SWITCH] = "0"
    else:
        os.environ.pop(CLUSTER_SWITCH, None)
    constants: Any = sys.modules.get("ray._private.ray_constants")
    if constants is not None:  # it has read the variable when it was imported
        constants.ENABLE_RAY_CLUSTER = not only and sys.platform == "linux"


def hide_token() -> None:
    """Take other users' right to read Ray's token, which whoever has it may run code with."""
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def safe_path(path: Iterable[str], here: str, root: str) -> list[str]:
    """Leave the current folder out of a search path for modules, whatever lies in it.

    Args:
        path: As `sys.path`.
        here: The current folder.
        root: Folder that holds this project's packages, which stays in its place.

    Returns:
        The other entries in their order.
    """
    real = os.path.realpath
    return [entry for entry in path if entry and (real(entry) != real(here) or real(entry) == real(root))]


class WorkerPath(list[str]):
    """The folders that Ray puts first on the path of its workers: never the driver's current one, which Ray adds.

    Its place takes the folder of this project's packages where they are not installed.
    """

    def extend(self, folders: Iterable[str], /) -> None:
        """Take in nothing but that folder."""
        del folders
        root = project_root()
        installed = {os.path.realpath(p) for p in (*site.getsitepackages(), site.getusersitepackages())}
        if root not in self and os.path.realpath(root) not in installed:
            self.append(root)


def project_root() -> str:
    """Folder that holds this project's packages."""
    return str(Path(__file__).resolve().parents[1])


def job_config() -> Any:
    """Ray's settings of a job whose workers import nothing from the current folder."""
    from ray.job_config import JobConfig

    return JobConfig(_py_driver_sys_path=WorkerPath())
