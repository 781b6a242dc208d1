"""A whole experiment without training: the same graph, rows, traffic law and keyed radio draws as the run.

What a device sends depends on the round and on what was delivered, not on values; what its training costs depends on
the rows it draws, which the plan draws too. So every transfer, and with it bytes, airtime and radio energy, is the
run's. Three things are not foreseen: a device left out of a round because its loss was not finite, a message refused
by its receiver, and, with `method.budget: effective_rank`, how masks share their entries out over the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.radio import radio_settings
from dfl_ray.config.schema import Config
from dfl_ray.devices.faulty import drawn_faults
from dfl_ray.devices.rule_sizes import with_rules_in_reach
from dfl_ray.engines.adapted_layers import Targets, row_sizes, scored_tokens
from dfl_ray.engines.memory import value_bytes
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import Layout
from dfl_ray.methods.due import rests
from dfl_ray.methods.laws import LawContext, TrafficLaw
from dfl_ray.methods.notes import density_notes
from dfl_ray.methods.spec import method_spec
from dfl_ray.models.precision import with_dtype
from dfl_ray.models.weights import FOUR_BIT_BYTES
from dfl_ray.network.comm_graph import CommGraph
from dfl_ray.network.deployment import Deployment, build_deployment, graph_for, needs_sketches
from dfl_ray.network.movement import Movement
from dfl_ray.network.notes import deadline_note
from dfl_ray.network.traffic import LawfulNetwork
from dfl_ray.simulation.asked_rows import AskedRows, asked_notes, asked_tokens, keeps_cache, usual_rules
from dfl_ray.simulation.dealing import DealtRows, deal_rows, held_tasks, sketches_of
from dfl_ray.simulation.dry_backend import DryBackend, TokenCount
from dfl_ray.simulation.experiment import (
    checked_layers,
    flops_per_token,
    model_path,
    setup_notes,
    warm_notes,
    warm_start,
)
from dfl_ray.simulation.goals import Goals
from dfl_ray.simulation.planned_model import planned_model
from dfl_ray.simulation.planned_rows import planned_rows
from dfl_ray.simulation.round_loop import PlayedRound, RoundLoop, WallTimes
from dfl_ray.simulation.sampled_rounds import chosen_rounds, goes_on, sampled_note
from dfl_ray.simulation.schedules import Barrier, NoBarrier

if TYPE_CHECKING:
    from dfl_ray.experts.similarity import SharedSketches
    from dfl_ray.tasks.tokens import TokenTask

EXACT_DRAWS = 200_000
"""Device-rounds up to which every device's rows are drawn; beyond it each device costs the mean of its tasks."""

Step = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Outline:
    """A run without its weights.

    Attributes:
        config: The experiment.
        targets: What is adapted.
        layout: Where the trained factors lie in one adapter.
        deployment: Devices, channel and topology.
        graph: Who exchanges what with whom.
        law: What the method sends.
        law_context: What the law knows of the run.
        tokens: Counts the tokens of local training.
        rows: Mean tokens of a training row, over all tasks.
        tasks: Number of tasks.
        scored: Mean tokens of a training row that are predicted; 0 where rows are not read.
        sketch_share: Share of the model up to the last layer whose inputs sketches need.
        asked: The rows of each task that an evaluation asks.
        notes: Things the user should be told, in words.
    """

    config: Config
    targets: Targets
    layout: Layout
    deployment: Deployment
    graph: CommGraph
    law: TrafficLaw
    law_context: LawContext
    tokens: TokenCount
    rows: float
    tasks: int
    scored: float
    sketch_share: float
    asked: tuple[AskedRows, ...]
    notes: tuple[str, ...]

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of training on one token."""
        return flops_per_token(self.config.method, self.targets.layers, self.targets.parameters)

    @property
    def base_tokens(self) -> float | None:
        """`asked_tokens` of the base model, before the first round."""
        return asked_tokens(self.asked, cached=keeps_cache(self.targets.shape, ()))

    @property
    def evaluation_tokens(self) -> float | None:
        """`asked_tokens` of one adapter, by the rules of every evaluation but the last."""
        return asked_tokens(self.asked, cached=keeps_cache(self.targets.shape, usual_rules(self.config)))

    @property
    def base_mb(self) -> float:
        """Memory of the base model's parameters in units of 2^20 bytes, its linear layers in 4 bits if so asked."""
        model, values = self.config.model, self.targets.parameters
        width = value_bytes(model.dtype)
        few = self.targets.linear_values if model.load_in_4bit else 0
        return (width * (values - few) + FOUR_BIT_BYTES * few) / 2**20

    def flops(self, device: int, local_round: int) -> float:
        """Operations of a device's training in one local round."""
        return self.tokens.of(device, local_round) * self.flops_per_token

    def law_on(self, graph: CommGraph) -> TrafficLaw:
        """The method's traffic law on another communication graph of the same devices."""
        context = replace(self.law_context, graph=graph)
        return method_spec(self.config.method).law(context)


