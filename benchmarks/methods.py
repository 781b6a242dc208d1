"""Which method learns most from equal rounds, equal bytes and equal airtime?

`python benchmarks/methods.py --methods sparse_orthogonal,dlora --seeds 5 --json` runs every method with every seed
on the same radio, graph, data and steps, each run in a process of its own, and prints the three tables, the
paired differences to sparse-and-orthogonal LoRA with 95 % confidence intervals, and one JSON object. Finished runs
are kept in the folder and read again (`benchmarks.kept_runs`); a run cut short is resumed; a method of which a run
diverges is left out and told. A method may carry settings of its own, of its section or of another:
`sparse_orthogonal:density=0.25:topology.max_degree=2`. Any `key=value` holds for all.
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

from benchmarks import comparison
from benchmarks.comparison import AXES, Curves, Interval, plain
from benchmarks.kept_runs import DIVERGED, OTHER_COMMITS, make_job, run_all
from benchmarks.machine import machine
from benchmarks.result import with_origin

FIGURES: Mapping[str, tuple[str, float, int]] = {
    "accuracy": ("accuracy %", 100, 1),
    "worst_task": ("worst task %", 100, 1),
    "own_tasks": ("own tasks %", 100, 1),
    "forgetting": ("forgetting %", 100, 1),
    "payload_bytes": ("MB on air", 1e-6, 2),
    "airtime_s": ("airtime s", 1, 2),
    "radio_energy_j": ("radio J", 1, 2),
    "compute_energy_j": ("computing J", 1, 1),
    "delivered": ("delivered %", 100, 1),
    "wall_s": ("wall s", 1, 0),
}


STATE: Mapping[str, tuple[str, float, int]] = {
    "interference_gap": ("interference gap %", 100, 1),
    "routed_right": ("routed right %", 100, 1),
    "collision_b": ("collisions of B %", 100, 1),
    "collision_delta_w": ("of dW %", 100, 1),
    "consensus_distance": ("consensus distance", 1, 4),
    "spectral_gap": ("spectral gap", 1, 3),
    "replica_staleness_rounds": ("replicas' age, rounds", 1, 1),
}


def summarise(curves: Curves, ours: str, reference: str) -> dict[str, Any]:
    """All tables, as intervals."""
    labels = list(curves)
    equal = {axis: comparison.at_equal(curves, axis, reference) for axis in AXES}
    result: dict[str, Any] = {
        "equal_rounds": {
            label: {
                f: comparison.over_seeds({label: curves[label]}, lambda c, f=f: c.figures[f])[label]
                for f in (*FIGURES, *STATE)
            }
            for label in labels
        },
        "equal": equal,
        "rules": {label: by_name([c.rules for c in runs.values()]) for label, runs in curves.items()},
        "tasks": {
            "base model": by_name([c.base_tasks for c in curves[ours].values()]),
            **{label: by_name([c.tasks for c in runs.values()]) for label, runs in curves.items()},
        },
        "paired_accuracy": comparison.paired(curves, ours, lambda c: c.figures["accuracy"]),
        "paired_at_common": {axis: paired_at_common(curves, ours, axis) for axis in AXES},
        "share_to_reach_reference": {
            axis: comparison.share_to_reach(curves, reference, axis) for axis in AXES
        },
    }
    if ours != reference:
        result["headline"] = comparison.headline(curves, ours, reference)
    if "local" in curves:
        result["collaboration_gain"] = {
            label: comparison.paired(
                {label: curves[label], "local": curves["local"]}, label, lambda c: c.figures["accuracy"]
            )["local"]
            for label in labels
            if label != "local"
        }
    return result


def by_name(found: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """Each name's interval over those seeds that have it."""
    return {
        name: Interval.of([values[name] for values in found if name in values])
        for name in sorted({name for values in found for name in values})
    }


def paired_at_common(curves: Curves, ours: str, axis: str) -> dict[str, Interval]:
    """Ours minus theirs at the smallest common budget of each seed."""
    budget = comparison.common_budget(curves, axis)
    return comparison.paired(curves, ours, lambda c: c.at(axis, budget[c.seed]))


def table(title: str, rows: Mapping[str, Sequence[str]], head: Sequence[str]) -> str:
    """A text table."""
    cells = [["", *head], *([label, *row] for label, row in rows.items())]
    widths = [max(len(r[i]) for r in cells) for i in range(len(head) + 1)]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in cells
    ]
    return "\n".join([title, *("  " + line for line in lines), ""])


def cells(figures: Mapping[str, Interval], wanted: Mapping[str, tuple[str, float, int]]) -> list[str]:
    """The wanted figures of one row of a table; `wanted` gives head, scale and digits of each."""
    return [figures[f].text(scale, digits) for f, (_, scale, digits) in wanted.items()]


