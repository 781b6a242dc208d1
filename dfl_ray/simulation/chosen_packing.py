"""Which actor hosts which devices of a run, chosen once the cluster is known, and what the user is told of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dfl_ray.config.schema import RuntimeConfig

if TYPE_CHECKING:
    from actors.pool import RayBackend
    from dfl_ray.packing.actors import Packing
    from dfl_ray.packing.partition import Node
    from dfl_ray.simulation.experiment import Experiment


def check_least(runtime: RuntimeConfig, devices: int, resources: Mapping[str, float]) -> None:
    """Refuse at once what does not fit whatever the model: actors, CPUs and GPUs are known from the settings."""
    import numpy as np

    from dfl_ray.packing.actors import check_fits, pack

    check_fits(pack(runtime, np.zeros(devices, np.int64), resources, 0.0), resources)


def choose_packing(
    experiment: Experiment,
    resources: Mapping[str, float],
    nodes: Sequence[Node] = (),
    *,
    forks: bool | None = None,
) -> Packing:
    """Decide which actor hosts which devices, on which node, and check that all of it fits.

    Args:
        experiment: The run.
        resources: What the cluster has in sum.
        nodes: Its machines; none or one leaves nothing to place.
        forks: Whether actors are forks; None means as `dfl_ray.packing.workers.why_no_forks` expects.

    Returns:
        The packing.

    Raises:
        InputError: It does not fit.
    """
    from dfl_ray.network.traffic import message_graph
    from dfl_ray.packing.actors import check_fits, pack

    messages = None
    if len(nodes) > 1:
        config = experiment.config
        messages = message_graph(experiment.traffic_law(), config.devices.count, config.rounds)
    chosen = pack(
        experiment.config.runtime,
        experiment.topology.cluster,
        resources,
        state_mb(experiment),
        nodes=nodes,
        messages=messages,
        forks=forks,
        working_mb=_working_mb(experiment),
        merged_mb=partial(_merged_mb, experiment),
    )
    check_fits(chosen, resources, nodes)
    return chosen


def in_words(chosen: Packing, devices: int, refusal: str | None) -> str:
    """The packing in a line, with the way its workers are made."""
    ways = "forks of one process" if refusal is None else f"ordinary workers, since {refusal}"
    line = f"{devices} devices in {len(chosen.groups)} actors ({chosen.reason}), about {chosen.memory_mb:.0f} MB each"
    if chosen.nodes:
        per_node = ", ".join(str(n) for n in Counter(chosen.nodes).values())
        line = f"{line}; {per_node} actors on {len(set(chosen.nodes))} nodes"
    return f"{line}; {ways}"


def ordinary_after_all(backend: RayBackend, chosen: Packing) -> str:
    """What is said when the fork server, asked before, has not forked for all actors."""
    from dfl_ray.packing.workers import empty_actor_mb

    each = chosen.memory_mb + empty_actor_mb(False) - empty_actor_mb(True)
    return (
        f"{backend.actors - backend.forked} of {backend.actors} actors are ordinary workers, about {each:.0f} MB "
        "each: the fork server has died or refused"
    )


def state_mb(experiment: Experiment) -> float:
    """Memory of one device's state.

    Args:
        experiment: The run.

    Returns:
        Units of 2^20 bytes (`packing.actors.device_state_mb`).
    """
    from dfl_ray.packing.actors import device_state_mb

    return device_state_mb(experiment.layout.size, _adapters(experiment))


def _adapters(experiment: Experiment) -> int:
    """Most adapters that one device trains."""
    from dfl_ray.methods.spec import method_spec

    per_task = method_spec(experiment.config.method).per_task
    return max(map(len, experiment.setup.held.values())) if per_task else 1


def _merged_mb(experiment: Experiment, devices: int) -> float:
    """What an actor of some devices needs while it works where adapters are merged, as `estimate` plans it."""
    from dfl_ray.engines.memory import merged_mb

    config, tasks = experiment.config, experiment.setup.tasks
    if config.runtime.gpus_per_actor:
        return 0.0
    row = max(float(t.train.lengths.mean()) for t in tasks)
    return merged_mb(
        experiment.setup.weights.decoder, rank=config.method.rank, device_tokens=config.method.batch_rows * row,
        adapters=_adapters(experiment), devices=devices, asked_tokens=(config.evaluate.rows_per_task or math.inf) * row,
    )  # fmt: skip


def _working_mb(experiment: Experiment) -> float:
    """What an actor needs while it works, as `estimate` plans it; on a GPU it is the GPU's memory."""
    from dfl_ray.engines.memory import working_mb
    from dfl_ray.methods.spec import method_spec

    config, tasks = experiment.config, experiment.setup.tasks
    if config.runtime.gpus_per_actor:
        return 0.0
    width_bytes = 2 if config.model.dtype == "bfloat16" else 4
    row = max(float(t.train.lengths.mean()) for t in tasks)
    return working_mb(
        experiment.setup.weights.decoder, rank=config.method.rank, width_bytes=width_bytes,
        device_tokens=config.method.batch_rows * row, devices=config.devices.count,
        evaluated_tokens=len(tasks) * (config.evaluate.rows_per_task or 0) * row,
        longest=max(int(t.train.lengths.max()) for t in tasks) if method_spec(config.method).per_task else 0,
        device_values=experiment.layout.size * _adapters(experiment),
    )  # fmt: skip
