"""What does the speed of the devices do to the accuracy?

`python benchmarks/movement.py --json` trains the embedded suite on devices that move in random directions at 0 to 30
m/s (`random_direction`, which keeps them uniform, so that speeds differ only in how fast links come and go) through
the machinery of `benchmarks.methods`: finished runs are kept and read again. Fading in time has the same speed. It
prints, for each method and speed, the accuracy, the share of transfers that arrived, in which share of the rounds the
links differed from those of the round before and in which the graph was in parts, bytes and airtime; means over seeds
with 95 % intervals. `--chart FILE` draws accuracy over speed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.comparison import Curve, Interval, curve_of
from benchmarks.kept_runs import Job, carry_out_here, make_job
from benchmarks.line_chart import Axis, save_chart
from benchmarks.methods import cells, table, told

SETTING = (
    "rounds=12", "devices.count=12", "devices.area_m=[500,500]", "method.local_steps=5", "method.batch_rows=8",
    "method.learning_rate=1e-2", "method.warmup_rounds=1", "method.exchange_every=2", "evaluate.every=12",
    "evaluate.rows_per_task=32", "checkpoint.every=0",
)  # fmt: skip
FIGURES = {
    "accuracy": ("accuracy %", 100.0, 1),
    "delivered": ("delivered %", 100.0, 1),
    "changed": ("links changed %", 100.0, 0),
    "parted": ("in parts %", 100.0, 0),
    "payload_bytes": ("MB on air", 1e-6, 2),
    "airtime_s": ("airtime s", 1.0, 2),
}


@dataclass(frozen=True)
class Graphs:
    """What became of a run's graph.

    Attributes:
        changed: Share of the rounds after the first whose links are not those of the round before.
        parted: Share of the rounds in which the graph is in several parts.
    """

    changed: float
    parted: float


def graphs_of(path: Path) -> Graphs:
    """Read the links of every round of a finished run."""
    import networkx as nx

    from dfl_ray.records import load_run

    run = load_run(path)
    rounds = [run.topology_at(number) for number in range(1, run.last_round + 1)]
    links = [frozenset(zip(edges["source"], edges["destination"], strict=True)) for _, edges in rounds]
    parted = 0
    for (nodes, _), pairs in zip(rounds, links, strict=True):
        graph = nx.Graph(list(pairs))
        graph.add_nodes_from(nodes["device"])
        parted += not nx.is_connected(graph)
    changed = sum(a != b for a, b in itertools.pairwise(links))
    return Graphs(changed / max(1, len(links) - 1), parted / len(links))


def words_of(speed_mps: float) -> list[str]:
    """The part of the configuration that says how fast devices are."""
    if speed_mps == 0:
        return ["devices.mobility=static", "radio.speed_mps=0"]
    speeds = f"speed_min_mps: {speed_mps:g}, speed_max_mps: {speed_mps:g}"
    return [f"devices.mobility={{type: random_direction, {speeds}}}", f"radio.speed_mps={speed_mps:g}"]


def summary(runs: Sequence[tuple[Curve, Graphs]]) -> dict[str, Interval]:
    """The figures of one method at one speed, over seeds."""
    values = [{**curve.figures, "changed": g.changed, "parted": g.parted} for curve, g in runs]
    return {name: Interval.of([v[name] for v in values]) for name in FIGURES}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--methods", default="sparse_orthogonal:evaluate.rules=[likelihood]", help="comma separated"
    )
    parser.add_argument("--speeds", default="0,1,3,10,30", help="m/s, comma separated")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks/movement"), help="where runs are kept"
    )
    parser.add_argument("--chart", type=Path, help="SVG file for accuracy over speed")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run, after the base setting")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print and draw; returns what was printed as JSON."""
    asked = parse(arguments)
    speeds = [float(s) for s in asked.speeds.split(",")]
    methods = {label.partition(":")[0]: label for label in asked.methods.split(",")}
    folder = asked.folder.resolve()
    jobs: dict[tuple[str, float], list[Job]] = {}
    for seed in range(asked.seeds):
        for method, label in methods.items():
            for speed in speeds:
                words = (*SETTING, *words_of(speed), *asked.overrides)
                jobs.setdefault((method, speed), []).append(make_job(label, seed, None, words, folder))
                carry_out_here(jobs[method, speed][-1])
    found = {
        at: summary([(curve_of(j.path, j.label), graphs_of(j.path)) for j in mine])
        for at, mine in jobs.items()
    }
    rows = {f"{m}, {s:g} m/s": cells(figures, FIGURES) for (m, s), figures in found.items()}
    print(table("Accuracy over speed", rows, [head for head, _, _ in FIGURES.values()]))
    if asked.chart:
        draw(asked.chart, list(methods), speeds, found)
    result = {"speeds": {f"{m}, {s:g}": figures for (m, s), figures in found.items()}, "setting": SETTING}
    return told(result, asked)


def draw(
    path: Path,
    methods: Sequence[str],
    speeds: Sequence[float],
    found: dict[tuple[str, float], dict[str, Interval]],
) -> None:
    """Accuracy over speed, a line a method, as an SVG file."""
    values = {m: [found[m, s]["accuracy"] for s in speeds] for m in methods}
    series = {m: (speeds, [100 * i.mean for i in found]) for m, found in values.items()}
    spreads = {m: [100 * i.half_width for i in found] for m, found in values.items()}
    x = Axis("speed of every device, m/s", -1, max(speeds) + 1)
    save_chart(
        path, "Accuracy over speed", x, Axis("accuracy, all devices and tasks, %", 0, 100), series, spreads
    )


if __name__ == "__main__":
    main()
