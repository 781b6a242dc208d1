"""What does it cost on air to bring a task's holders together, on which graph?

`python -m benchmarks.topologies --json` places devices at random in the default radio (one drop a seed) and lets the
holders of each task average random vectors, by Metropolis-Hastings and by the fastest weights, until their squared
distance to the mean has fallen to 1e-4 of what it was. Every graph has the mean degree of `clustered`. A message goes
to all its receivers at once and takes the airtime of the worst of these links; all messages have the same length, so
the figures are seconds per 1e6 bytes of it.

- `holders`: messages of a task go to neighbours that hold it, as in sparse-and-orthogonal LoRA. Where the holders of a
  task have no path of holders between them they never agree; how often that is stands beside the airtime of the others.
- `everyone`: every device carries the experts of all tasks and averages them with all its neighbours, which brings the
  holders of every task together on any connected graph.

`--train` instead trains the default network of ten devices on every graph, three seeds each, and prints the accuracy
with what it cost. All but `clustered` are laid out freely, and what is out of reach is relayed, every hop charged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.comparison import Interval, curve_of
from benchmarks.kept_runs import Job, carry_out_here, make_job
from benchmarks.methods import cells, table, told
from benchmarks.result import with_origin
from channels.channel import Channel
from dfl_ray.config.load import load_config
from dfl_ray.network.deployment import build_deployment, graph_on
from topology import Topology
from topology.tables import MIXINGS

AGREED = 1e-4
MOST_ROUNDS = 5_000
WIDTH = 16
MIXINGS_COMPARED = ("metropolis_hastings", "fastest")


@dataclass(frozen=True)
class Drop:
    """One random placement.

    Attributes:
        seed: Its seed.
        channel: The radio.
        clustered: Its clustered graph.
        pairs: (E, 2) links the radio can serve.
        snr_db: (E,) their mean SNR.
    """

    seed: int
    channel: Channel
    clustered: Topology
    pairs: np.ndarray
    snr_db: np.ndarray

    def graph(self, words: list[str]) -> Topology:
        """Another graph on the same drop."""
        config = load_config(None, words)
        made = self.clustered
        return graph_on(
            config.topology,
            self.seed,
            self.channel,
            made.positions_m,
            made.mixture,
            (self.pairs, self.snr_db),
        )


def make_drop(seed: int, devices: int, side_m: float, tasks: int) -> Drop:
    """Place devices, deal the tasks two to a device, and build the clustered graph."""
    config = load_config(
        None, [f"seed={seed}", f"devices.count={devices}", f"devices.area_m=[{side_m},{side_m}]"]
    )
    deployed = build_deployment(config, tasks)
    channel = deployed.channel.make()
    return Drop(seed, channel, deployed.topology, *channel.candidate_links(config.topology.min_snr_db))


def graphs(drop: Drop) -> dict[str, Topology]:
    """The graphs compared, all of the mean degree of `clustered` as nearly as they can be."""
    wanted = float(drop.clustered.degree.mean())
    regular = drop.graph(["topology=k_regular", f"topology.degree={max(1, round(wanted))}"])
    ends = drop.clustered.positions_m[drop.pairs]
    length_m = np.sort(np.hypot(*(ends[:, 0] - ends[:, 1]).T))
    radius_m = float(length_m[min(round(wanted * drop.clustered.nodes / 2), len(length_m)) - 1])
    geometric = drop.graph(["topology=geometric", f"topology.radius_m={radius_m * (1 + 1e-9)!r}"])
    return {"clustered": drop.clustered, "k_regular": regular, "geometric": geometric}


def gossip(edges: np.ndarray, members: np.ndarray, mixing: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights among the members, and those of the links that have one: the others carry nothing."""
    weights = MIXINGS[mixing](edges, int(members[-1]) + 1).toarray()
    used = weights[edges[:, 0], edges[:, 1]] > 0
    return weights[np.ix_(members, members)], edges[used]