@dataclass
class DryRun:
    """What a dry run found.

    Attributes:
        outline: The run.
        played: Round -> what happened in it, for the rounds that were planned.
        skipped_bytes: Round -> bytes asked for, for the rounds between them.
        skipped_s: Round -> simulated length of a skipped round, training alone.
        skipped_energy_j: Round -> computing energy of a skipped round.
        skipped_tokens: Round -> tokens that a skipped round trains on.
        notes: What the user should know of it.
        radio_s: Real seconds that planning the radio took in each planned round.
    """

    outline: Outline
    played: dict[int, PlayedRound] = field(default_factory=dict)
    skipped_bytes: dict[int, int] = field(default_factory=dict)
    skipped_s: dict[int, float] = field(default_factory=dict)
    skipped_energy_j: dict[int, float] = field(default_factory=dict)
    skipped_tokens: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    radio_s: list[float] = field(default_factory=list)

    @property
    def tokens_a_round(self) -> float:
        """Tokens that all devices train on in a round, the mean over rounds: who rests or walks trains on none."""
        played = [sum(float(report.tokens.sum()) for report in done.trained) for done in self.played.values()]
        return float(np.mean([*played, *self.skipped_tokens.values()]))


def outline(config: Config, step: Step = lambda _name: nullcontext()) -> Outline:
    """Everything of a run but its weights.

    Args:
        config: Any configuration; its model must be `embedded` or a local folder.
        step: Shows a step while it runs.

    Returns:
        The run's shapes, network and traffic law.

    Raises:
        InputError: The layout is impossible or the model's shapes are not known.
    """
    config, chosen = with_dtype(config)
    method = config.method
    with step("tasks"):
        planned = planned_rows(config)
        names, tokens, means = planned.names, planned.tokens, planned.means
    folder = Path(model_path(config))
    targets = planned_model(config, folder, tokens)
    layers, router = checked_layers(method, targets, len(names))
    config, rules = with_rules_in_reach(config, layers, len(names))
    told = (*rules, *warm_notes(config, warm_start(config, layers), layers), *density_notes(method, layers))
    with step("topology"):
        deployment = build_deployment(config, len(names), _sketches(config, tokens), names)
        graph = graph_for(config, deployment.topology)
    spec = method_spec(method)
    layout = Layout(layers, method.rank, spec.trains)
    held = held_tasks(deployment.mixture)
    barrier = config.schedule == "sync"
    context = LawContext(
        method, config.rounds, len(names), held, graph, layout, len(router), barrier, config.seed
    )
    law = spec.law(context)
    dealt, more = _dealt(config, tokens, deployment.mixture)
    counts = TokenCount(config, law, planned.lengths, dealt, deployment.mixture @ means)
    notes = setup_notes(config, planned.notes, tokens, (*targets.notes, *told), deployment, graph)
    return Outline(
        config,
        targets,
        layout,
        deployment,
        graph,
        law,
        context,
        counts,
        float(means.mean()),
        len(names),
        scored_tokens(tokens),
        _sketch_share(targets, router),
        planned.asked,
        (*chosen, *notes, *more, *_change_notes(config), *asked_notes(config, planned.asked, targets.shape)),
    )


