"""What a planned run needs in memory, and the packing of devices on actors that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dfl_ray.config.methods import PerTaskConfig
from dfl_ray.config.schema import Config
from dfl_ray.engines.memory import merged_mb, working_mb
from dfl_ray.methods.spec import method_spec
from dfl_ray.packing.actors import Packing, device_state_mb, pack
from dfl_ray.packing.partition import MessageGraph, Node
from dfl_ray.packing.store import PART_MB

if TYPE_CHECKING:
    from dfl_ray.simulation.dry_run import Outline

DRIVER_MB, RAY_MB, TORCH_MB = 290.0, 373.0, 245.0
"""Memory of the driver without its records, of Ray's own processes, and of torch where the driver computes itself
(measured)."""


def state_mb(run: Outline) -> float:
    """Memory of one device's state.

    Args:
        run: The run without its weights.

    Returns:
        Units of 2^20 bytes (`packing.actors.device_state_mb`).
    """
    return device_state_mb(run.layout.size, _held(run))


def _held(run: Outline) -> int:
    """Most adapters that one device trains."""
    per_task = method_spec(run.config.method).per_task
    return int((run.deployment.mixture > 0).sum(axis=1).max()) if per_task else 1


def planned_packing(
    run: Outline,
    resources: Mapping[str, float],
    nodes: Sequence[Node] = (),
    messages: MessageGraph | None = None,
) -> Packing:
    """Which actor would host which devices; whether a cluster can hold it is not asked.

    Args:
        run: The run without its weights.
        resources: What the cluster has in sum, as `packing.actors.pack` takes it.
        nodes: Its machines; none or one leaves nothing to place.
        messages: Bytes between devices; needed with several nodes.

    Returns:
        The packing.
    """
    return pack(
        run.config.runtime, run.deployment.topology.cluster, resources, state_mb(run), nodes=nodes,
        messages=messages, working_mb=_working_mb(run), merged_mb=partial(_merged_mb, run, _held(run)),
    )  # fmt: skip


def _working_mb(run: Outline) -> float:
    """What an actor needs while it works (`engines.memory.working_mb`); on a GPU it is the GPU's memory."""
    config = run.config
    if config.runtime.gpus_per_actor:
        return 0.0
    return working_mb(
        run.targets.shape, rank=config.method.rank, width_bytes=_value_bytes(config),
        device_tokens=config.method.batch_rows * float(run.tokens.mean.max()), devices=config.devices.count,
        evaluated_tokens=run.tasks * (config.evaluate.rows_per_task or 0) * run.rows,
        longest=max((int(x.max()) for x in run.tokens.lengths), default=math.ceil(run.rows))
        if isinstance(config.method, PerTaskConfig) else 0,
        device_values=run.layout.size * _held(run),
    )  # fmt: skip


def _merged_mb(run: Outline, adapters: int, devices: int) -> float:
    """What an actor of some devices needs while it works where adapters are merged (`engines.memory.merged_mb`)."""
    config = run.config
    if config.runtime.gpus_per_actor:
        return 0.0
    row = float(run.tokens.mean.max())
    return merged_mb(
        run.targets.shape, rank=config.method.rank, device_tokens=config.method.batch_rows * row, adapters=adapters,
        devices=devices, asked_tokens=(config.evaluate.rows_per_task or math.inf) * run.rows,
    )  # fmt: skip


def _value_bytes(config: Config) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def memory_figures(run: Outline, packing: Packing) -> dict[str, float]:
    """Peak memory of a run here, and what of the state lies in files (`runtime.state_memory_mb`).

    With Ray the base is held by the driver that read it, and by the object store, which all actors map. In one process
    there are no actors: torch, all devices' states, and the work of one group. Checkpoints pass in parts.

    Args:
        run: The run without its weights.
        packing: Which actor hosts which devices.

    Returns:
        Units of 2^20 bytes by name: `base_mb`, `actor_mb`, `device_state_mb`, `working_mb`, `state_files_mb`,
        `peak_mb`.
    """
    base, each, working = run.base_mb, state_mb(run), _working_mb(run)
    states = whole = each * run.config.devices.count
    if run.config.runtime.state_memory_mb is not None:
        states = min(states, run.config.runtime.state_memory_mb)
    passing = min(whole, PART_MB * (len(packing.groups) + 1))
    if run.config.runtime.backend == "ray":
        hosts = RAY_MB + base + packing.memory_mb * len(packing.groups)
    else:
        hosts = TORCH_MB + states + working
    return {
        "base_mb": base,
        "actor_mb": packing.memory_mb,
        "device_state_mb": each,
        "working_mb": working,
        "state_files_mb": whole if states < whole else 0.0,
        "peak_mb": DRIVER_MB + hosts + base + passing,
    }
