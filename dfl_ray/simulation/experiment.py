"""From a configuration to everything a run starts with: tasks, base model, places, radio, graph.

All checks that need data or the model happen here, before any actor starts and before anything is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.methods import SparseOrthogonalConfig
from dfl_ray.config.schema import Config
from dfl_ray.devices.records import GroupSetup
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.network.comm_graph import CommGraph, comm_graph
from dfl_ray.network.deployment import ChannelSetup, Deployment, build_deployment
from dfl_ray.seeds import Stream, generator

if TYPE_CHECKING:
    from dfl_ray.models.base import BaseWeights
    from dfl_ray.tasks.assemble import LoadedTasks
    from dfl_ray.tasks.tokens import TokenTask
    from topology import Topology

Step = Callable[[str], AbstractContextManager[None]]


def _silent(_name: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Experiment:
    """A run ready to start.

    Attributes:
        config: The experiment.
        setup: What every group of devices needs.
        channel: What the channel is made from.
        topology: The graph.
        flops_per_token: Floating-point operations of training on one token.
        notes: Things the user should be told, in words.
    """

    config: Config
    setup: GroupSetup
    channel: ChannelSetup
    topology: Topology
    flops_per_token: float
    notes: tuple[str, ...]


def build_experiment(config: Config, step: Step = _silent, loaded: LoadedTasks | None = None) -> Experiment:
    """Build everything a run starts with.

    Args:
        config: The experiment.
        step: Shows a set-up step while it runs.
        loaded: The tasks' rows, if they have been read already.

    Raises:
        InputError: Whatever is wrong with data, model or layout.
    """
    from dfl_ray.tasks.load import read_tasks

    if loaded is None:
        with step("tasks"):
            loaded = read_tasks(config)
    with step("base model"):
        weights, tokens = _model_and_tokens(config, loaded.tasks)
        layers, router_layers, parameters, model_notes = _layers(config, weights, tokens)
    with step("radio and topology"):
        deployment = build_deployment(config, len(tokens))
        graph = comm_graph(deployment.topology, mixing=config.topology.mixing)
    setup = _group_setup(config, weights, tokens, layers, router_layers, deployment, graph)
    adapter = sum(config.method.rank * (s.in_features + s.out_features) for s in layers)
    notes = (*loaded.notes, *model_notes, *_gpu_notes(config), *_graph_notes(deployment.topology))
    return Experiment(
        config, setup, deployment.channel, deployment.topology, 4.0 * parameters + 6.0 * adapter, notes
    )


def _model_and_tokens(config: Config, tasks: Any) -> tuple[BaseWeights, tuple[TokenTask, ...]]:
    from dfl_ray.models.base import load_base
    from dfl_ray.models.tokenizer import load_tokenizer
    from dfl_ray.tasks.tokens import tokenize_task

    path = model_path(config)
    weights = load_base(path, dtype=config.model.dtype, trust_remote_code=config.model.trust_remote_code)
    tokenizer = load_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
    score = config.evaluate.score
    if score == "auto" and config.tasks.source == "synthetic":
        score = "exact_match"
    tokens = tuple(
        tokenize_task(t, tokenizer, max_tokens=config.model.max_tokens, score=score) for t in tasks
    )
    return weights, tokens


def model_path(config: Config) -> str:
    """Folder or hub id of the base model."""
    from dfl_ray.models.paths import embedded_path

    if config.model.name == "embedded":
        return str(embedded_path())
    folder = Path(config.model.name).expanduser()
    return str(folder) if folder.exists() else config.model.name


def _layers(
    config: Config, weights: BaseWeights, tokens: tuple[TokenTask, ...]
) -> tuple[tuple[LayerShape, ...], tuple[int, ...], int, tuple[str, ...]]:
    """Adapted layers, the router's layers, the number of base parameters, and what is to be said about the model."""
    from dfl_ray.engines.adapted_layers import row_sizes, targets_of
    from dfl_ray.lora.masks import check_disjoint
    from dfl_ray.lora.projection import check_room

    targets = targets_of(weights, config.model.target_modules, row_sizes(tokens))
    layers, method, tasks = targets.layers, config.method, len(tokens)
    if not isinstance(method, SparseOrthogonalConfig):
        return layers, (), targets.parameters, targets.notes
    if method.disjoint:
        check_disjoint(method.density, tasks)
    if method.projection != "gaussian":
        for layer in layers:
            check_room(layer, tasks=tasks, rank=method.rank)
    router = range(len(layers)) if method.rule == "filter" else targets.distinct[: method.sketch_layers]
    return layers, tuple(router), targets.parameters, targets.notes


