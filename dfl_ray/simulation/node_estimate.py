"""What a run would take on several nodes of a cluster: training, waiting for the slowest, bytes that cross, speed-up.

The devices are dealt to nodes and actors by the packing that the run itself makes, so that bytes which cross between
nodes and the work of each actor follow from the plan's own draws. With F(a, r) the operations of training of actor a in
round r (half of them shared out evenly where devices share a pass and pad each other's rows), k actors on a node of C
CPUs of speed s, and R the operations a second of one CPU at speed 1, an actor trains

    t(a, r) = F(a, r) / (s R),  and where k > C, so that they share its CPUs, at least sum of F over the k / (C s R)

and a round lasts

    T(r) = max over a of t(a, r) + max over a of x(a, r) + serial / s of the first node
           + latency + 8 · crossing bytes / (rate · nodes)

where x is the same of what arrives, `EXCHANGE_S` a byte, serial what planning the radio took while the plan was made
(records and calls of a run are not in it), and the links of the nodes carry messages at the same time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.config.schema import Config
from dfl_ray.engines.memory import trains_unmerged, value_bytes
from dfl_ray.errors import InputError
from dfl_ray.packing.actors import Packing, check_fits
from dfl_ray.packing.partition import MessageGraph, Node
from dfl_ray.simulation.memory_estimate import planned_packing

if TYPE_CHECKING:
    from dfl_ray.simulation.dry_run import DryRun, Outline

EXCHANGE_S = 1.2e-8
"""Seconds of one CPU to check, decode and mix a byte that arrived (measured with 100 and 10,000 devices of the embedded
model: 12 and 13 ns; see docs/scaling.md)."""
PADDED = 0.5
"""Share of a device's training that is as long as everybody's, on models small enough to merge adapters into: rows are
as long as the longest of a pass that many devices share (measured on three nodes; see docs/scaling.md)."""
LOOKED_AT = 20
"""Most rounds whose work is looked at."""
CALLS = 4
"""Times in a round that the driver waits for the other nodes: training, sending, receiving, confirming."""
MOST_NODES = 10_000
"""Most nodes that are forecast."""
_NODE = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)(?:@(\d+(?:\.\d+)?))?")
_LINK = re.compile(r"(\d+(?:\.\d+)?)(?::(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Machines:
    """A cluster that is not there.

    Attributes:
        nodes: Its nodes; their names are their numbers.
        speeds: Speed of each node's CPUs, > 0; 1 is that of this machine.
        link_mbit_s: Rate of the link of each node in Mbit/s; infinite where it is not given.
        link_ms: Time that a message takes from node to node in ms.
    """

    nodes: tuple[Node, ...]
    speeds: tuple[float, ...]
    link_mbit_s: float = math.inf
    link_ms: float = 0.0

    @classmethod
    def of(cls, nodes: str, link: str = "") -> Machines:
        """Read the words of the command line.

        Args:
            nodes: Nodes separated by commas, each `[COUNTx]CPUS[@SPEED]`: `3x16` or `8,8,4@0.5`.
            link: `MBIT[:MS]`, or nothing for links that take no time.

        Raises:
            InputError: They cannot be read, or a node has no CPU or no speed.
        """
        found: list[tuple[float, float]] = []
        for word in nodes.split(","):
            match = _NODE.fullmatch(word.strip())
            count, cpus, speed = match.groups() if match else (None, "0", None)
            number = 1 if count is None else int(count)
            if not 0 < number <= MOST_NODES - len(found) or min(float(cpus), float(speed or 1.0)) <= 0:
                raise InputError(
                    "The nodes cannot be read", got=f"--nodes {nodes}",
                    expected="nodes separated by commas, each [COUNTx]CPUS[@SPEED], above 0: 3x16, or 8,8,4@0.5; "
                    f"{MOST_NODES:,} at most",
                    change="Change `--nodes`.",
                )  # fmt: skip
            found += [(float(cpus), float(speed or 1.0))] * number
        rate, wait = read_link(link)
        listed = tuple(Node(f"{number}", cpus) for number, (cpus, _) in enumerate(found))
        return cls(listed, tuple(speed for _, speed in found), rate, wait)

    def first(self, count: int) -> Machines:
        """The cluster of the first so many nodes."""
        return Machines(self.nodes[:count], self.speeds[:count], self.link_mbit_s, self.link_ms)


def read_link(text: str) -> tuple[float, float]:
    """Read the word of `--link`.

    Args:
        text: `MBIT[:MS]`, or nothing for links that take no time.

    Returns:
        Rate in Mbit/s and delay in ms.

    Raises:
        InputError: It cannot be read.
    """
    match = _LINK.fullmatch(text.strip()) if text else None
    if not text:
        return math.inf, 0.0
    rate, wait = match.groups() if match else ("0", None)
    if float(rate) <= 0:
        raise InputError(
            "The link cannot be read", got=f"--link {text}",
            expected="MBIT or MBIT:MS, the rate in Mbit/s above 0 and the delay in ms: 1000 or 100:5",
            change="Change `--link`.",
        )  # fmt: skip
    return float(rate), float(wait or 0.0)


def check_forecast(config: Config) -> None:
    """Refuse, before anything is planned, what `node_figures` does not know of.

    Args:
        config: The run.

    Raises:
        InputError: It joins no cluster, it asks for GPUs, or its devices do not wait for each other.
    """
    if config.runtime.backend != "ray":
        raise InputError(
            "`--nodes` forecasts runs on a cluster",
            got=f"runtime.backend={config.runtime.backend}, a run in one process",
            change="Leave out `--nodes`, or plan with runtime.backend=ray.",
        )
    if config.runtime.gpus_per_actor:
        raise InputError(
            "`--nodes` forecasts runs on CPUs",
            got=f"runtime.gpus_per_actor={config.runtime.gpus_per_actor:g}",
            change="Leave out `--nodes`: the plan has lines for 1, 4 and 8 GPUs.",
        )
    if config.schedule != "sync":
        raise InputError(
            "`--nodes` forecasts rounds at whose end all devices wait for each other",
            got=f"schedule={config.schedule}",
            change="Leave out `--nodes`, or plan with schedule=sync.",
        )


def node_figures(found: DryRun, machines: Machines, rate: float) -> list[dict[str, Any]]:
    """Figures of the run on the first nodes of a cluster: 1, 2, 4, ... and all of them.

    Args:
        found: The dry run.
        machines: The cluster.
        rate: Operations a second R of one CPU at speed 1.

    Returns:
        One record a size: `nodes`, `cpus`, `actors`, `devices` (of each node), `inside_fraction` and `crossing_bytes`
        of the whole run's messages, means over the rounds of `train_s` (the slowest actor), `straggler_s` (what the
        slowest actor takes longer than the mean one), `exchange_s`, `network_s`, `round_s`, and `speed_up` over the
        first size that holds the actors.

    Raises:
        InputError: The cluster cannot hold the actors. Smaller parts of it that cannot are left out.
    """
    from dfl_ray.network.traffic import message_graph

    run = found.outline
    config = run.config
    messages = message_graph(run.law, config.devices.count, config.rounds)
    serial_s = float(np.median(found.radio_s or [0.0]))
    tokens, received = _work(found)
    tokens = _with_padding(run, tokens)
    train_s, exchange_s = tokens * run.flops_per_token / rate, received * EXCHANGE_S
    sizes = sorted({min(2**k, len(machines.nodes)) for k in range(len(machines.nodes).bit_length() + 1)})
    rows: list[dict[str, Any]] = []
    for size in sizes:
        some = machines.first(size)
        packing = _packing(run, some, messages, must_fit=size == sizes[-1])
        if packing is None:
            continue
        rows.append(_on(some, packing, train_s, exchange_s))
        rows[-1]["crossing_bytes"] = float(messages.bytes.sum()) * (1.0 - packing.inside)
        crossing = rows[-1]["crossing_bytes"] / config.rounds
        wait = CALLS * some.link_ms / 1e3 if size > 1 else 0.0
        rows[-1]["network_s"] = wait + 8.0 * crossing / (some.link_mbit_s * 1e6 * size)
        rows[-1]["round_s"] += rows[-1]["network_s"] + serial_s / some.speeds[0]
        rows[-1]["speed_up"] = rows[0]["round_s"] / rows[-1]["round_s"]
    return rows


def _work(found: DryRun) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of training and bytes that arrive, (rounds, devices) each, of rounds spread evenly over those planned."""
    played, count = list(found.played), found.outline.config.devices.count
    chosen = np.unique(np.linspace(0, len(played) - 1, min(LOOKED_AT, len(played))).round().astype(int))
    tokens, received = np.zeros((2, max(1, len(chosen)), count))
    for row, place in enumerate(chosen.tolist()):
        one = found.played[played[place]]
        for report in one.trained:
            tokens[row, report.devices] = report.tokens
        to, size = one.requests.destination[one.arrived], one.requests.payload_bytes[one.arrived]
        received[row] = np.bincount(to, weights=size, minlength=count)
    return tokens, received