def rounds_to_agree(weights: np.ndarray, seed: int) -> int | None:
    """Rounds of gossip until the members' distance to their mean is 1e-4 of the first; None if it never is."""
    values = np.random.default_rng(seed).standard_normal((len(weights), WIDTH))
    values -= values.mean(axis=0)
    first = float((values**2).sum())
    for count in range(1, MOST_ROUNDS + 1):
        values = weights @ values
        if float((values**2).sum()) <= AGREED * first:
            return count
    return None


def airtime_s(made: Topology, channel: Channel, edges: np.ndarray) -> float:
    """Airtime of one message from every end of these links to all its neighbours over them, as the radio sends it.

    What a device sends or passes on of one message goes to all its next receivers at once and takes the airtime of the
    worst of these links; a hop that the ways to several receivers share is sent once.
    """
    worst: dict[tuple[int, ...], float] = {}
    for a, b in [*edges.tolist(), *edges[:, ::-1].tolist()]:
        path = made.path(a, b)
        costs = channel.airtime_s_per_mb(path[:-1], path[1:]).tolist()
        for hop, cost in enumerate(costs):
            way = tuple(path[: hop + 1].tolist())
            worst[way] = max(worst.get(way, 0.0), cost)
    return sum(worst.values())


def measure(made: Topology, drop: Drop, mixing: str) -> dict[str, float | None]:
    """Airtime to agreement on every task, by both ways of sending; None where it is never reached."""
    weights, links = gossip(made.gossip_edges, np.arange(made.nodes), mixing)
    whole = rounds_to_agree(weights, drop.seed)
    total, apart, rounds = 0.0, 0, 0
    for task in range(made.tasks):
        weights, used = gossip(made.task_edges(task), made.holders(task), mixing)
        count = rounds_to_agree(weights, drop.seed)
        apart += count is None
        rounds += count or 0
        total += 0.0 if count is None else count * airtime_s(made, drop.channel, used)
    everyone = None if whole is None else whole * made.tasks * airtime_s(made, drop.channel, links)
    return {
        "degree": float(made.degree.mean()), "holders_s": total, "tasks_apart": float(apart),
        "holders_rounds": rounds / max(1, made.tasks - apart), "everyone_s": everyone, "everyone_rounds": whole,
    }  # fmt: skip


def compare(drops: int, devices: int, side_m: float, tasks: int) -> list[dict[str, Any]]:
    """Measure every graph on every drop, with each kind of weights."""
    rows: list[dict[str, Any]] = []
    for seed in range(drops):
        drop = make_drop(seed, devices, side_m, tasks)
        for name, made in graphs(drop).items():
            for mixing in MIXINGS_COMPARED:
                rows.append({"seed": seed, "graph": name, "mixing": mixing, **measure(made, drop, mixing)})
    return rows


def shares(rows: Sequence[dict[str, Any]], mixing: str) -> str:
    """What `clustered` needs of the other graphs' airtime, one figure a drop in which they agree, and the mean."""
    mine = {r["seed"]: r["holders_s"] for r in rows if (r["graph"], r["mixing"]) == ("clustered", mixing)}
    parts: list[str] = []
    for graph in ("k_regular", "geometric"):
        found = {r["seed"]: r["everyone_s"] for r in rows if (r["graph"], r["mixing"]) == (graph, mixing)}
        share = [100 * mine[seed] / theirs for seed, theirs in found.items() if theirs is not None]
        told = ", ".join(f"{s:.0f}" for s in share)
        parts.append(
            f"{told} % of {graph}, mean {np.mean(share):.0f} %" if share else f"{graph} never agrees"
        )
    return "; ".join(parts)


TRAINED = {
    "clustered": (), "complete": (), "k_regular": ("degree=4",), "geometric": ("radius_m=140",),
    "k_nearest": ("degree=3",), "erdos_renyi": ("mean_degree=4",), "small_world": ("degree=4",),
    "exponential": (), "grid": (), "d_cliques": (), "ring": (), "minimum_spanning_tree": (),
}  # fmt: skip
"""The graphs trained on, with their options."""

