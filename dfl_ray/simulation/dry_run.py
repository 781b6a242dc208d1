"""A whole experiment without training: the same graph, rows, traffic law and keyed radio draws as the run.

What a device sends depends on the round and on what was delivered, not on values; what its training costs depends on
the rows it draws, which the plan draws too. So every transfer, and with it bytes, airtime and radio energy, is the
run's. Three things are not foreseen: a device left out of a round because its loss was not finite, a message refused
by its receiver, and, with `method.budget: effective_rank`, how masks share their entries out over the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from channels.energy import compute_cost
from dfl_ray.config.schema import Config
from dfl_ray.devices.records import ExchangeReport, TrainReport
from dfl_ray.engines.adapted_layers import Targets, planned_targets, row_sizes
from dfl_ray.errors import InputError, RunError
from dfl_ray.lora.layout import Layout
from dfl_ray.methods.laws import LawContext, TrafficLaw
from dfl_ray.methods.spec import method_spec
from dfl_ray.network.comm_graph import CommGraph, comm_graph
from dfl_ray.network.deployment import Deployment, build_deployment
from dfl_ray.network.traffic import LawfulNetwork, TransferOutcomes
from dfl_ray.simulation.experiment import (
    DealtRows,
    checked_layers,
    deal_rows,
    flops_per_token,
    held_tasks,
    model_path,
    setup_notes,
    token_tasks,
)
from dfl_ray.simulation.round_loop import PlayedRound, RoundLoop, WallTimes
from dfl_ray.tasks.local_rows import draw_steps

if TYPE_CHECKING:
    from channels.channel import Channel
    from channels.transfers import RoundPlan, Transfers
    from dfl_ray.tasks.tokens import TokenTask

TOKENS_PER_ROW = {"synthetic": 16, "files": 90, "hub": 256}
"""Mean tokens of a row, where no rows can be read: measured on the embedded suite and on short real text."""
EXACT_DRAWS = 200_000
"""Device-rounds up to which every device's rows are drawn; beyond it each device costs the mean of its tasks."""
PLANNED_DEVICE_ROUNDS = 300_000
"""Device-rounds up to which all rounds are planned unless the user asks for fewer."""

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
        tokens: Counts the tokens of local training.
        rows: Mean tokens of a training row, over all tasks.
        tasks: Number of tasks.
        notes: Things the user should be told, in words.
    """

    config: Config
    targets: Targets
    layout: Layout
    deployment: Deployment
    graph: CommGraph
    law: TrafficLaw
    tokens: TokenCount
    rows: float
    tasks: int
    notes: tuple[str, ...]

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of training on one token."""
        return flops_per_token(self.config.method, self.targets.layers, self.targets.parameters)


@dataclass(frozen=True)
class TokenCount:
    """Tokens that local training sees.

    Attributes:
        config: The experiment.
        law: Says whose rows a device trains on.
        lengths: For each task the (rows,) tokens of its training rows; empty where no rows could be read.
        dealt: Which rows each device trains on; None where only means are used.
        mean: (devices,) mean tokens of a row of each device.
    """

    config: Config
    law: TrafficLaw
    lengths: Sequence[np.ndarray]
    dealt: DealtRows | None
    mean: np.ndarray

    def of(self, device: int, round_index: int) -> float:
        """Tokens of all local steps of one device in a round.

        Args:
            device: Device number.
            round_index: The round, from 1.

        Returns:
            The sum over the devices whose rows it trains on: of the rows drawn, or local steps · rows of a batch ·
            mean tokens of a row.
        """
        return sum(self._own(d, round_index) for d in self.law.sources(device))

    def _own(self, device: int, round_index: int) -> float:
        method = self.config.method
        if self.dealt is None:
            return method.local_steps * method.batch_rows * float(self.mean[device])
        held, mine = self.dealt.held[device], self.dealt.rows[device]
        steps = draw_steps(
            self.config.seed, round_index, device, self.dealt.shares[device], [len(r) for r in mine],
            steps=method.local_steps, batch_rows=method.batch_rows,
        )  # fmt: skip
        tables = [self.lengths[t][rows] for t, rows in zip(held, mine, strict=True)]
        return float(sum(tables[k][i] for step in steps for k, i in step))