def _with_padding(run: Outline, tokens: np.ndarray) -> np.ndarray:
    """(rounds, devices) tokens of training as they take time, padding among them; their sum stays."""
    shape = run.targets.shape
    if shape is not None and trains_unmerged(shape, value_bytes(run.config.model.dtype)):
        return tokens
    trains = tokens > 0
    mean = tokens.sum(axis=1, keepdims=True) / np.maximum(trains.sum(axis=1, keepdims=True), 1)
    return (1.0 - PADDED) * tokens + PADDED * mean * trains


def _packing(run: Outline, machines: Machines, messages: MessageGraph, *, must_fit: bool) -> Packing | None:
    """The packing on some nodes; None where they cannot hold it and need not."""
    resources = {"CPU": sum(node.cpus for node in machines.nodes)}
    packing = planned_packing(run, resources, nodes=machines.nodes, messages=messages)
    try:
        check_fits(packing, resources, machines.nodes)
    except InputError:
        if must_fit:
            raise
        return None
    return packing


def _on(machines: Machines, packing: Packing, train_s: np.ndarray, exchange_s: np.ndarray) -> dict[str, Any]:
    """Figures of a size without its network, from (rounds, devices) seconds of one CPU at speed 1."""
    names = packing.nodes or (machines.nodes[0].name,) * len(packing.groups)
    devices = [
        sum(len(g) for g, name in zip(packing.groups, names, strict=True) if name == node.name)
        for node in machines.nodes
    ]
    training = _actor_s(machines, packing, names, train_s)
    slowest = training.max(axis=1)
    exchange = float(_actor_s(machines, packing, names, exchange_s).max(axis=1).mean())
    return {
        "nodes": len(machines.nodes),
        "cpus": sum(node.cpus for node in machines.nodes),
        "actors": len(packing.groups),
        "devices": devices,
        "inside_fraction": packing.inside,
        "train_s": float(slowest.mean()),
        "straggler_s": float((slowest - training.mean(axis=1)).mean()),
        "exchange_s": exchange,
        "round_s": float(slowest.mean()) + exchange,
    }


