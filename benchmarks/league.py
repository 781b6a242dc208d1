"""The league table: every method at equal rounds, bytes, airtime, joules and simulated seconds, each at its tuned rate.

`nice -n 15 python -m benchmarks.league --seeds 3 --json` tunes every method's learning rate on the embedded suite,
trains it with every seed at its best rate, and prints where `sparse_orthogonal` loses, then the tables and the Pareto
fronts. All runs are made in this process, one after the other, and kept: the same command goes on from what is there,
and `--finished` makes none and reports the seeds that every method has finished. `--rate METHOD=RATE` gives a method a
rate without trials. Any `key=value` holds for all runs.

Tuning follows one rule for all: a trial at each of `RATES`, and where the best of them is the least or the largest,
one more `STEP` beyond it. Trials are on rows cut from train and on seeds from `tuning.FIRST_SEED`. A trial is as long
as a reported run: shorter ones wrong the methods that train one factor at a time, for which a short trial is a few
turns of each.

Equal spending: accuracy by the time that a method has spent what `sparse_orthogonal`, or `dlora`, spends in its whole
run, linear between evaluations. A method that spends less keeps its last accuracy, marked with *.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.claim import markdown
from benchmarks.comparison import Curve, Curves, Interval, curve_of, over_seeds, paired
from benchmarks.methods import Job, carry_out_here, say, settings_of, state_of, told
from benchmarks.tuning import FIRST_SEED, rate_label

OURS, REFERENCE = "sparse_orthogonal", "dlora"
APART = ("local", "centralized")
"""References: in the tables, not on the fronts."""
SAME = {"dec_lora": "dlora"}
"""Methods that are another's update bit for bit: not run."""
RATES = (4e-3, 1e-2, 2.5e-2)
STEP = 2.5
"""Factor between the rates."""
LONGER = {"random_walk": 5}
"""Methods of which one device trains a round: so many times the rounds, evaluated as often as the others."""
AXES = {
    "payload_bytes": ("MB", 1e-6),
    "airtime_s": ("airtime s", 1.0),
    "energy_j": ("J", 1.0),
    "simulated_s": ("simulated s", 1.0),
}
BASE = (
    "runtime.backend=local", "track.wandb.mode=disabled", "runtime.report=false", "checkpoint.every=1000",
    "method.warmup_rounds=1",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What holds for all runs.

    Attributes:
        rounds: Rounds of a reported run.
        trial_rounds: Rounds of a trial.
        evaluations: Evaluations of a reported run.
        overrides: Settings of the command line.
        folder: Where runs are kept.
    """

    rounds: int
    trial_rounds: int
    evaluations: int
    overrides: tuple[str, ...]
    folder: Path

    def job(self, label: str, seed: int, *, trial: bool) -> Job:
        """The run of one method and rate; trials end early and are scored on validation rows."""
        from dfl_ray.methods.table import METHODS

        method = label.split(":")[0]
        longer = LONGER.get(method, 1)
        rounds = self.trial_rounds if trial else self.rounds
        every = rounds if trial else max(rounds // self.evaluations, 1)
        spec = METHODS[method].spec
        arguments = (
            *BASE, f"rounds={rounds * longer}", f"evaluate.every={every * longer}",
            *(["tasks.validation_rows=48"] if trial else []),
            *([f"evaluate.rules=[{spec.rule}]"] if len(spec.rules) > 1 else []),
            *self.overrides, *settings_of(label), f"seed={seed}",
        )  # fmt: skip
        digest = hashlib.blake2b("\n".join(arguments).encode(), digest_size=5).hexdigest()
        return Job(label, seed, arguments, self.folder / f"{method}-s{seed}-{digest}")


def trial(setting: Setting, label: str, seed: int) -> float:
    """Accuracy on validation rows; 0 where training diverged, which is said."""
    from dfl_ray.errors import RunError

    job = setting.job(label, seed, trial=True)
    try:
        carry_out_here(job)
    except RunError as error:
        if "diverged" not in str(error):
            raise
        say(f"{label}, seed {seed}, diverged and counts as 0 %.")
        return 0.0
    return curve_of(job.path, label).figures["accuracy"]


def tuned_rate(setting: Setting, method: str, seeds: int, finished: bool) -> dict[str, Any] | None:
    """Try every rate, and one more beyond the best where that lies at the end of `RATES`; take the best.

    Returns:
        `best`, a label with the rate, and `trials`: rate -> mean accuracy on validation rows. None where `finished`
        asks for no run and a trial is missing.
    """
    found: dict[float, float] = {}
    for rate in RATES:
        if not _try(setting, method, rate, seeds, finished, found):
            return None
    best = max(found, key=lambda rate: found[rate])
    beyond = {RATES[0]: RATES[0] / STEP, RATES[-1]: RATES[-1] * STEP}.get(best)
    if beyond is not None and not _try(setting, method, beyond, seeds, finished, found):
        return None
    best = max(found, key=lambda rate: found[rate])
    return {"best": rate_label(method, best), "trials": {f"{r:g}": found[r] for r in sorted(found)}}


def _try(
    setting: Setting, method: str, rate: float, seeds: int, finished: bool, found: dict[float, float]
) -> bool:
    """Add a rate's mean accuracy to `found`, unless `finished` asks for no run and one is missing."""
    label, wanted = rate_label(method, rate), [FIRST_SEED + k for k in range(seeds)]
    if finished and any(state_of(setting.job(label, s, trial=True).path) is None for s in wanted):
        return False
    found[rate] = Interval.of([trial(setting, label, s) for s in wanted]).mean
    return True


def all_curves(
    setting: Setting, chosen: Mapping[str, str], seeds: int, finished: bool
) -> dict[str, dict[int, Curve]]:
    """Every method's run with every seed, seed by seed; with `finished` only the seeds that are whole."""
    curves: dict[str, dict[int, Curve]] = {method: {} for method in chosen}
    for seed in range(seeds):
        jobs = {method: setting.job(label, seed, trial=False) for method, label in chosen.items()}
        if finished and any(state_of(job.path) != "done" for job in jobs.values()):
            say(f"Seed {seed} is not whole and is left out.")
            continue
        for method, job in jobs.items():
            carry_out_here(job)
            curves[method][seed] = curve_of(job.path, method)
    return curves


def spending(curves: Curves, axis: str, of: str) -> Callable[[Curve], float]:
    """Accuracy at what `of` spends on an axis in its whole run of the same seed."""
    return lambda curve: curve.at(axis, curves[of][curve.seed].total(axis))


def ways(curves: Curves) -> dict[str, Callable[[Curve], float]]:
    """What is compared: column -> accuracy of a run at that spending."""
    last = int(curves[REFERENCE][min(curves[REFERENCE])].total("round"))
    found: dict[str, Callable[[Curve], float]] = {f"{last} rounds": lambda c: c.at("round", last)}
    for axis, (name, _) in AXES.items():
        for of in (OURS, REFERENCE):
            found[f"{name} of {of}"] = spending(curves, axis, of)
    return found


def losses(curves: Curves) -> list[tuple[str, str, Interval]]:
    """Where ours is behind: (column, method, ours minus it), whole intervals below 0 first, then the largest."""
    found = [
        (column, method, gap)
        for column, at in ways(curves).items()
        for method, gap in paired(curves, OURS, at).items()
        if gap.mean < 0 and method not in APART
    ]
    return sorted(found, key=lambda item: (not _sure(item[2]), item[2].mean))


def _sure(gap: Interval) -> bool:
    return gap.mean + gap.half_width < 0


def front(curves: Curves, axis: str) -> list[str]:
    """Methods that no other beats in both mean cost and mean final accuracy, the cheapest first."""
    points = {
        m: (cost.mean, accuracy.mean)
        for (m, cost), accuracy in zip(
            over_seeds(curves, lambda c: c.total(axis)).items(),
            over_seeds(curves, lambda c: c.figures["accuracy"]).values(),
            strict=True,
        )
        if m not in APART
    }
    best: list[str] = []
    for method in sorted(points, key=lambda m: (points[m][0], -points[m][1])):
        if not best or points[method][1] > points[best[-1]][1]:
            best.append(method)
    return best


def tuning_table(tunings: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy % on validation rows at every rate that was tried, the best in bold."""
    rates = sorted({float(r) for found in tunings.values() for r in found["trials"]})
    rows: list[list[str]] = []
    for method, found in tunings.items():
        best = max(found["trials"].values())
        said = (found["trials"].get(f"{r:g}") for r in rates)
        texts = ("" if a is None else f"{100 * a:.1f}" for a in said)
        rows.append([method, *(f"**{x}**" if x == f"{100 * best:.1f}" else x for x in texts)])
    return markdown(("method", *(f"{r:g}" for r in rates)), rows)


def losses_table(curves: Curves) -> str:
    """Where ours loses, one row a method, in the order of its worst column."""
    rows: dict[str, list[str]] = {}
    for column, method, gap in losses(curves):
        sure = "**" if _sure(gap) else ""
        rows.setdefault(method, []).append(f"{sure}{column}: {gap.text(100)}{sure}")
    head = ("behind", f"{OURS} - it, points; bold: the whole interval is below 0")
    return markdown(head, [[method, "; ".join(cells)] for method, cells in rows.items()])


def own_table(curves: Curves, chosen: Mapping[str, str]) -> str:
    """Each method's own run: its rate, accuracies and costs, the most accurate first."""
    head = ("method", "rate", "accuracy %", "own tasks %", *(name for name, _ in AXES.values()))
    rows: list[list[str]] = []
    for method in sorted(curves, key=lambda m: -_final(curves, m).mean):
        runs = {method: curves[method]}
        figures = [
            over_seeds(runs, lambda c, f=f: c.figures[f])[method].text(100) for f in ("accuracy", "own_tasks")
        ]
        costs = [
            over_seeds(runs, lambda c, a=axis: c.total(a))[method].text(scale, 2 if scale < 1 else 1)
            for axis, (_, scale) in AXES.items()
        ]
        rows.append([method, chosen[method].split("=")[-1], *figures, *costs])
    return markdown(head, rows)


def _final(curves: Curves, method: str) -> Interval:
    return Interval.of([c.figures["accuracy"] for c in curves[method].values()])


def equal_table(curves: Curves) -> str:
    """Accuracy % at equal spending, the most accurate at equal rounds first."""
    columns = ways(curves)
    found = {column: over_seeds(curves, at) for column, at in columns.items()}
    first = next(iter(columns))
    spent_before = {
        (f"{name} of {of}", m)
        for axis, (name, _) in AXES.items()
        for of in (OURS, REFERENCE)
        for m, runs in curves.items()
        if any(c.total(axis) < curves[of][s].total(axis) for s, c in runs.items())
    }
    rows = [
        [m, *(found[c][m].text(100) + ("*" if (c, m) in spent_before else "") for c in columns)]
        for m in sorted(curves, key=lambda m: -found[first][m].mean)
    ]
    return markdown(("method", *columns), rows)


def report(
    curves: Curves, chosen: Mapping[str, str], tunings: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """All tables and the fronts."""
    fronts = [f"- {name}: {', '.join(front(curves, axis))}" for axis, (name, _) in AXES.items()]
    parts = (
        f"Where {OURS} loses", losses_table(curves), "Each method's own run", own_table(curves, chosen),
        "Accuracy % at equal spending", equal_table(curves), "Pareto fronts, the cheapest first", "\n".join(fronts),
        *(("Accuracy % on validation rows by learning rate", tuning_table(tunings)) if tunings else ()),
    )  # fmt: skip
    return "\n\n".join(parts)


def draw(path: Path, curves: Curves) -> None:
    """Final accuracy over bytes and simulated seconds, every method a point, the Pareto front a line."""
    from benchmarks.scatter_chart import Panel, save_scatter

    shown = {m: runs for m, runs in curves.items() if m not in APART}
    accuracy = over_seeds(shown, lambda c: 100 * c.figures["accuracy"])
    panels: list[Panel] = []
    for axis in ("payload_bytes", "simulated_s"):
        name, scale = AXES[axis]
        costs = over_seeds(shown, lambda c, a=axis, s=scale: s * c.total(a))
        points = {m: (costs[m].mean, accuracy[m].mean) for m in shown}
        panels.append(Panel(f"{name} of a whole run", points, front(curves, axis), OURS))
    save_scatter(path, "accuracy, all devices and tasks, %", panels)


def summary(
    curves: Curves, tunings: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, str]
) -> dict[str, Any]:
    """All figures, JSON-able but for intervals."""
    columns = ways(curves)
    return {
        "tuning": tunings,
        "losses": [{"at": c, "method": m, "ours_minus_it": gap} for c, m, gap in losses(curves)],
        "equal": {column: over_seeds(curves, at) for column, at in columns.items()},
        "paired": {column: paired(curves, OURS, at) for column, at in columns.items()},
        "own": {
            m: {
                "label": chosen[m],
                "accuracy": _final(curves, m),
                **{a: over_seeds({m: runs}, lambda c, a=a: c.total(a))[m] for a in AXES},
            }
            for m, runs in curves.items()
        },
        "fronts": {axis: front(curves, axis) for axis in AXES},
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--methods", help=f"comma separated, {OURS} and {REFERENCE} among them; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="number of reported seeds, from 0")
    parser.add_argument("--trial-seeds", type=int, default=1, help=f"seeds of a trial, from {FIRST_SEED}")
    parser.add_argument(
        "--rate",
        action="append",
        default=[],
        metavar="METHOD=RATE",
        help="a rate that is given and not tuned",
    )
    parser.add_argument("--rounds", type=int, default=12, help="rounds of a reported run")
    parser.add_argument(
        "--trial-rounds", type=int, help="rounds of a trial; default: as many as are reported"
    )
    parser.add_argument("--evaluations", type=int, default=6, help="evaluations of a reported run")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks/league"), help="where runs are kept"
    )
    parser.add_argument("--finished", action="store_true", help="make no run; report what is finished")
    parser.add_argument("--chart", type=Path, help="SVG file of the Pareto fronts")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Tune, run, print, return the result."""
    from dfl_ray.methods.table import METHODS

    asked = parse(arguments)
    methods = asked.methods.split(",") if asked.methods else [m for m in METHODS if m not in SAME]
    if not {OURS, REFERENCE} <= set(methods):
        raise SystemExit(f"--methods needs {OURS} and {REFERENCE}, whose spending the others are given.")
    setting = Setting(
        asked.rounds, asked.trial_rounds or asked.rounds, asked.evaluations, tuple(asked.overrides),
        asked.folder.resolve(),
    )  # fmt: skip
    tunings: dict[str, dict[str, Any]] = {}
    given = {method: float(rate) for method, rate in (text.split("=") for text in asked.rate)}
    for method in (m for m in methods if m not in given):
        found = tuned_rate(setting, method, asked.trial_seeds, asked.finished)
        if found is None:
            say(f"{method} is not tuned yet and is left out.")
        else:
            tunings[method] = found
    best = {method: found["best"] for method, found in tunings.items()}
    best |= {method: rate_label(method, rate) for method, rate in given.items()}
    chosen = {method: best[method] for method in methods if method in best}
    curves = all_curves(setting, chosen, asked.seeds, asked.finished)
    seeds = sorted(curves.get(OURS, {}))
    if not seeds or REFERENCE not in curves:
        raise SystemExit("No seed is whole; run it without --finished.")
    print(report(curves, chosen, tunings))
    if asked.chart:
        draw(asked.chart, curves)
    return told(summary(curves, tunings, chosen), asked, seeds=seeds)


if __name__ == "__main__":
    main()
