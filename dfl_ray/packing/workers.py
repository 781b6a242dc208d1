"""How the processes of Ray actors are made, and what each costs: as forks of one process, or as ordinary workers."""

from __future__ import annotations

import sys
import tempfile
from typing import TYPE_CHECKING

from dfl_ray.packing.machine import SOCKET_PATH_BYTES, socket_folder

if TYPE_CHECKING:
    from dfl_ray.config.schema import RuntimeConfig

ACTOR_MB = 180.0
"""Private memory of an ordinary worker with torch imported, before any state (measured)."""
TRANSFORMERS_MB = 130.0
"""What `transformers` adds to a process that imports it, as models outside the Llama family need (measured)."""
FORK_MB = 50.0
"""The same of a fork (measured): the pages of what was imported before the fork are shared with all others."""
DEVICE_OBJECTS_MB, RUN_DEVICE_MB = 0.02, 0.004
"""What Python keeps of a device beside its arrays (traffic state, published updates, acknowledgements, views), and what
every actor keeps of each device of the run (graph, trees, holdings, rows): measured with six tasks."""
FORK_SOCKET = "dfl-ray-forks-12345678/socket"
"""The fork server's socket below a temporary folder, with as many characters as it really has."""


def why_no_forks_here() -> str | None:
    """Say why this machine cannot make actors as forks.

    Returns:
        The reason in words, or None if it can.
    """
    if sys.platform != "linux":
        return f"forks are used on Linux only, and this is {sys.platform}"
    if socket_folder(FORK_SOCKET) is None:
        return (
            f"the fork server's socket may have a path of {SOCKET_PATH_BYTES} bytes, and the temporary folder "
            f"TMPDIR={tempfile.gettempdir()} is too long for that, with no shorter one to write to"
        )
    return None


def why_no_forks(runtime: RuntimeConfig) -> str | None:
    """Why a run's actors will be ordinary workers, as far as can be known before Ray is up; None if they will be forks.

    Args:
        runtime: The run's settings.
    """
    if not runtime.fork_actors:
        return "`runtime.fork_actors=false`"
    if runtime.address is not None:
        return "a cluster that is joined starts its workers itself"
    return why_no_forks_here()


def empty_actor_mb(forks: bool) -> float:
    """Private memory in MB of an actor before it holds any device.

    Args:
        forks: Whether it is a fork.

    Returns:
        Memory in MB, measured with torch imported and without `transformers`.
    """
    return FORK_MB if forks else ACTOR_MB


def objects_mb(devices: int, run_devices: int) -> float:
    """Memory in MB of an actor's Python objects, which grow with the devices.

    Args:
        devices: Devices it hosts.
        run_devices: Devices of the run.
    """
    return DEVICE_OBJECTS_MB * devices + RUN_DEVICE_MB * run_devices
