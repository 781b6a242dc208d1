"""Bytes that each method would put on air in a round of one configuration, by the methods' own traffic laws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.config.training import TrainingConfig
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import Layout
from dfl_ray.methods.spec import method_spec
from dfl_ray.network.deployment import graph_for
from dfl_ray.network.traffic import LawfulNetwork
from dfl_ray.simulation.dry_run import Outline, outline
from dfl_ray.simulation.experiment import checked_layers
from dfl_ray.simulation.radio_tables import expand_hops

MOST_DEVICE_ROUNDS = 20_000
"""Device-rounds of each method that are played; a run of more is taken to go on as it began."""

Step = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class MethodBytes:
    """What a method sends.

    Attributes:
        name: The method.
        round_bytes: Mean bytes of all devices in a round where nothing is lost: of every message to every receiver, and
            of every hop where a message needs several. None where the method cannot have the configuration.
        problem: Why it cannot; empty otherwise.
    """

    name: str
    round_bytes: float | None
    problem: str = ""


def bytes_of_methods(
    config: Config,
    sections: Mapping[str, TrainingConfig | InputError],
    step: Step = lambda _name: nullcontext(),
) -> Iterator[MethodBytes]:
    """Play each method's law on the configuration's devices and graph, without radio, rows and values.

    Args:
        config: The configuration: devices, graph, model, tasks and rounds.
        sections: Method -> its section, or why the configuration cannot be with it.
        step: Shows a step while it runs.

    Yields:
        One result for each method, in their order.

    Raises:
        InputError: The configuration itself is impossible.
    """
    run = outline(config, step)
    for name, section in sections.items():
        try:
            if isinstance(section, InputError):
                raise section
            yield MethodBytes(name, _round_bytes(run, section))
        except InputError as error:
            yield MethodBytes(name, None, error.what)


def _round_bytes(run: Outline, section: TrainingConfig) -> float:
    layers, router = checked_layers(section, run.targets, run.tasks)
    graph, spec = run.graph, method_spec(section)
    if (section.hub, section.through) != (run.config.method.hub, run.config.method.through):
        graph = graph_for(run.config.model_copy(update={"method": section}), run.deployment.topology)
    layout = Layout(layers, section.rank, spec.trains)
    context = replace(run.law_context, config=section, layout=layout, router_layers=len(router), graph=graph)
    devices, rounds = run.config.devices.count, run.config.rounds
    played = min(rounds, max(1, MOST_DEVICE_ROUNDS // devices))
    network, total = LawfulNetwork(spec.law(context), range(devices)), 0
    for round_index in range(1, played + 1):
        found = network.requests(round_index)
        network.deliver_all(found)
        if len(found):
            hops = expand_hops(found, graph.relays)
            total += int(np.sum(hops.transfers.payload_bytes))
    return total / played
