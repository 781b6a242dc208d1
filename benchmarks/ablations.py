"""What each part of the method is worth: one setting changed at a time, one figure and table for each question.

`python benchmarks/ablations.py --seeds 3 --json` runs every entry of `benchmarks.ablation_entries` with every seed
through `benchmarks.kept_runs` (each run in a process of its own; finished runs are kept and read again,
runs cut short are resumed, settings that entries share are run once), prints a table an entry, writes a chart an entry
and prints one JSON object. Intervals are 95 % over seeds. `--only projection,masks` picks entries.

The base setting is short, so that the accuracy is not saturated and differences can show: see `SETTING`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import kept_runs
from benchmarks.ablation_entries import ABLATIONS, Ablation, ours
from benchmarks.comparison import Curve, Curves, Interval, over_bytes, paired, plain
from benchmarks.kept_runs import make_job, say
from benchmarks.line_chart import Axis, save_chart
from benchmarks.methods import cells, table
from benchmarks.result import with_origin

SETTING = (
    "rounds=12", "method.learning_rate=1e-2", "method.batch_rows=8", "method.warmup_rounds=1", "evaluate.every=4",
)  # fmt: skip
"""12 rounds of 10 steps of 8 rows: about a fifth of the default's training."""


@dataclass(frozen=True)
class Row:
    """One setting of one series, over seeds.

    Attributes:
        series: The series.
        x: Its place as given.
        label: Method and settings.
        value: What the series reads.
        figures: Final figures by name.
        difference: Accuracy minus that of the base run (of the entry's first, if it has none), paired by seed.
    """

    series: str
    x: float | str
    label: str
    value: Interval
    figures: Mapping[str, Interval]
    difference: Interval


FIGURES: Mapping[str, tuple[str, float, int]] = {
    "accuracy": ("accuracy %", 100, 1),
    "worst_task": ("worst task %", 100, 1),
    "own_tasks": ("own tasks %", 100, 1),
    "interference_gap": ("gap %", 100, 1),
    "routed_right": ("routed right %", 100, 1),
    "collision_delta_w": ("collisions %", 100, 1),
    "payload_bytes": ("MB on air", 1e-6, 2),
}


SAME = Interval(0.0, math.nan, 1)
"""The difference to itself."""


def value_of(curve: Curve, figure: str) -> float:
    """What a series reads of a run; `routing_by_chance` is 1 / T, see `ablation_entries.Series` for the others."""
    if figure == "routing_by_chance":
        return 1.0 / curve.figures["tasks"]
    if figure.startswith("rule:"):
        return curve.rules[figure.removeprefix("rule:")]
    return curve.figures[figure]


def rows_of(entry: Ablation, curves: Curves) -> list[Row]:
    """All settings of an entry."""
    base = ours() if ours() in entry.labels else entry.labels[0]
    out: list[Row] = []
    for series in entry.series:
        for point in series.points:
            runs = curves.get(point.label)
            if runs is None:  # it diverged
                continue
            value = Interval.of([value_of(c, series.figure) for c in runs.values()])
            figures = {f: Interval.of([c.figures[f] for c in runs.values()]) for f in FIGURES}
            both = {label: curves[label] for label in (base, point.label) if label in curves}
            difference = paired(both, point.label, lambda c: c.figures["accuracy"]).get(base, SAME)
            out.append(Row(series.name, point.x, point.label, value, figures, difference))
    return out


def text_of(name: str, entry: Ablation, rows: Sequence[Row]) -> str:
    """A table: one line a setting."""
    head = ["at", "value %", *(h for h, _, _ in FIGURES.values()), "accuracy - base"]
    lines: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        at = f"{row.x:g}" if isinstance(row.x, float | int) else row.x
        key = row.series + " " * sum(row.series == r.series for r in rows[:number])
        lines[key] = [at, row.value.text(100), *cells(row.figures, FIGURES), row.difference.text(100)]
    return table(f"{name}: {entry.title}", lines, head)


