"""What this machine gives this process: CPUs, memory, GPUs, folders for sockets; asked here and nowhere else.

Linux tells more than other systems: a process may be bound to some CPUs, and a control group may limit its CPU time
and its memory. Where a source does not exist (macOS has neither `os.sched_getaffinity` nor control groups), the next
one is asked. Nothing is imported but the standard library, and psutil where memory is asked for.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

CGROUP_FILE = Path("/proc/self/cgroup")
"""Control groups of this process, a line each: `number:controllers:path`; version 2 has number 0 and no controllers."""
CGROUP_MOUNT = Path("/sys/fs/cgroup")
"""Where control groups are mounted: version 2 at its root, version 1 in one folder for each controller."""
SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket, without the closing zero (`sun_path`: 104 bytes on macOS, 108 on Linux)."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders tried for sockets where the user's own temporary folder has too long a path."""


def usable_cpus() -> int:
    """CPUs this process may use, at least 1.

    The smallest of the CPUs it is bound to (`os.sched_getaffinity`, Linux), the CPU time its control groups may have
    (quota / period, rounded down), and the CPUs of the machine.
    """
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    bound = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    quotas = [int(q) for q in (*_quotas_v2(), *_quotas_v1())]
    return max(1, min(bound, *quotas, bound))


def available_memory_bytes() -> int:
    """Memory that can be had without swapping, in bytes: the machine's, or less where a control group limits it.

    What a group has left is its limit minus what it uses; pages of files that nobody has touched lately
    (`inactive_file`) count as free, as they do for the machine.
    """
    import psutil

    return min(
        [int(psutil.virtual_memory().available), *(max(0, limit - used) for limit, used in _memory_groups())]
    )


def total_memory_bytes() -> int:
    """Memory of the machine in bytes, or the smallest limit of this process's control groups."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _memory_groups())])


def peak_memory_bytes() -> int:
    """Largest resident memory this process has had, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)  # macOS counts bytes, Linux kibibytes


def visible_gpus() -> int:
    """NVIDIA GPUs that Ray will find here; `CUDA_VISIBLE_DEVICES` may hide some.

    Read from the driver's folder in `/proc`, or, where there is none (the Windows Subsystem for Linux), asked of
    `nvidia-smi`.
    """
    found = _driver_gpus()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not found:
        return found
    names = [name for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    return min(found, len(names))


def local_resources() -> dict[str, float]:
    """What a cluster started on this machine will have, known before it is started: CPU, GPU, memory in bytes."""
    return {
        "CPU": float(usable_cpus()),
        "GPU": float(visible_gpus()),
        "memory": float(available_memory_bytes()),
    }


def _driver_gpus() -> int:
    import shutil
    import subprocess

    with suppress(OSError):
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def socket_folder(longest_name: str) -> str | None:
    """A temporary folder, the user's own if possible, in which a socket of this name may lie.

    Args:
        longest_name: Path of the socket below the folder, as long as it can get.

    Returns:
        The folder, or None if every one that can be written to has too long a path (see `SOCKET_PATH_BYTES`).
    """
    for folder in (tempfile.gettempdir(), *SHORT_FOLDERS):
        if fits_a_socket(folder, longest_name) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def fits_a_socket(folder: str, name: str) -> bool:
    """Tell whether a Unix socket below a folder has a path of at most `SOCKET_PATH_BYTES` bytes.

    Args:
        folder: The folder.
        name: The socket's path below it.

    Returns:
        True if the path is short enough.
    """
    return len(os.fsencode(os.path.join(folder, name))) <= SOCKET_PATH_BYTES


def _group_folders(controller: str) -> Iterator[Path]:
    """Folders of this process's control group for a controller and of all its parents; "" is version 2.

    Inside a container the path that the kernel tells may be the host's; the root of the mount is among the parents.
    """
    try:
        lines = CGROUP_FILE.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            mounts = [CGROUP_MOUNT / names, CGROUP_MOUNT / controller] if controller else [CGROUP_MOUNT]
            below = path.strip("/")
            for mount in dict.fromkeys(mounts):
                own = mount / below
                yield own
                yield from (parent for parent in own.parents if parent.is_relative_to(mount))


def _numbers(path: Path) -> list[int | None]:
    """Words of a file's first line as numbers, None for `max`; empty if there is no such file."""
    try:
        words = path.read_text().split("\n", 1)[0].split()
        return [None if word == "max" else int(word) for word in words]
    except (OSError, ValueError):
        return []


def _quotas_v2() -> Iterator[float]:
    for folder in _group_folders(""):
        match _numbers(folder / "cpu.max"):
            case [int(quota), int(period)] if period > 0:
                yield quota / period


def _quotas_v1() -> Iterator[float]:
    for folder in _group_folders("cpu"):
        match _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us"):
            case [int(quota), int(period)] if quota > 0 and period > 0:  # -1 is no limit
                yield quota / period


def _memory_groups() -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of every control group above this process that has a limit."""
    files = (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for controller, limit_file, used_file, reclaimable in files:
        for folder in _group_folders(controller):
            match _numbers(folder / limit_file) + _numbers(folder / used_file):
                case [int(limit), int(used)]:
                    yield limit, max(0, used - _statistic(folder, reclaimable))


def _statistic(folder: Path, name: str) -> int:
    """A line of a memory group's `memory.stat`, in bytes; 0 if it has none."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
