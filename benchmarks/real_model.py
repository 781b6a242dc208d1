"""Does the claim hold on a real language model and real text? Equal rounds, and equal bytes and airtime.

`python benchmarks/real_model.py --data PATH --model PATH --preset smollm2` runs the methods of `ROWS` on six tasks of a
folder, ten devices with two tasks each, paired seeds, on every graph of `--graphs`. It prints a
markdown table a graph, with the base model's accuracy by task beside each method's.

`--tune 1` lets `benchmarks/tuning.py` choose every method's settings on every graph first, on validation rows and a
seed of its own, and says each method's best graph there; `--tuned` takes settings chosen before. `--only ROW`, which
may be repeated, leaves out the other rows but `sparse_orthogonal` and `dlora`. Runs are made by `benchmarks.methods`:
finished ones are kept, one cut short is resumed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import comparison, tuning
from benchmarks.claim import EVERY_ROUND_INT8, MULTICAST, markdown
from benchmarks.comparison import Curves, Interval, paired
from benchmarks.kept_runs import make_job, run_all, say
from benchmarks.methods import told
from benchmarks.router_controls import ASKED, as_json, table
from dfl_ray.config.load import override_texts

TASKS = ("trec", "sst2", "agnews", "boolq", "sick_nli", "svamp")
SETTING = ("tasks.source=files", "devices.count=10", "devices.partition.tasks_per_device=2")
ROWS: dict[str, str] = {
    "sparse_orthogonal": f"sparse_orthogonal:{ASKED}",
    "dlora": "dlora",
    "dlora, equal coding": f"dlora:{EVERY_ROUND_INT8}",
    "dlora, equal coding, multicast": f"dlora:{EVERY_ROUND_INT8}:{MULTICAST}",
    "sparse_orthogonal, multicast": f"sparse_orthogonal:{ASKED}:{MULTICAST}",
    **{
        f"{name}, equal coding": f"{name}:{EVERY_ROUND_INT8}"
        for name in ("ffa", "fedsa", "rolora", "flexlora", "choco")
    },
    **{name: f"{name}:{ASKED}" for name in ("dlora_per_task", "ffa_per_task", "local_per_task")},
    "local": "local",
    "centralized": "centralized",
}  # fmt: skip
"""Row of a table -> method and settings."""


def rows_on(graph: str, best: Mapping[str, Any], only: Sequence[str] = ()) -> dict[str, str]:
    """Row -> label of the runs on a graph, with the settings that were chosen for the method, where there are any.

    Args:
        graph: The graph.
        best: What `benchmarks.tuning` wrote.
        only: Rows wanted beside `sparse_orthogonal` and `dlora`; none means all.

    Raises:
        ValueError: A row that is none.
    """
    unknown = [row for row in only if row not in ROWS]
    if unknown:
        raise ValueError(f"--only {unknown[0]!r} is no row; rows: {'; '.join(ROWS)}")
    kept = {*only, "sparse_orthogonal", "dlora"} if only else set(ROWS)

    def label(of: str) -> str:
        method, *settings = of.split(":")
        chosen = best[method]["best"].split(":")[1:] if method in best else []
        return ":".join((method, *chosen, *settings, f"topology.type={graph}"))

    return {row: label(of) for row, of in ROWS.items() if row in kept}


def tune(asked: argparse.Namespace, overrides: Sequence[str], graph: str) -> dict[str, Any]:
    """What `benchmarks.tuning` chooses for the wanted methods on a graph; trials that are there are read again."""
    methods = dict.fromkeys(x.split(":")[0] for x in rows_on(graph, {}, asked.only).values())
    folder = asked.folder.resolve() / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    preset = ["--preset", asked.preset] if asked.preset else []
    return tuning.main(
        [
            "--methods", ",".join(methods), "--seeds", str(asked.tune), "--jobs", str(asked.jobs), *preset,
            "--folder", str(folder),
            "--out", str(folder / f"{graph}.json"), *overrides, f"topology.type={graph}",
        ]
    )  # fmt: skip


def best_graphs(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """Every method's accuracy on validation rows by graph, and its best graph.

    Args:
        chosen: Graph -> what `tune` gave.
    """
    graphs = list(chosen)
    lines: list[list[str]] = []
    for method in chosen[graphs[0]]:
        found = [chosen[g][method]["accuracy"] for g in graphs]
        lines.append([method, *(f"{100 * x:.1f}" for x in found), graphs[found.index(max(found))]])
    return markdown(["method", *graphs, "best graph"], lines)


def by_task(rows: Mapping[str, str], curves: Curves) -> str:
    """Accuracy by task, the base model first."""
    names = sorted(next(iter(curves[rows["sparse_orthogonal"]].values())).tasks)

    def line(row: str, found: Sequence[Mapping[str, float]]) -> list[str]:
        return [row, *(Interval.of([f[n] for f in found]).text(100) for n in names)]

    base = line("base model", [c.base_tasks for c in curves[rows["sparse_orthogonal"]].values()])
    return markdown(
        ["method", *names], [base, *(line(r, [c.tasks for c in curves[x].values()]) for r, x in rows.items())]
    )


def at_equal(rows: Mapping[str, str], curves: Curves) -> str:
    """Accuracy when a tenth and all of what `dlora` spends is spent, in bytes and in airtime, and ours less theirs."""
    ours, reference = rows["sparse_orthogonal"], rows["dlora"]
    head, cells = ["method"], {row: [row] for row in rows}
    for axis in ("payload_bytes", "airtime_s"):
        for share in (0.1, 1.0):
            budget = {s: share * c.total(axis) for s, c in curves[reference].items()}
            head += [f"at {share:.0%} of dlora's {axis}", "ours - it"]
            values = comparison.over_seeds(curves, lambda c, a=axis, b=budget: c.at(a, b[c.seed]))
            gaps = paired(curves, ours, lambda c, a=axis, b=budget: c.at(a, b[c.seed]))
            for row, label in rows.items():
                cells[row] += [values[label].text(100), "" if label == ours else gaps[label].text(100)]
    return markdown(head, list(cells.values()))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", required=True, help="folder with <task>/train.jsonl and test.jsonl")
    parser.add_argument("--model", required=True, help="base model: name, folder or file")
    parser.add_argument("--preset", help="preset or config file, such as smollm2")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma separated")
    parser.add_argument("--graphs", default="clustered,k_regular", help="comma separated")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--tuned", type=Path, help="file of benchmarks/tuning.py")
    parser.add_argument("--tune", type=int, default=0, help="seeds to tune every method on first; 0: none")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", action="append", default=[], help="a row of the table; may be repeated")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/real_model"))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print, return the result."""
    asked = parse(arguments)
    given = json.loads(asked.tuned.read_text(encoding="utf-8")) if asked.tuned else {}
    overrides = (
        *SETTING, *override_texts({"model.name": str(asked.model), "tasks.path": str(asked.data)}),
        f"tasks.names=[{asked.tasks}]",
        *asked.overrides,
    )  # fmt: skip
    result: dict[str, Any] = {}
    graphs = asked.graphs.split(",")
    chosen = {g: tune(asked, overrides, g) if asked.tune else given for g in graphs}
    if asked.tune:
        print(f"Accuracy on validation rows, %:\n\n{best_graphs(chosen)}\n")
    for graph in graphs:
        rows = rows_on(graph, chosen[graph], asked.only)
        jobs = [
            make_job(x, seed, asked.preset, overrides, asked.folder.resolve())
            for seed in range(asked.seeds)
            for x in rows.values()
        ]
        say(f"{graph}: {len(jobs)} runs")
        curves = run_all(jobs, asked.jobs, needed=(rows["sparse_orthogonal"], rows["dlora"]))
        rows = {row: label for row, label in rows.items() if label in curves}
        print(
            f"Graph {graph}, seeds 0 to {asked.seeds - 1}:\n\n{table(rows, curves, overrides, asked.preset)}\n"
        )
        print(f"{at_equal(rows, curves)}\n\n{by_task(rows, curves)}\n")
        result[graph] = as_json(rows, curves)
    return told(result, asked, overrides=overrides)


if __name__ == "__main__":
    main()