def _change_notes(config: Config) -> tuple[str, ...]:
    """What a plan takes sizes of change to be, which follow from trained values."""
    if not radio_settings(config.radio).by_change():
        return ()
    return (
        "`radio.priority` is information, and a plan knows no trained values: it takes all messages to carry changes "
        "of one size, so that they go in the order of `waiting`. Under a deadline the run delivers others.",
    )


def _sketches(config: Config, tokens: tuple[TokenTask, ...]) -> SharedSketches | None:
    """What the graph's groups are found from; only for these does a plan read the base model's weights."""
    from dfl_ray.engines.adapted_layers import targets_of
    from dfl_ray.models.base import load_base

    if not needs_sketches(config.topology):
        return None
    if not tokens:
        raise InputError(
            "`topology.by: similarity` finds groups from rows, and a plan reads no hub data",
            change="Give topology.features_path, plan with topology.by=tasks, or take local files.",
        )
    weights = load_base(
        model_path(config), dtype=config.model.dtype, trust_remote_code=config.model.trust_remote_code,
        load_in_4bit=config.model.load_in_4bit, longest=config.model.max_tokens,
    )  # fmt: skip
    targets = targets_of(weights, config.model.target_modules, row_sizes(tokens))
    return sketches_of(config, weights, tokens, targets)


def _sketch_share(targets: Targets, router: tuple[int, ...]) -> float:
    """Share of a forward pass that sketches take; models that nobody knows the order of are read to the end."""
    if len(targets.distinct) == len(targets.layers) or not router:
        return 1.0
    return (max(router) + 1) / len(targets.layers)


def _dealt(
    config: Config, tokens: Sequence[TokenTask], mixture: np.ndarray
) -> tuple[DealtRows | None, list[str]]:
    if not tokens:
        return None, []
    if config.devices.count * config.rounds > EXACT_DRAWS:
        told = "computing is counted by the mean length of each device's rows, not by the rows drawn"
        return None, [told]
    try:
        return deal_rows(config, tokens, mixture), []
    except InputError as error:
        return None, [f"{error.what}: the plan goes on with mean row lengths, a run would be refused"]


def dry_run(
    config: Config,
    step: Step = lambda _name: nullcontext(),
    rounds: int | None = None,
    *,
    timed: bool = False,
) -> DryRun:
    """Play an experiment without training.

    Args:
        config: The experiment.
        step: Shows a step while it runs.
        rounds: How many rounds to plan; see `chosen_rounds`.
        timed: Whether `DryRun.radio_s` is wanted: the loading of the radio's loops is then left out of it.

    Returns:
        What was found; it ends early, with a note, when all batteries are empty.

    Raises:
        InputError: The layout is impossible or the model's shapes are not known.
    """
    run = outline(config, step)
    with step("channel"):
        network = LawfulNetwork(run.law, range(config.devices.count))
        channel = run.deployment.channel.make()
        backend = DryBackend(network, channel, run.tokens, run.law_on, rehearse=timed)
    found = DryRun(run, radio_s=backend.radio_s, notes=list(run.notes))
    deployed = run.deployment
    steps, presence = config.method.local_steps, deployed.channel.presence
    sync = config.schedule == "sync"
    schedule = Barrier(steps) if sync else NoBarrier(deployed.channel.classes, run.flops, steps)
    loop = RoundLoop(
        backend, deployed.channel.classes, run.graph.relays, run.flops_per_token, schedule=schedule,
        movement=Movement.of(config, deployed.channel, deployed.topology, run.graph, deployed.sketches),
        faults=drawn_faults(config), presence=presence, rests=partial(rests, config.method),
    )  # fmt: skip
    goals = Goals(config.stop)
    # A window follows from the one before it, and devices come and go by the channel's clock: none can be left out.
    asked = rounds if sync and presence is None else config.rounds
    ends = goes_on(config, deployed.channel.classes.battery_j)
    planned = set(chosen_rounds(run.law, config.devices.count, config.rounds, asked, followed=bool(ends)))
    with step(f"{len(planned)} of {config.rounds} rounds"):
        for round_index in range(1, max(planned) + 1 if len(planned) == config.rounds else config.rounds + 1):
            if round_index not in planned:
                _skip(found, loop, backend, round_index)
                goals.spent_j += found.skipped_energy_j[round_index]
                continue
            done = found.played[round_index] = loop.play(round_index, WallTimes())
            said = goals.spent(loop.clock_s, float(done.plan.energy_j.sum()))
            if round_index < config.rounds:
                said = said or done.nobody_left
            if said:
                found.notes.append(f"The run ends after round {round_index} of {config.rounds}: {said}")
                break
    found.notes.extend(_first_late(found))
    if len(planned) < config.rounds:
        found.notes.append(sampled_note(len(found.played), config.rounds, ends))
    return found