def _actor_s(machines: Machines, packing: Packing, names: Sequence[str], cpu_s: np.ndarray) -> np.ndarray:
    """(rounds, actors) seconds of each actor, from (rounds, devices) seconds of one CPU at speed 1."""
    actor_s = np.stack([cpu_s[:, list(group)].sum(axis=1) for group in packing.groups], axis=1)
    for node, speed in zip(machines.nodes, machines.speeds, strict=True):
        mine = np.array(names) == node.name
        if mine.sum() > node.cpus:
            shared = actor_s[:, mine].sum(axis=1, keepdims=True) / node.cpus
            actor_s[:, mine] = np.maximum(actor_s[:, mine], shared)
        actor_s[:, mine] /= speed
    return actor_s


def node_lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The figures in words, one line a size.

    Args:
        rows: What `node_figures` returned.
    """
    from dfl_ray.records.words import size
    from dfl_ray.simulation.gpu_estimate import about

    first = rows[0]["nodes"] if rows else 1
    than = "one" if first == 1 else f"{first}, the fewest that hold the actors"
    lines: list[tuple[str, str]] = []
    for one in rows:
        few, many = min(one["devices"]), max(one["devices"])
        held = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        crossing = "" if one["nodes"] == 1 else (
            f", {about(one['straggler_s'])} of it for the slowest actor, {about(one['network_s'])} for the network; "
            f"{size(round(one['crossing_bytes']))} cross between nodes in the run"
        )  # fmt: skip
        lines.append(
            (
                f"on {one['nodes']} node{'s' if one['nodes'] > 1 else ''}",
                f"about {about(one['round_s'])} a round, {one['speed_up']:.2f} times the speed of {than}{crossing} "
                f"({one['actors']:,} actors, {held} devices a node)",
            )
        )
    return lines
