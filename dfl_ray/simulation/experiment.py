"""From a configuration to everything a run starts with: tasks, base model, places, radio, graph.

All checks that need data or the model happen here, before any actor starts and before anything is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.methods import PerTaskConfig, SparseOrthogonalConfig
from dfl_ray.config.privacy import privacy_notes
from dfl_ray.config.schema import Config
from dfl_ray.config.settings import skew_notes
from dfl_ray.config.training import TrainingConfig
from dfl_ray.devices.faulty import fault_notes
from dfl_ray.devices.records import GroupSetup
from dfl_ray.devices.rule_sizes import with_rules_in_reach
from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.methods.laws import LawContext, TrafficLaw
from dfl_ray.methods.notes import density_notes, mask_notes, method_notes, root_of
from dfl_ray.methods.spec import method_spec
from dfl_ray.network.comm_graph import CommGraph
from dfl_ray.network.deployment import (
    ChannelSetup,
    Deployment,
    build_deployment,
    graph_for,
)
from dfl_ray.network.notes import (
    cluster_notes,
    graph_notes,
    movement_notes,
    radio_notes,
    undecodable_notes,
    unheld_notes,
)
from dfl_ray.simulation.common_start import static_projections, static_ups, warm_notes, warm_start
from dfl_ray.simulation.dealing import deal_rows, sketches_of
from dfl_ray.simulation.gradient_bases import with_gradient_bases

if TYPE_CHECKING:
    from dfl_ray.engines.adapted_layers import Targets
    from dfl_ray.experts.similarity import SharedSketches
    from dfl_ray.models.weights import BaseWeights
    from dfl_ray.tasks.assemble import LoadedTasks
    from dfl_ray.tasks.data import Task
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
        sketches: What the graph's groups are found from; see `Deployment`.
    """

    config: Config
    setup: GroupSetup
    channel: ChannelSetup
    topology: Topology
    flops_per_token: float
    notes: tuple[str, ...]
    sketches: SharedSketches | None = None

    @property
    def layout(self) -> Layout:
        """Where the trained factors of every layer lie in one adapter."""
        s, trains = self.setup, method_spec(self.config.method).trains
        return Layout(s.layers, self.config.method.rank, trains, s.ups)

    def traffic_law(self) -> TrafficLaw:
        """What the method sends: who, to whom, when and how many bytes."""
        s, barrier = self.setup, self.config.schedule == "sync"
        sizes = (self.layout, len(s.router_layers), barrier, self.config.seed)
        context = LawContext(self.config.method, self.config.rounds, len(s.tasks), s.held, s.graph, *sizes)
        return method_spec(self.config.method).law(context)


def build_experiment(
    config: Config,
    step: Step = _silent,
    loaded: LoadedTasks | None = None,
    on_weights: Callable[[BaseWeights], object] = lambda _weights: None,
) -> Experiment:
    """Build everything a run starts with.

    Args:
        config: The experiment.
        step: Shows a set-up step while it runs.
        loaded: The tasks' rows, if they have been read already.
        on_weights: Called with the base model as soon as it is read.

    Returns:
        The experiment, the same for the same configuration and data.

    Raises:
        InputError: Whatever is wrong with data, model or layout.
    """
    from dfl_ray.engines.adapted_layers import row_sizes, targets_of
    from dfl_ray.models.precision import with_dtype
    from dfl_ray.tasks.load import read_tasks

    config, chosen = with_dtype(config)
    if loaded is None:
        with step("tasks"):
            loaded = read_tasks(config)
    with step("base model"):
        weights, tokens = _model_and_tokens(config, loaded.tasks)
        targets = targets_of(weights, config.model.target_modules, row_sizes(tokens))
        layers, router_layers = checked_layers(config.method, targets, len(tokens))
        config, rules = with_rules_in_reach(config, layers, len(tokens))
    on_weights(weights)
    with step("radio and topology"):
        sketches = sketches_of(config, weights, tokens, targets)
        deployment = build_deployment(config, len(tokens), sketches, [t.name for t in tokens])
        graph = graph_for(config, deployment.topology)
    with step("projections"):
        warm = warm_start(config, layers)
        projections = static_projections(config, layers, len(tokens), warm)
        setup = _group_setup(config, weights, tokens, layers, router_layers, deployment, graph, projections)
        setup = with_gradient_bases(replace(setup, warm=warm, ups=static_ups(config, layers)))
    flops = flops_per_token(config.method, layers, targets.parameters)
    told = (*targets.notes, *rules, *warm_notes(config, warm, layers), *density_notes(config.method, layers))
    notes = setup_notes(config, loaded.notes, tokens, told, deployment, graph)
    return Experiment(
        config, setup, deployment.channel, deployment.topology, flops, (*chosen, *notes), sketches
    )