SETTING = (
    "rounds=8", "method.local_steps=5", "method.batch_rows=8", "method.learning_rate=1e-2", "method.warmup_rounds=1",
    "method.exchange_every=1", "evaluate.every=8", "evaluate.rows_per_task=32", "checkpoint.every=0",
)  # fmt: skip
METHODS = "sparse_orthogonal:evaluate.rules=[likelihood],dlora"
"""Of the first the method's own rule alone is evaluated."""
FIGURES = {
    "accuracy": ("accuracy %", 100.0, 1),
    "worst_task": ("worst task %", 100.0, 1),
    "consensus_distance": ("consensus distance", 1.0, 4),
    "payload_bytes": ("MB on air", 1e-6, 2),
    "airtime_s": ("airtime s", 1.0, 2),
    "radio_energy_j": ("radio J", 1.0, 2),
}


def trained(
    methods: Sequence[str], seeds: int, folder: Path, words: Sequence[str]
) -> dict[str, dict[str, Interval]]:
    """Train on every graph through the machinery of `benchmarks.methods`; finished runs are read again.

    Args:
        methods: Learning methods.
        seeds: Number of seeds, from 0.
        folder: Where the runs are kept.
        words: Overrides of every run, after `SETTING`.

    Returns:
        "method, graph" -> the figures of `FIGURES`, over seeds.
    """
    jobs: dict[str, list[Job]] = {}
    for seed in range(seeds):
        for method in methods:
            for graph, options in TRAINED.items():
                own = [f"topology={graph}", *(f"topology.{option}" for option in options)]
                own += [] if graph == "clustered" else ["topology.reach=relay"]
                job = make_job(method, seed, None, (*SETTING, *own, *words), folder)
                carry_out_here(job)
                jobs.setdefault(f"{method.partition(':')[0]}, {graph}", []).append(job)
    curves = {name: [curve_of(job.path, job.label) for job in mine] for name, mine in jobs.items()}
    return {
        name: {f: Interval.of([c.figures[f] for c in mine]) for f in FIGURES} for name, mine in curves.items()
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drops", type=int, default=5, help="random drops, seeds from 0")
    parser.add_argument("--devices", type=int, default=40)
    parser.add_argument("--side", type=float, default=600.0, help="side of the square, metres")
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--train", action="store_true", help="train on every graph and print accuracies")
    parser.add_argument(
        "--methods",
        default="sparse_orthogonal:evaluate.rules=[likelihood],dlora",
        help="--train: comma separated",
    )
    parser.add_argument("--seeds", type=int, default=3, help="--train: number of seeds, from 0")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks/topologies"), help="--train: for the runs"
    )
    parser.add_argument("overrides", nargs="*", help="--train: key=value for every run")
    given = parser.parse_intermixed_args()
    if given.train:
        found = trained(given.methods.split(","), given.seeds, given.folder.resolve(), given.overrides)
        heads = [head for head, _, _ in FIGURES.values()]
        print(table("Training by graph", {name: cells(row, FIGURES) for name, row in found.items()}, heads))
        told({"trained": found, "setting": SETTING}, given)
        return
    rows = compare(given.drops, given.devices, given.side, given.tasks)
    print(
        "seed graph      weights              degree  holders s/MB  rounds  tasks apart  everyone s/MB  rounds"
    )
    for row in rows:
        everyone = "never" if row["everyone_s"] is None else f"{row['everyone_s']:.1f}"
        print(
            f"{row['seed']:4d} {row['graph']:10s} {row['mixing']:20s} {row['degree']:6.2f} {row['holders_s']:13.1f}"
            f" {row['holders_rounds']:7.0f} {row['tasks_apart']:12.0f} {everyone:>14s}"
            f" {row['everyone_rounds'] or 0:7d}",
            flush=True,
        )
    for mixing in MIXINGS_COMPARED:
        print(f"{mixing}: {shares(rows, mixing)}")
    if given.json:
        print(json.dumps(with_origin({"rows": rows}, seeds=given.drops)))


if __name__ == "__main__":
    main()