def draw(path: Path, entry: Ablation, rows: Sequence[Row], curves: Curves) -> None:
    """The entry's chart."""
    names = _names(entry)
    lines: dict[str, tuple[list[float], list[float]]] = {}
    spreads: dict[str, list[float]] = {}
    for series in entry.series:
        if not any(p.label in curves for p in series.points):
            continue
        if entry.kind == "curve":
            xs, values = over_bytes(curves[series.points[0].label])
        else:
            mine = [r for r in rows if r.series == series.name]
            xs = [_place(entry, r, names) for r in mine]
            values = [r.value for r in mine]
        order = np.argsort(xs, kind="stable").tolist()
        lines[series.name] = [xs[i] for i in order], [100 * values[i].mean for i in order]
        spreads[series.name] = [100 * values[i].half_width for i in order]
    least = min(v for _, ys in lines.values() for v in ys)
    y = Axis("accuracy, %", 0 if least < 45 else 10 * math.floor(least / 10 - 0.5), 100)
    save_chart(path, entry.title, _x_axis(entry, lines, names), y, lines, spreads)


def _names(entry: Ablation) -> tuple[str, ...]:
    if entry.kind != "names":
        return ()
    return tuple(dict.fromkeys(str(p.x) for s in entry.series for p in s.points))


def _place(entry: Ablation, row: Row, names: Sequence[str]) -> float:
    if entry.kind == "names":
        return float(names.index(str(row.x)))
    return row.figures["payload_bytes"].mean / 1e6 if entry.kind == "bytes" else float(row.x)


def _x_axis(
    entry: Ablation, lines: Mapping[str, tuple[list[float], list[float]]], names: tuple[str, ...]
) -> Axis:
    if names:
        return Axis(entry.x, -0.4, len(names) - 0.6, names=names)
    every = [x for xs, _ in lines.values() for x in xs]
    positive = [x for x in every if x > 0] or [1.0]
    if entry.kind == "log" or (entry.kind in ("bytes", "curve") and min(positive) * 3 < max(positive)):
        return Axis(entry.x, min(positive) / 1.15, max(positive) * 1.15, log=True)
    return Axis(entry.x, 0, max(positive) * 1.05)


def entry_json(entry: Ablation, rows: Sequence[Row]) -> dict[str, Any]:
    """What the JSON says of an entry."""
    found = [
        {"series": r.series, "x": r.x, "run": r.label, "value": r.value, "difference": r.difference, **r.figures}
        for r in rows
    ]  # fmt: skip
    return {"title": entry.title, "rows": found}


def run_all(labels: Sequence[str], asked: argparse.Namespace, folder: Path) -> Curves:
    """Make the runs that are missing and read all."""
    settings = (*SETTING, *asked.overrides)
    jobs = [make_job(x, seed, asked.preset, settings, folder) for seed in range(asked.seeds) for x in labels]
    say(f"{len(jobs)} runs, {sum(not (j.path / 'run.json').is_file() for j in jobs)} of them new")
    return kept_runs.run_all(jobs, asked.jobs, needed=[ours()])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", help=f"comma separated, some of {', '.join(ABLATIONS)}; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--preset", help="preset or config file; default: the embedded default")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks/ablations"), help="where runs are kept"
    )
    parser.add_argument("--charts", type=Path, default=Path("docs/pictures"), help="where charts go")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run, after the base setting")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print and draw; returns what was printed as JSON."""
    asked = parse(arguments)
    wanted = asked.only.split(",") if asked.only else list(ABLATIONS)
    unknown = [name for name in wanted if name not in ABLATIONS]
    if unknown:
        raise SystemExit(f"No ablation {', '.join(unknown)}; there are {', '.join(ABLATIONS)}.")
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    labels = tuple(dict.fromkeys(x for name in wanted for x in ABLATIONS[name].labels))
    curves = run_all(labels, asked, folder)
    found: dict[str, Any] = {}
    for name in wanted:
        entry = ABLATIONS[name]
        rows = rows_of(entry, curves)
        print(text_of(name, entry, rows))
        draw(asked.charts / f"ablation_{name}.svg", entry, rows, curves)
        found[name] = entry_json(entry, rows)
    result = {
        "ablations": found, "setting": SETTING, "overrides": asked.overrides, "preset": asked.preset,
        "seeds": asked.seeds,
    }  # fmt: skip
    if asked.json:
        print(json.dumps(plain(with_origin(result))))
    return result


if __name__ == "__main__":
    main()