def _model_and_tokens(config: Config, tasks: Any) -> tuple[BaseWeights, tuple[TokenTask, ...]]:
    from dfl_ray.models.base import load_base

    weights = load_base(
        model_path(config), dtype=config.model.dtype, trust_remote_code=config.model.trust_remote_code,
        load_in_4bit=config.model.load_in_4bit, longest=config.model.max_tokens,
    )  # fmt: skip
    return weights, token_tasks(config, tasks, weights.classes)


def token_tasks(
    config: Config, tasks: Sequence[Task], classes: Sequence[str] | None = None
) -> tuple[TokenTask, ...]:
    """The tasks' rows as tokens of the run's model.

    Args:
        config: The experiment.
        tasks: Their rows.
        classes: Names of the classes of a base model that classifies; None for a language model.

    Returns:
        The tasks in the same order.

    Raises:
        InputError: There is no tokenizer, or it cannot read the rows.
    """
    from dfl_ray.models.tokenizer import load_tokenizer
    from dfl_ray.tasks.chat import prompt_form
    from dfl_ray.tasks.class_rows import classify_task
    from dfl_ray.tasks.scoring import asked_score
    from dfl_ray.tasks.tokens import tokenize_task

    tokenizer = load_tokenizer(model_path(config), trust_remote_code=config.model.trust_remote_code)
    asked = {t.name: asked_score(config, t.name) for t in tasks}
    if classes is not None:
        sizes = {"max_tokens": config.model.max_tokens}
        return tuple(
            classify_task(t, tokenizer, classes, score=asked[t.name][0], asked_by=asked[t.name][1], **sizes)
            for t in tasks
        )
    form = prompt_form(config.tasks, tokenizer)
    return tuple(
        tokenize_task(
            t,
            tokenizer,
            max_tokens=config.model.max_tokens,
            score=asked[t.name][0],
            asked_by=asked[t.name][1],
            form=form,
            max_new_tokens=config.evaluate.max_new_tokens,
        )
        for t in tasks
    )


def model_path(config: Config) -> str:
    """Folder or hub id of the base model; a GGUF file is dequantised into a folder first."""
    from dfl_ray.models.location import base_path

    return base_path(config.model.name)


def checked_layers(
    method: TrainingConfig, targets: Targets, tasks: int
) -> tuple[tuple[LayerShape, ...], tuple[int, ...]]:
    """The adapted layers, and the indices of those the likelihood router looks at.

    Args:
        method: The `method` section.
        targets: What can be adapted.
        tasks: Number of tasks T.

    Returns:
        The layers; and of methods with an expert a task all indices for the rule `filter`, else the first
        `method.sketch_layers` with distinct inputs. No index for other methods.

    Raises:
        InputError: There is no room for the tasks' projections or masks.
    """
    from dfl_ray.lora.masks import check_disjoint
    from dfl_ray.lora.projection import check_core, check_room

    if "c" in method_spec(method).trains:
        check_core(targets.layers, method.rank)
    if not isinstance(method, PerTaskConfig):
        return targets.layers, ()
    if isinstance(method, SparseOrthogonalConfig) and method.disjoint:
        check_disjoint(method.density, tasks)
    if method.projection != "gaussian":
        for layer in targets.layers:
            check_room(layer, tasks=tasks, rank=method.rank)
    whole = method.rule == "filter"
    return targets.layers, tuple(range(len(targets.layers))) if whole else targets.distinct[
        : method.sketch_layers
    ]