class DryBackend:
    """Devices without a model, and the real channel; see `round_loop.RoundBackend`.

    Args:
        network: All devices' traffic.
        channel: The channel.
        tokens: Counts the tokens of local training.
    """

    def __init__(self, network: LawfulNetwork, channel: Channel, tokens: TokenCount) -> None:
        self.network = network
        self.channel = channel
        self.tokens = tokens

    def train(self, round_index: int, absent: Sequence[int] = ()) -> list[TrainReport]:
        """The devices' tokens and requests; no loss."""
        devices = np.array(self.network.devices)
        out = frozenset(absent)
        tokens = np.array([0.0 if d in out else self.tokens.of(d, round_index) for d in self.network.devices])
        unknown = np.full(len(devices), np.nan)
        requests = self.network.requests(round_index, out)
        return [TrainReport(devices, unknown, unknown, tokens, np.ones(len(devices), bool), requests, 0.0)]

    def plan(
        self, round_index: int, transfers: Transfers, ready_s: np.ndarray, compute_energy_j: np.ndarray
    ) -> RoundPlan:
        """Let the channel schedule the round's transfers."""
        return self.channel.plan_round(
            round_index, transfers, ready_s=ready_s, compute_energy_j=compute_energy_j
        )

    def exchange(self, round_index: int, outcomes: TransferOutcomes) -> list[ExchangeReport]:
        """Tell the traffic law what arrived; there are no reports."""
        self.network.deliver(outcomes)
        return []

    def skip(self, round_index: int) -> tuple[int, np.ndarray]:
        """Go through a round in which everything arrives, without the radio.

        Returns:
            Bytes asked for, each receiver counted, and the (devices,) tokens of local training.
        """
        (report,) = self.train(round_index)
        self.network.deliver_all(report.requests)
        return int(report.requests.payload_bytes.sum()), report.tokens


@dataclass
class DryRun:
    """What a dry run found.

    Attributes:
        outline: The run.
        played: Round -> what happened in it, for the rounds that were planned.
        skipped_bytes: Round -> bytes asked for, for the rounds between them.
        skipped_s: Round -> simulated length of a skipped round, training alone.
        skipped_energy_j: Round -> computing energy of a skipped round.
        notes: What the user should know of it.
    """

    outline: Outline
    played: dict[int, PlayedRound] = field(default_factory=dict)
    skipped_bytes: dict[int, int] = field(default_factory=dict)
    skipped_s: dict[int, float] = field(default_factory=dict)
    skipped_energy_j: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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
    method = config.method
    with step("tasks"):
        names, tokens, told = _planned_rows(config)
        lengths = [t.train.lengths - 1 for t in tokens]  # a row's last token is only predicted
    folder = Path(model_path(config))
    targets = planned_targets(folder, config.model.target_modules, row_sizes(tokens))
    layers, router = checked_layers(method, targets, len(names))
    with step("topology"):
        deployment = build_deployment(config, len(names))
        graph = comm_graph(deployment.topology, mixing=config.topology.mixing)
    spec = method_spec(method)
    layout = Layout(layers, method.rank, spec.trains)
    held = held_tasks(deployment.mixture)
    law = spec.law(LawContext(method, config.rounds, len(names), held, graph, layout, len(router)))
    means = np.array(
        [float(x.mean()) for x in lengths] or [float(TOKENS_PER_ROW[config.tasks.source])] * len(names)
    )
    dealt, more = _dealt(config, names, lengths, deployment.mixture)
    counts = TokenCount(config, law, lengths, dealt, deployment.mixture @ means)
    notes = setup_notes(config, told, tokens, targets.notes, deployment.topology)
    return Outline(
        config,
        targets,
        layout,
        deployment,
        graph,
        law,
        counts,
        float(means.mean()),
        len(names),
        (*notes, *more),
    )


def _planned_rows(config: Config) -> tuple[list[str], tuple[TokenTask, ...], tuple[str, ...]]:
    """Names of the tasks, their rows as tokens if they can be read here, and what to tell of the rows."""
    from dfl_ray.config.check import task_names
    from dfl_ray.tasks.load import read_tasks

    names = task_names(config)
    if config.tasks.source == "hub" and names is not None:
        told = f"rows are taken to have {TOKENS_PER_ROW['hub']} tokens: hub data are not read for a plan"
        return list(names), (), (told,)
    loaded = read_tasks(config)
    tokens = token_tasks(config, loaded.tasks)
    return [t.name for t in tokens], tokens, loaded.notes


