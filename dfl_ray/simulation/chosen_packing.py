"""Which actor hosts which devices of a run, chosen once the cluster is known, and what the user is told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.engines.adapted_layers import scored_tokens
from dfl_ray.engines.foreign_memory import foreign_sizes
from dfl_ray.lora.layout import dense_values
from dfl_ray.methods.spec import method_spec
from dfl_ray.packing.needs import ActorNeeds
from dfl_ray.simulation.asked_rows import predicted, read_rows
from dfl_ray.simulation.memory_estimate import asks

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

    needs, messages = actor_needs(experiment), None
    if len(nodes) > 1:
        config = experiment.config
        messages = message_graph(experiment.traffic_law(), config.devices.count, config.rounds)
    chosen = pack(
        experiment.config.runtime,
        experiment.topology.cluster,
        resources,
        needs.state_mb,
        nodes=nodes,
        messages=messages,
        forks=forks,
        working_mb=needs.working_mb,
        merged_mb=needs.merged_mb,
    )
    check_fits(chosen, resources, nodes)
    return chosen


def in_words(chosen: Packing, devices: int, refusal: str | None) -> str:
    """The packing in a line, with the way its workers are made."""
    ways = "forks of one process" if refusal is None else f"ordinary workers, since {refusal}"
    line = f"{devices} devices in {len(chosen.groups)} actors ({chosen.reason}), about {chosen.memory_mb:.0f} MiB each"
    if chosen.nodes:
        per_node = ", ".join(str(n) for n in Counter(chosen.nodes).values())
        line = f"{line}; {per_node} actors on {len(set(chosen.nodes))} nodes"
    return f"{line}; {ways}"


def ordinary_after_all(backend: RayBackend, chosen: Packing) -> str:
    """What is said when the fork server, asked before, has not forked for all actors."""
    from dfl_ray.packing.workers import empty_actor_mb

    each = chosen.memory_mb + empty_actor_mb(False) - empty_actor_mb(True)
    return (
        f"{backend.actors - backend.forked} of {backend.actors} actors are ordinary workers, about {each:.0f} MiB "
        "each: the fork server has died or refused"
    )


def actor_needs(experiment: Experiment) -> ActorNeeds:
    """What the actors of a run need in memory.

    Args:
        experiment: The run.
    """
    setup, lengths = experiment.setup, [t.train.lengths for t in experiment.setup.tasks]
    per_task = method_spec(experiment.config.method).per_task
    row = max(float(x.mean()) for x in lengths)
    return ActorNeeds(
        experiment.config, setup.weights.decoder, experiment.layout.size,
        adapters=max(map(len, setup.held.values())) if per_task else 1, tasks=len(lengths), row=row, asked_row=row,
        longest=max(int(x.max()) for x in lengths),
        adapted_values=dense_values(experiment.layout.layers),
        neighbours=setup.graph.mean_neighbours, most_neighbours=setup.graph.most_neighbours,
        foreign=None if setup.weights.decoder is not None else foreign_sizes(setup.weights.config_json),
        scored=scored_tokens(setup.tasks),
        predicted=predicted([read_rows(experiment.config, task) for task in setup.tasks]),
        asks=asks(experiment.config, experiment.layout.layers, setup.router_layers, len(lengths)),
    )  # fmt: skip