def flops_per_token(method: TrainingConfig, layers: Sequence[LayerShape], parameters: int) -> float:
    """Floating-point operations of training on one token: 4 P for the frozen base, 6 for each adapter value.

    A frozen weight costs a multiplication and an addition forward, and as many for the gradient of its input; an
    adapter value also those for its own gradient: 4·P + 6·Σ_layers r·(d_in + d_out). Attention scores, which grow
    with the length of a row, are not counted.

    Args:
        method: The `method` section.
        layers: The adapted layers.
        parameters: Number of the base model's parameters P.

    Returns:
        Operations, > 0.
    """
    return 4.0 * parameters + 6.0 * sum(method.rank * (s.in_features + s.out_features) for s in layers)


def _group_setup(
    config: Config,
    weights: BaseWeights,
    tokens: tuple[TokenTask, ...],
    layers: tuple[LayerShape, ...],
    router_layers: tuple[int, ...],
    deployment: Deployment,
    graph: CommGraph,
    projections: tuple[np.ndarray, ...],
) -> GroupSetup:
    dealt = deal_rows(config, tokens, deployment.mixture)
    return GroupSetup(
        config=config, weights=weights, tasks=tokens, layers=layers, router_layers=router_layers,
        held=dealt.held, shares=dealt.shares, rows=dealt.rows, graph=graph,
        run=_run_identity(config, projections), projections=projections,
    )  # fmt: skip


def _run_identity(config: Config, projections: tuple[np.ndarray, ...]) -> int:
    """Low 32 bits of a hash of seed, method and all A_t: messages of another run or another A are foreign."""
    from dfl_ray.lora.projection import projection_hash

    digest = hashlib.blake2b(f"{config.seed} {config.method!r}".encode(), digest_size=4)
    digest.update(projection_hash(projections).encode())
    return int.from_bytes(digest.digest(), "little")


def setup_notes(
    config: Config,
    rows: Sequence[str],
    tokens: Sequence[TokenTask],
    model: Sequence[str],
    deployment: Deployment,
    comm: CommGraph,
) -> tuple[str, ...]:
    """All that is told when a run is set up or planned.

    Args:
        config: The experiment.
        rows: Notes on the tasks' rows as they were read.
        tokens: The tasks as tokens; how they are scored is told first, then their own notes.
        model: Notes on the base model and its layers.
        deployment: The radio and the graph.
        comm: The communication graph made of it.

    Returns:
        One sentence each, in the order in which they are told.
    """
    from dfl_ray.tasks.score_words import score_lines, unasked_notes

    texts = (note for task in tokens for note in task.notes)
    graph = graph_notes(config.topology, deployment.topology, deployment.channel, root_of(config.method))
    parted = bool(deployment.topology.components.max(initial=0))
    graph += undecodable_notes(config.topology, deployment.undecodable, parted=parted)
    graph += (*movement_notes(config.devices), *cluster_notes(config.topology, deployment.sketches))
    graph += unheld_notes(deployment.topology, [task.name for task in tokens])
    radio = radio_notes(deployment.channel, deployment.topology)
    settings = (
        *skew_notes(config.devices),
        *fault_notes(config),
        *privacy_notes(config.privacy, config.topology),
    )
    settings += (*method_notes(config), *mask_notes(config, comm), *unasked_notes(config.evaluate, tokens))
    return (*rows, *score_lines(tokens), *texts, *model, *_gpu_notes(config), *graph, *radio, *settings)


def _gpu_notes(config: Config) -> tuple[str, ...]:
    """Said where the local backend is to use a GPU and this machine has none; Ray refuses by itself."""
    from dfl_ray.models.precision import on_gpus

    if config.runtime.backend != "local" or config.runtime.gpus_per_actor == 0 or on_gpus(config):
        return ()
    return (
        f"`runtime.gpus_per_actor` is {config.runtime.gpus_per_actor:g}, but this machine has no CUDA device: the "
        "local backend computes on the CPU.",
    )
