"""What a planned run needs in memory, and the packing of devices on actors that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dfl_ray.lora.layout import LayerShape, dense_values
from dfl_ray.methods.spec import filters_received, method_spec
from dfl_ray.packing.actors import Packing, pack
from dfl_ray.packing.needs import ActorNeeds, Asks
from dfl_ray.packing.partition import MessageGraph, Node
from dfl_ray.packing.store import PART_MB
from dfl_ray.packing.workers import TRANSFORMERS_MB
from dfl_ray.simulation.asked_rows import predicted
from dfl_ray.simulation.round_facts import needs_references, rules_asked

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.simulation.dry_run import Outline

DRIVER_MB, RAY_MB, TORCH_MB = 290.0, 373.0, 245.0
"""Memory of the driver without its records, of Ray's own processes, and of torch where the driver computes itself
(measured)."""
DENSE_BYTES = {"ties": (18, 17), "filter_full": (8, 16)}
"""Bytes that a rule takes for each dense value of every task (`devices.rule_sizes.DENSE_RULES`), copies included, and
once for those of one task: by its arrays, which for `ties` is what two tasks took; `filter_full` was not measured."""
FILTER_BYTES = 40
"""Bytes of a received sketch's value where `filter` is the method's own rule: decoded, definite, summed, solved."""
FOREIGN_DRIVER_MB = 220.0
"""What torch and `transformers` add to a driver on Ray, which tries models outside the Llama family (measured)."""


def outline_needs(run: Outline) -> ActorNeeds:
    """What the actors of a run would need in memory.

    Args:
        run: The run without its weights.
    """
    from dfl_ray.simulation.experiment import checked_layers

    method = run.config.method
    per_task = method_spec(method).per_task
    _, router = checked_layers(method, run.targets, run.tasks)
    return ActorNeeds(
        run.config, run.targets.shape, run.layout.size,
        adapters=int((run.deployment.mixture > 0).sum(axis=1).max()) if per_task else 1, tasks=run.tasks,
        row=float(run.tokens.mean.max()), asked_row=run.rows,
        longest=max((int(x.max()) for x in run.tokens.lengths), default=math.ceil(run.rows)),
        adapted_values=dense_values(run.layout.layers),
        neighbours=run.graph.mean_neighbours, most_neighbours=run.graph.most_neighbours,
        foreign=run.targets.foreign, scored=run.scored, predicted=predicted(run.asked),
        asks=asks(run.config, run.layout.layers, router, run.tasks),
    )  # fmt: skip


def asks(config: Config, layers: Sequence[LayerShape], router: Sequence[int], tasks: int) -> Asks:
    """What the evaluations of a run and its sketches ask of a model.

    Args:
        config: The run; of its rules those that are too large are left out.
        layers: The adapted layers.
        router: Indices of those that the router looks at.
        tasks: Number of tasks T.
    """
    from dfl_ray.devices.rule_sizes import DENSE_RULES

    rules = rules_asked(config, config.rounds)
    names = [layers[k].name for k in router]
    first = all(".layers.0." in f".{name}" and not name.endswith("down_proj") for name in names)
    dense = {
        (DENSE_BYTES[rule][0] * tasks + DENSE_BYTES[rule][1]) * DENSE_RULES[rule](layers)
        for rule in rules
        if rule in DENSE_RULES
    }
    if filters_received(config.method):
        dense.add(FILTER_BYTES * tasks * len(layers) * (tasks * config.method.rank) ** 2)
    return Asks(
        apart=set(rules) <= {"likelihood", "oracle"}, router_blocks=not first,
        closing="filter_full" in rules or needs_references(config, rules),
        dense_mb=max(dense, default=0) / 2**20,
    )  # fmt: skip


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
    needs = outline_needs(run)
    return pack(
        run.config.runtime, run.deployment.topology.cluster, resources, needs.state_mb, nodes=nodes,
        messages=messages, working_mb=needs.working_mb, merged_mb=needs.merged_mb,
    )  # fmt: skip


def memory_figures(run: Outline, packing: Packing) -> dict[str, float]:
    """Peak memory of a run here, and what of the state lies in files (`runtime.state_memory_mb`).

    With Ray the base is held by the driver that read it, and by the object store, which all actors map. In one process
    there are no actors: torch, all devices' states, and the work of one group of them all. Checkpoints pass in parts.

    Args:
        run: The run without its weights.
        packing: Which actor hosts which devices.

    Returns:
        Units of 2^20 bytes by name: `base_mb`, `actor_mb`, `device_state_mb`, `working_mb`, `state_files_mb`,
        `peak_mb`.
    """
    needs, base = outline_needs(run), run.base_mb
    each, working = needs.state_mb, needs.working_mb
    states = whole = each * run.config.devices.count
    if run.config.runtime.state_memory_mb is not None:
        states = min(states, run.config.runtime.state_memory_mb)
    passing = min(whole, PART_MB * (len(packing.groups) + 1))
    if run.config.runtime.backend == "ray":
        hosts = RAY_MB + base + packing.memory_mb * len(packing.groups)
        hosts += FOREIGN_DRIVER_MB if run.targets.shape is None else 0.0
    else:
        hosts = TORCH_MB + states + working + needs.merged_mb(run.config.devices.count)
        hosts += TRANSFORMERS_MB if run.targets.shape is None else 0.0
    return {
        "base_mb": base,
        "actor_mb": packing.memory_mb,
        "device_state_mb": each,
        "working_mb": working,
        "state_files_mb": whole if states < whole else 0.0,
        "peak_mb": DRIVER_MB + hosts + base + passing,
    }