def show(result: Mapping[str, Any], reference: str, ours: str) -> str:
    """The tables as text; accuracies in percent."""
    labels = list(result["equal_rounds"])
    paired = result["paired_accuracy"]
    rounds = {
        label: [
            *cells(result["equal_rounds"][label], FIGURES),
            paired[label].text(100) if label in paired else "",
        ]
        for label in labels
    }
    parts = [table("Equal rounds", rounds, [*(h for h, _, _ in FIGURES.values()), f"{ours} - it"])]
    for axis in AXES:
        columns = result["equal"][axis]
        rows = {
            label: [
                *(columns[c][label].text(100) for c in columns),
                result["paired_at_common"][axis][label].text(100) if label != ours else "",
                result["share_to_reach_reference"][axis][label].text(100),
            ]
            for label in labels
        }
        head = [
            "common",
            *(f"{c} of {reference}" for c in list(columns)[1:]),
            f"{ours} - it",
            f"% to reach {reference}",
        ]
        parts.append(table(f"Accuracy % at equal {axis}", rows, head))
    parts.append(state_table(result))
    for what in ("rule", "task"):
        rows = result[f"{what}s"]
        every = sorted({name for values in rows.values() for name in values})
        shown = {
            label: [values[n].text(100) if n in values else "" for n in every]
            for label, values in rows.items()
        }
        parts.append(
            table(f"Accuracy % by {'inference rule' if what == 'rule' else what}, at the end", shown, every)
        )
    return "\n".join(parts)


def state_table(result: Mapping[str, Any]) -> str:
    """The state at the end of equal rounds, with each method's gain over training alone."""
    gains = result.get("collaboration_gain", {})
    rows = {
        label: [*cells(figures, STATE), gains[label].text(100) if label in gains else ""]
        for label, figures in result["equal_rounds"].items()
    }
    return table("State at the end", rows, [*(h for h, _, _ in STATE.values()), "gain over local %"])


def draw(path: Path, curves: Curves) -> None:
    """Mean accuracy over bytes on air of every method that sends any, as an SVG file."""
    from benchmarks.line_chart import Axis, save_chart

    lines: dict[str, tuple[list[float], list[float]]] = {}
    spreads: dict[str, list[float]] = {}
    for label, runs in curves.items():
        spent, values = comparison.over_bytes(runs)
        if spent[-1] > 0:
            kept = [k for k, x in enumerate(spent) if x > 0]
            lines[label] = [spent[k] for k in kept], [100 * values[k].mean for k in kept]
            spreads[label] = [100 * values[k].half_width for k in kept]
    every = [x for xs, _ in lines.values() for x in xs]
    x = Axis("MB on air", min(every) / 1.15, max(every) * 1.15, log=True)
    y = Axis("accuracy, all devices and tasks, %", 0, 100)
    save_chart(path, "Accuracy over bytes on air", x, y, lines, spreads)


def told(result: Mapping[str, Any], asked: argparse.Namespace, **facts: Any) -> dict[str, Any]:
    """Add what a result was measured with, and print it as one JSON object if that was asked for.

    Args:
        result: The figures.
        asked: The command line: `seeds`, `overrides`, `json`.
        **facts: What is told in place of the command line's.

    Returns:
        The figures with seeds, overrides and machine.
    """
    whole = {**result, "seeds": asked.seeds, "overrides": asked.overrides, "machine": machine(), **facts}
    whole |= {"diverged": sorted(DIVERGED), "kept_from_commits": sorted(OTHER_COMMITS)}
    if asked.json:
        print(json.dumps(plain(with_origin(whole))))
    return whole


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--methods", help="comma separated, each `name` or `name:setting=value:…`; default: all"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--preset", help="preset or config file; default: the embedded default")
    parser.add_argument(
        "--reference", help="the method that shares of cost are of; default: dlora, else the first"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks/methods"), help="where runs are kept"
    )
    parser.add_argument(
        "--tuned", type=Path, help="file of benchmarks/tuning.py: methods in it take their best settings"
    )
    parser.add_argument("--chart", type=Path, help="SVG file for accuracy over bytes")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print, return the result."""
    from dfl_ray.methods.table import METHODS

    asked = parse(arguments)
    labels = asked.methods.split(",") if asked.methods else list(METHODS)
    unknown = [label for label in labels if label.split(":")[0] not in METHODS]
    if unknown:
        raise SystemExit(f"No method {', '.join(unknown)}; there are {', '.join(METHODS)}.")
    best = json.loads(asked.tuned.read_text(encoding="utf-8")) if asked.tuned else {}
    chosen = {label: best[label]["best"] if label in best else label for label in labels}
    ours = next((x for x in labels if x.startswith("sparse_orthogonal")), labels[0])
    reference = asked.reference or ("dlora" if "dlora" in labels else labels[0])
    labels, ours, reference = list(chosen.values()), chosen[ours], chosen.get(reference, reference)
    folder = asked.folder.resolve()
    jobs = [
        make_job(x, seed, asked.preset, asked.overrides, folder)
        for seed in range(asked.seeds)
        for x in labels
    ]
    curves = run_all(jobs, asked.jobs, needed=(ours, reference))
    result = summarise(curves, ours, reference)
    print(show(result, reference, ours))
    found = told(result | {"preset": asked.preset}, asked)
    if asked.chart:
        draw(asked.chart, curves)
    return found


if __name__ == "__main__":
    main()
