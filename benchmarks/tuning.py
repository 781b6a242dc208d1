"""Tunes every method with the same budget, on rows cut from training and on seeds that are not reported.

`python benchmarks/tuning.py --methods sparse_orthogonal,dlora --out tuned.json` tries for each method the learning
rates of `RATES`, then, at the best, three settings of its own (`KNOBS`; three rates around the best where it has
none), and writes the best to a small file, which `benchmarks/methods.py --tuned` reads. Accuracy is the mean
over devices, tasks and seeds on `tasks.validation_rows`; seeds count from `FIRST_SEED`.
Runs are made by `benchmarks.kept_runs`: finished ones are kept and read again, diverged ones count as 0.
Any `key=value` holds for all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.comparison import Curve, Interval
from benchmarks.kept_runs import make_job, run_all, say

RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
FIRST_SEED = 1000
KNOBS: dict[str, tuple[str, str, str]] = {
    "sparse_orthogonal": ("density=0.5", "density=1", "exchange_every=5"),
    "dlora_per_task": ("exchange_every=5", "exchange_every=2", "exchange_every=1"),
    "ffa_per_task": ("exchange_every=5", "exchange_every=2", "exchange_every=1"),
    "choco": ("keep_share=0.2", "keep_share=0.05", "consensus_step=0.8"),
}
"""Three trials of each method's own settings; a method that is not named gets three more rates."""

Measure = Callable[[Sequence[str]], dict[str, float]]
"""Labels -> accuracy on validation rows."""


def rate_label(method: str, rate: float) -> str:
    """A method at a learning rate."""
    return f"{method}:learning_rate={rate:g}"


def tuned(method: str, measure: Measure) -> dict[str, Any]:
    """Try the rates, then three settings more at the best rate: eight trials for every method.

    Args:
        method: The method, with settings that stay as they are.
        measure: Gives the accuracy of each trial.

    Returns:
        `best`, a label for `benchmarks.methods`; `accuracy`; and every trial.
    """
    tried = measure([rate_label(method, rate) for rate in RATES])
    best = max(RATES, key=lambda rate: tried[rate_label(method, rate)])
    name = method.split(":")[0]
    if name in KNOBS:
        more = [f"{rate_label(method, best)}:{knob}" for knob in KNOBS[name]]
    else:
        more = [rate_label(method, best * factor) for factor in (0.7, 1.4, 4.0)]
    tried |= measure(more)
    winner = max(tried, key=lambda label: tried[label])
    return {"best": winner, "accuracy": tried[winner], "trials": tried}


def _mean(runs: Mapping[int, Curve], seeds: Sequence[int]) -> float:
    """Mean accuracy over seeds; one that diverged counts as 0."""
    return Interval.of([runs[s].figures["accuracy"] if s in runs else 0.0 for s in seeds]).mean


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--methods", required=True, help="comma separated, as benchmarks/methods.py takes them"
    )
    parser.add_argument("--seeds", type=int, default=1, help=f"number of seeds, from {FIRST_SEED}")
    parser.add_argument(
        "--validation-rows", type=int, default=64, help="rows cut from a task's training rows"
    )
    parser.add_argument("--preset", help="preset or config file; default: the embedded default")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/tuning"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the chosen settings")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Tune, write, return what was written."""
    asked = parse(arguments)
    folder = asked.folder.resolve()
    overrides = (*asked.overrides, f"tasks.validation_rows={asked.validation_rows}")

    def measure(labels: Sequence[str]) -> dict[str, float]:
        seeds = range(FIRST_SEED, FIRST_SEED + asked.seeds)
        jobs = [make_job(label, seed, asked.preset, overrides, folder) for label in labels for seed in seeds]
        curves = run_all(jobs, asked.jobs, keep_rest=True)
        return {x: _mean(curves.get(x, {}), seeds) for x in labels}

    found: dict[str, Any] = {}
    for method in asked.methods.split(","):
        found[method] = tuned(method, measure)
        say(f"{found[method]['best']}: {100 * found[method]['accuracy']:.1f} %")
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    main()