def _dealt(
    config: Config, names: Sequence[str], lengths: Sequence[np.ndarray], mixture: np.ndarray
) -> tuple[DealtRows | None, list[str]]:
    if not lengths:
        return None, []
    if config.devices.count * config.rounds > EXACT_DRAWS:
        told = "computing is counted by the mean length of each device's rows, not by the rows drawn"
        return None, [told]
    try:
        rows = [(n, len(x)) for n, x in zip(names, lengths, strict=True)]
        return deal_rows(config, rows, mixture), []
    except InputError as error:
        return None, [f"{error.what}: the plan goes on with mean row lengths, a run would be refused"]


def chosen_rounds(law: TrafficLaw, devices: int, rounds: int, wanted: int | None) -> list[int]:
    """The rounds to plan: all, or evenly spread over those in which something new is sent.

    Args:
        law: What the method sends.
        devices: Number of devices.
        rounds: Number of rounds R.
        wanted: How many to plan; None plans as many as take a few minutes at most.

    Returns:
        Round numbers from 1, ascending; fewer than wanted where fewer rounds send something new.
    """
    count = max(1, PLANNED_DEVICE_ROUNDS // devices) if wanted is None else wanted
    if count >= rounds:
        return list(range(1, rounds + 1))
    busy = [r for r in range(1, rounds + 1) if law.busy(r)] or list(range(1, rounds + 1))
    places = np.unique(np.linspace(0, len(busy) - 1, min(count, len(busy))).round().astype(int))
    return [busy[p] for p in places.tolist()]


def dry_run(config: Config, step: Step = lambda _name: nullcontext(), rounds: int | None = None) -> DryRun:
    """Play an experiment without training.

    Args:
        config: The experiment.
        step: Shows a step while it runs.
        rounds: How many rounds to plan; see `chosen_rounds`.

    Returns:
        What was found; it ends early, with a note, when all batteries are empty.

    Raises:
        InputError: The layout is impossible or the model's shapes are not known.
    """
    run = outline(config, step)
    found = DryRun(run, notes=list(run.notes))
    with step("channel"):
        network = LawfulNetwork(run.law, range(config.devices.count))
        backend = DryBackend(network, run.deployment.channel.make(), run.tokens)
    loop = RoundLoop(backend, run.deployment.channel.classes, run.graph.relays, run.flops_per_token)
    planned = set(chosen_rounds(run.law, config.devices.count, config.rounds, rounds))
    with step(f"{len(planned)} of {config.rounds} rounds"):
        for round_index in range(1, max(planned) + 1 if len(planned) == config.rounds else config.rounds + 1):
            if round_index not in planned:
                _skip(found, loop, backend, round_index)
                continue
            try:
                found.played[round_index] = loop.play(round_index, WallTimes())
            except RunError as error:
                found.notes.append(str(error))
                break
    if len(planned) < config.rounds:
        found.notes.append(
            f"{len(planned)} of {config.rounds} rounds are planned, evenly spread over those in which something new is "
            "sent; in the others everything is taken to arrive, at the planned rounds' cost a byte"
        )
    return found


def _skip(found: DryRun, loop: RoundLoop, backend: DryBackend, round_index: int) -> None:
    found.skipped_bytes[round_index], tokens = backend.skip(round_index)
    cost = compute_cost(loop.classes, tokens * loop.flops_per_token)
    found.skipped_s[round_index] = float(cost.seconds.max(initial=0.0))
    found.skipped_energy_j[round_index] = float(cost.energy_j.sum())


def totals(found: DryRun) -> Mapping[str, Any]:
    """Whole-run sums; what was skipped is scaled by the planned rounds' cost for each byte asked for.

    With m = bytes asked for in skipped rounds / bytes asked for in planned ones, sums of the radio are multiplied
    by 1 + m; skipped rounds add their own computing.

    Args:
        found: The dry run.

    Returns:
        `payload_bytes` on air, `airtime_s`, `radio_energy_j`, `compute_energy_j`, `energy_j`, `simulated_s`,
        `transfers` and `delivered` (planned rounds only), `delivered_fraction`.
    """
    from dfl_ray.simulation.radio_tables import bytes_on_air

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
    return {
        "payload_bytes": round(sum(bytes_on_air(p.plan) for p in played) * (1 + more)),
        "airtime_s": sum(p.plan.airtime_s for p in played) * (1 + more),
        "radio_energy_j": radio,
        "compute_energy_j": computing,
        "energy_j": radio + computing,
        "simulated_s": sum(lengths) + sum(found.skipped_s.values()) + more * added_s,
        "transfers": wanted,
        "delivered": arrived,
        "delivered_fraction": arrived / wanted if wanted else None,
    }
