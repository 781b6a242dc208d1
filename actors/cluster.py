"""Starting or joining Ray, quietly, and asking what it has."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.errors import InputError


def local_resources() -> dict[str, float]:
    """What a cluster started on this machine will have, known before it is started."""
    import psutil

    return {
        "CPU": float(len(os.sched_getaffinity(0))),
        "GPU": float(_visible_gpus()),
        "memory": float(psutil.virtual_memory().available),
    }


def _visible_gpus() -> int:
    try:
        return len([f for f in os.listdir("/proc/driver/nvidia/gpus")])
    except OSError:
        return 0


def start(runtime: RuntimeConfig, *, verbose: bool = False) -> Mapping[str, float]:
    """Start Ray on this machine, or join a running cluster.

    Args:
        runtime: `address` None starts one here; `auto` or host:port joins one.
        verbose: Let Ray speak for itself.

    Returns:
        The cluster's resources.

    Raises:
        InputError: The address cannot be joined.
    """
    import ray

    level = logging.INFO if verbose else logging.ERROR
    common = {"logging_level": level, "log_to_driver": verbose, "namespace": f"dfl-ray-{os.getpid()}"}
    if runtime.address is None:
        ray.init(
            address="local",
            include_dashboard=runtime.ray_dashboard,
            num_cpus=int(local_resources()["CPU"]),
            **common,
        )
        return {**ray.cluster_resources(), "memory": local_resources()["memory"]}
    try:
        ray.init(address=runtime.address, **common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"No Ray cluster can be joined at `runtime.address={runtime.address}`",
            got=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            expected="`auto` beside a running cluster, or host:port of its head",
            change="Start one with `ray start --head`, or leave `runtime.address` out to start one here.",
        ) from error
    return ray.cluster_resources()


def stop() -> None:
    """Leave the cluster; one started here is stopped."""
    import ray

    ray.shutdown()