def _group_setup(
    config: Config,
    weights: BaseWeights,
    tokens: tuple[TokenTask, ...],
    layers: tuple[LayerShape, ...],
    router_layers: tuple[int, ...],
    deployment: Deployment,
    graph: CommGraph,
) -> GroupSetup:
    from topology.partition import split_rows

    counts = [len(t.train) for t in tokens]
    _check_rows(tokens, (deployment.mixture > 0).sum(axis=0))
    rng = generator(config.seed, Stream.ROWS)
    try:
        dealt = split_rows(counts, deployment.mixture, rng=rng, sizes=config.devices.sizes)
    except ValueError as error:
        raise InputError(str(error)) from error
    held = {d: tuple(int(t) for t in np.flatnonzero(row > 0)) for d, row in enumerate(deployment.mixture)}
    return GroupSetup(
        config=config, weights=weights, tasks=tokens, layers=layers, router_layers=router_layers, held=held,
        shares={d: deployment.mixture[d, list(t)] / deployment.mixture[d, list(t)].sum() for d, t in held.items()},
        rows={d: tuple(dealt[d][t] for t in ts) for d, ts in held.items()}, graph=graph,
        run=_run_identity(config, layers, len(tokens)),
    )  # fmt: skip


def _check_rows(tokens: tuple[TokenTask, ...], holders: np.ndarray) -> None:
    for task, count in zip(tokens, holders.tolist(), strict=True):
        if len(task.train) < count:
            raise InputError(
                f"Task `{task.name}` has too few training rows for its holders",
                got=f"{len(task.train)} rows for {count} devices that hold it",
                expected="at least one row for each",
                change="Raise `tasks.train_rows`, add rows, or lower `devices.count` or `devices.tasks_per_device`.",
            )


def _run_identity(config: Config, layers: tuple[LayerShape, ...], tasks: int) -> int:
    """Low 32 bits of a hash of seed, method and all A_t: messages of another run or another A are foreign."""
    from dfl_ray.lora.projection import projection_hash, task_projections

    digest = hashlib.blake2b(f"{config.seed} {config.method!r}".encode(), digest_size=4)
    method = config.method
    if isinstance(method, SparseOrthogonalConfig):
        drawn = [
            task_projections(config.seed, s, tasks=tasks, rank=method.rank, kind=method.projection)
            for s in layers
        ]
        digest.update(projection_hash(drawn).encode())
    return int.from_bytes(digest.digest(), "little")


def _gpu_notes(config: Config) -> tuple[str, ...]:
    """Said where the local backend is to use a GPU and this machine has none; Ray refuses by itself."""
    if config.runtime.backend != "local" or config.runtime.gpus_per_actor == 0:
        return ()
    import torch

    if torch.cuda.is_available():
        return ()
    return (
        f"`runtime.gpus_per_actor` is {config.runtime.gpus_per_actor:g}, but this machine has no CUDA device: the "
        "local backend computes on the CPU.",
    )


def _graph_notes(topology: Topology) -> tuple[str, ...]:
    parts = int(topology.parts.max()) + 1
    if parts == 1:
        return ()
    return (
        f"The graph falls into {parts} parts that cannot reach each other; each goes on by itself. Lower "
        "`topology.min_snr_db`, raise `radio.tx_power_dbm` or make `devices.area_m` smaller to join them.",
    )