def _first_late(found: DryRun) -> list[str]:
    deadline_s = found.outline.deployment.channel.settings.deadline_s
    notes = (deadline_note(r, done.plan, done.cost.seconds, deadline_s) for r, done in found.played.items())
    return [note for note in notes if note][:1]


def _skip(found: DryRun, loop: RoundLoop, backend: DryBackend, round_index: int) -> None:
    loop.move(round_index)
    found.skipped_bytes[round_index], tokens = backend.skip(round_index, loop.faults)
    cost = loop.schedule.cost(None, tokens * loop.flops_per_token, loop.classes)
    found.skipped_s[round_index] = float(cost.seconds.max(initial=0.0))
    loop.skipped_s += found.skipped_s[round_index]
    loop.clock_s += found.skipped_s[round_index]
    found.skipped_energy_j[round_index] = float(cost.energy_j.sum())
    found.skipped_tokens[round_index] = float(tokens.sum())


def totals(found: DryRun) -> Mapping[str, Any]:
    """Whole-run sums; what was skipped is scaled by the planned rounds' cost for each byte asked for.

    With m = bytes asked for in skipped rounds / bytes asked for in planned ones, sums of the radio are multiplied
    by 1 + m; skipped rounds add their own computing.

    Args:
        found: The dry run.

    Returns:
        `payload_bytes` on air, `airtime_s`, `radio_energy_j` and, where radios have states, its parts, what control
        cost where it is charged,
        `compute_energy_j`, `energy_j`, `simulated_s`, `transfers` and `delivered` (planned rounds only),
        `delivered_fraction`.
    """
    from dfl_ray.simulation.radio_tables import bytes_on_air, control_costs, state_energy

    played = list(found.played.values())
    asked = sum(int(p.requests.payload_bytes.sum()) for p in played)
    more = sum(found.skipped_bytes.values()) / asked if asked else 0.0
    wanted = sum(len(p.requests) for p in played)
    arrived = sum(int(p.arrived.sum()) for p in played)
    computing = sum(float(p.plan.compute_energy_j.sum()) for p in played)
    lengths = [p.plan.end_s - p.plan.start_s for p in played]
    # What the radio adds to a round behind its slowest training.
    added_s = sum(max(0.0, s - float(np.max(p.cost.seconds))) for s, p in zip(lengths, played, strict=True))
    radio = sum(float(p.plan.radio_energy_j.sum()) for p in played) * (1 + more)
    computing += sum(found.skipped_energy_j.values())
    by_state = [state_energy(p.plan) for p in played]
    control = [control_costs(p.plan) for p in played if p.plan.control is not None]
    return {
        "payload_bytes": round(sum(bytes_on_air(p.plan) for p in played) * (1 + more)),
        "airtime_s": sum(p.plan.airtime_s for p in played) * (1 + more),
        "radio_energy_j": radio,
        **{k: sum(float(one[k].sum()) for one in by_state) * (1 + more) for k in (by_state or [{}])[0]},
        **{k: sum(one[k] for one in control) * (1 + more) for k in (control or [{}])[0]},
        "compute_energy_j": computing,
        "energy_j": radio + computing,
        "simulated_s": sum(lengths) + sum(found.skipped_s.values()) + more * added_s,
        "transfers": wanted,
        "delivered": arrived,
        "delivered_fraction": arrived / wanted if wanted else None,
    }
