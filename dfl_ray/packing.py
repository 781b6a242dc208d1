"""How devices are packed into actors, and whether the cluster can hold them; all decided before any starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError

LONE_ACTORS = 16
LONE_ACTORS_PER_CPU = 4
ACTOR_MB = 280.0
"""Private memory of an actor with torch and transformers imported, before any model or state (measured)."""


@dataclass(frozen=True)
class Packing:
    """Which actor hosts which devices.

    Attributes:
        groups: For each actor its devices, ascending.
        cpus_per_actor: CPU share each asks for.
        gpus_per_actor: GPU share each asks for.
        memory_mb: Estimated private memory of one actor.
        reason: Why so, in one line.
    """

    groups: tuple[tuple[int, ...], ...]
    cpus_per_actor: float
    gpus_per_actor: float
    memory_mb: float
    reason: str

    def actor_name(self, number: int) -> str:
        """Readable name: `device-0003` for a single device, `devices-0000-0499` for several."""
        group = self.groups[number]
        return f"device-{group[0]:04d}" if len(group) == 1 else f"devices-{number:04d}"


def pack(config: Config, cluster: np.ndarray, resources: Mapping[str, float], state_mb: float) -> Packing:
    """Choose the packing; `check_fits` says whether the cluster can hold it.

    `auto` keeps one device per actor up to max(16, 4 x CPUs); beyond that it fills as many actors as there are
    CPU (or GPU) slots. Devices of one cluster share an actor where they can.

    Args:
        config: The experiment.
        cluster: (devices,) cluster label of each device.
        resources: What the Ray cluster has: `CPU`, `GPU`, `memory` (bytes).
        state_mb: Memory of one device's state.
    """
    count, runtime = config.devices.count, config.runtime
    cpus = max(1.0, resources.get("CPU", 1.0))
    per_actor = runtime.devices_per_actor
    if per_actor == "auto":
        actors, reason = _auto(count, cpus, resources.get("GPU", 0.0), runtime.gpus_per_actor)
    else:
        actors = -(-count // per_actor)
        reason = f"runtime.devices_per_actor={per_actor}"
    order = np.lexsort((np.arange(count), cluster))
    groups = tuple(tuple(sorted(int(d) for d in part)) for part in np.array_split(order, actors))
    share = runtime.cpus_per_actor or min(1.0, np.floor(1000 * cpus / actors) / 1000)
    memory = runtime.memory_per_actor_mb or ACTOR_MB + state_mb * max(len(g) for g in groups)
    return Packing(groups, float(share), runtime.gpus_per_actor, memory, reason)


def _auto(count: int, cpus: float, gpus: float, gpus_per_actor: float) -> tuple[int, str]:
    lone = max(LONE_ACTORS, int(LONE_ACTORS_PER_CPU * cpus))
    if count <= lone:
        return count, f"one device per actor, as up to {lone} devices on {cpus:g} CPUs"
    slots = int(gpus // gpus_per_actor) if gpus_per_actor > 0 else int(cpus)
    return max(1, min(slots, count)), f"more than {lone} devices: packed into one actor per slot"


def check_fits(packing: Packing, resources: Mapping[str, float]) -> None:
    """Refuse what the cluster cannot hold, naming the knob to turn.

    Raises:
        InputError: Not enough CPU, GPU or memory.
    """
    actors = len(packing.groups)
    needs = {
        "CPU": (packing.cpus_per_actor, "runtime.cpus_per_actor", 1.0, ""),
        "GPU": (packing.gpus_per_actor, "runtime.gpus_per_actor", 1.0, ""),
        "memory": (packing.memory_mb, "runtime.devices_per_actor", 2.0**20, " MB"),
    }
    for name, (each, knob, unit, label) in needs.items():
        there = resources.get(name, 0.0) / unit
        if each and each < 0.0005:
            raise InputError(
                f"{actors} actors leave each less than 0.001 {name}",
                change="Set `runtime.devices_per_actor=auto`, or a number of devices for each actor.",
            )
        if each * actors > there * (1 + 1e-6):
            raise InputError(
                f"The cluster cannot hold {actors} device actors",
                got=f"{actors} x {each:g}{label} = {each * actors:g}{label} {name}",
                expected=f"at most {there:g}{label} {name}",
                change=f"Change `{knob}`, set `runtime.devices_per_actor=auto`, or join a larger cluster by "
                "`runtime.address`.",
            )
