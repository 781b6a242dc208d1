"""What do sparsity and orthogonality add beyond task separation and a router? The embedded suite, at three cues.

`python benchmarks/router_controls.py --seeds 5` runs sparse-and-orthogonal LoRA, its dense variant, the controls with
its task separation and its router, and methods with one adapter a device in their own and in equal coding, on the
embedded suite with strong, weak and no cue in the prompts. It prints a markdown table a cue; `--json` adds one JSON
object. Runs are made by `benchmarks.methods`: finished ones are kept and read again. Any `key=value` holds for all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.claim import EVERY_ROUND_INT8, MULTICAST, facts, markdown, mean_text
from benchmarks.comparison import Curve, Curves, paired
from benchmarks.kept_runs import make_job, run_all, say
from benchmarks.methods import told

CUES = ("strong", "weak", "none")
ASKED = "evaluate.rules=[oracle]"
"""Rules asked beside the method's own, of methods that have any."""

OURS = f"sparse_orthogonal:{ASKED}"
ROWS: dict[str, str] = {
    "sparse_orthogonal": OURS,
    "the same, dense (density 1)": f"{OURS}:density=1",
    "the same, dense, Gaussian A": f"{OURS}:density=1:projection=gaussian",
    "ffa_per_task": f"ffa_per_task:{ASKED}",
    "dlora_per_task": f"dlora_per_task:{ASKED}",
    "dlora_per_task, every round": f"dlora_per_task:{ASKED}:exchange_every=1",
    "local_per_task": f"local_per_task:{ASKED}",
    "dlora": "dlora",
    "dlora, equal coding": f"dlora:{EVERY_ROUND_INT8}",
    "ffa, equal coding": f"ffa:{EVERY_ROUND_INT8}",
    "flexlora, equal coding": f"flexlora:{EVERY_ROUND_INT8}",
    "local": "local",
    "centralized": "centralized",
}
"""Row of the table -> method and settings."""

MULTICAST_ROWS: dict[str, str] = {
    "sparse_orthogonal, multicast": f"{OURS}:{MULTICAST}",
    "dlora_per_task, multicast": f"dlora_per_task:{ASKED}:{MULTICAST}",
    "dlora, equal coding, multicast": f"dlora:{EVERY_ROUND_INT8}:{MULTICAST}",
}
"""Rows at the strong cue alone: one transmission serves all receivers of a message."""

COLUMNS: Mapping[str, tuple[str, float, int]] = {
    "accuracy": ("accuracy %", 100, 1),
    "own_tasks": ("own tasks %", 100, 1),
    "foreign_tasks": ("foreign tasks %", 100, 1),
    "routed_right": ("routed right %", 100, 1),
    "payload_bytes": ("MB on air", 1e-6, 2),
    "airtime_s": ("airtime s", 1, 2),
    "radio_energy_j": ("radio J", 1, 2),
    "energy_j": ("whole J", 1, 1),
}


def rows_at(cue: str) -> dict[str, str]:
    """Row -> label of the runs at a cue."""
    found = ROWS | (MULTICAST_ROWS if cue == "strong" else {})
    return {row: f"{label}:tasks.cue={cue}" for row, label in found.items()}


def table(
    rows: Mapping[str, str], curves: Curves, overrides: Sequence[str], preset: str | None = None
) -> str:
    """The markdown table of some rows, ours among them."""
    ours = rows["sparse_orthogonal"]
    gaps = paired(curves, ours, lambda c: c.figures["accuracy"])
    head = ["method", "task labels", "coding", *(h for h, _, _ in COLUMNS.values()), "ours - it, points"]
    lines: list[list[str]] = []
    for row, label in rows.items():
        known = facts(label, overrides, preset)
        shown = [mean_text(curves[label], f, scale, digits) for f, (_, scale, digits) in COLUMNS.items()]
        gap = "" if label == ours else gaps[label].text(100)
        lines.append([row, known.labels, known.coding, *shown, gap])
    return markdown(head, lines)


def as_json(rows: Mapping[str, str], curves: Curves) -> dict[str, Any]:
    """Every figure of every row and seed."""

    def one(curve: Curve) -> dict[str, Any]:
        return {f: curve.figures[f] for f in COLUMNS} | {"tasks": curve.tasks, "rules": curve.rules}

    return {row: {s: one(c) for s, c in curves[label].items()} for row, label in rows.items()}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--cues", default=",".join(CUES), help="comma separated; default: all three")
    parser.add_argument("--only", help="comma separated rows, by the method's name; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/router_controls"))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print, return the result."""
    asked = parse(arguments)
    wanted = asked.only.split(",") if asked.only else None
    cues = {cue: rows_at(cue) for cue in asked.cues.split(",")}
    if wanted is not None:
        kept = {*wanted, "sparse_orthogonal"}
        cues = {cue: {r: x for r, x in rows.items() if x.split(":")[0] in kept} for cue, rows in cues.items()}
    folder = asked.folder.resolve()
    jobs = [
        make_job(label, seed, None, asked.overrides, folder)
        for seed in range(asked.seeds)
        for rows in cues.values()
        for label in rows.values()
    ]
    say(f"{len(jobs)} runs, {sum(not (j.path / 'run.json').is_file() for j in jobs)} of them new")
    curves = run_all(jobs, asked.jobs, needed=[rows["sparse_orthogonal"] for rows in cues.values()])
    cues = {cue: {r: x for r, x in rows.items() if x in curves} for cue, rows in cues.items()}
    for cue, rows in cues.items():
        print(f"Cue {cue}, seeds 0 to {asked.seeds - 1}:\n\n{table(rows, curves, asked.overrides)}\n")
    return told({cue: as_json(rows, curves) for cue, rows in cues.items()}, asked)


if __name__ == "__main__":
    main()
