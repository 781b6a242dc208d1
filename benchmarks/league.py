"""The league table: every method at equal rounds, bytes, airtime, joules and simulated seconds, each at its tuned rate.

`nice -n 15 python -m benchmarks.league --seeds 3 --json` tunes every method's learning rate on the embedded suite,
trains it with every seed at its best rate, and prints where `sparse_orthogonal` loses, then the tables and the Pareto
fronts (`benchmarks.league_tables`). All runs are made in this process, one after the other, and kept: the same command
goes on from what is there, and `--finished` makes none and reports the seeds that every method has finished.
`--preset smollm2 --processes 2` is the league of another preset or config file, its runs in processes of their own,
of which one that was cut short is resumed. `--rate METHOD=RATE` gives a method a rate without trials. Any `key=value`
holds for all runs.

Tuning follows one rule for all: a trial at each of `--rates`, and where the best of them is the least or the largest,
one more, `--step` times beyond it (`--step 0`: none). Trials are on rows cut from train and on seeds from
`tuning.FIRST_SEED`. A trial is as long as a reported run: shorter ones wrong the methods that train one factor at a
time, for which a short trial is a few turns of each.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.comparison import Curve, Interval, curve_of
from benchmarks.kept_runs import Job, carry_out, carry_out_here, diverged, say, settings_of, state_of
from benchmarks.league_tables import OURS, REFERENCE, draw, report, summary
from benchmarks.methods import told
from benchmarks.tuning import FIRST_SEED, rate_label

T = TypeVar("T")
R = TypeVar("R")

SAME = {"dec_lora": "dlora"}
"""Methods that are another's update bit for bit: not run."""
RATES = (4e-3, 1e-2, 2.5e-2)
STEP = 2.5
"""Factor between the rates."""
VALIDATION_ROWS = 48
LONGER = {"random_walk": 5}
"""Methods of which one device trains a round: so many times the rounds, evaluated as often as the others."""
BASE = ("runtime.backend=local", "track.wandb.mode=disabled", "runtime.report=false")
EMBEDDED = ("checkpoint.every=1000", "method.warmup_rounds=1")
"""What the short runs of the embedded suite have besides; another preset has its own."""


@dataclass(frozen=True)
class Setting:
    """What holds for all runs.

    Attributes:
        rounds: Rounds of a reported run.
        trial_rounds: Rounds of a trial.
        evaluations: Evaluations of a reported run.
        overrides: Settings of the command line.
        folder: Where runs are kept.
        preset: Preset or config file; None: the embedded default.
        rates: Learning rates of the trials, ascending.
        step: How many times beyond the ends of `rates` one more trial goes; 0: none does.
        validation_rows: Rows of a task that trials are scored on, cut from its training rows.
        processes: Runs at a time, in processes of their own; 0: all in this one.
    """

    rounds: int
    trial_rounds: int
    evaluations: int
    overrides: tuple[str, ...]
    folder: Path
    preset: str | None = None
    rates: tuple[float, ...] = RATES
    step: float = STEP
    validation_rows: int = VALIDATION_ROWS
    processes: int = 0

    def job(self, label: str, seed: int, *, trial: bool) -> Job:
        """The run of one method and rate; trials end early and are scored on validation rows."""
        from dfl_ray.methods.table import METHODS

        method = label.split(":")[0]
        longer = LONGER.get(method, 1)
        rounds = self.trial_rounds if trial else self.rounds
        every = rounds if trial else max(rounds // self.evaluations, 1)
        spec = METHODS[method].spec
        named, *settings = settings_of(label)
        arguments = (
            *((self.preset,) if self.preset else EMBEDDED), *BASE, named,
            f"rounds={rounds * longer}", f"evaluate.every={every * longer}",
            *([f"tasks.validation_rows={self.validation_rows}"] if trial else []),
            *([f"evaluate.rules=[{spec.rule}]"] if len(spec.rules) > 1 else []),
            *self.overrides, *settings, f"seed={seed}",
        )  # fmt: skip
        digest = hashlib.blake2b("\n".join(arguments).encode(), digest_size=5).hexdigest()
        return Job(label, seed, arguments, self.folder / f"{method}-s{seed}-{digest}")

    def make(self, job: Job) -> None:
        """Make a run unless it is there."""
        (carry_out if self.processes else carry_out_here)(job)

    def each(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """What `do` makes of each item, as many at a time as there are processes."""
        if not self.processes:
            return [do(item) for item in items]
        with ThreadPoolExecutor(self.processes) as pool:
            return list(pool.map(do, items))


def trial(setting: Setting, label: str, seed: int) -> float:
    """Accuracy on validation rows; 0 where training diverged, which is said."""
    job = setting.job(label, seed, trial=True)
    if not _made(setting, job):
        say(f"{label}, seed {seed}, diverged and counts as 0 %.")
        return 0.0
    return curve_of(job.path, label).figures["accuracy"]


def tuned_rate(setting: Setting, method: str, seeds: int, finished: bool) -> dict[str, Any] | None:
    """Try every rate, and one more beyond the best where that lies at the end of the rates; take the best.

    Returns:
        `best`, a label with the rate, and `trials`: rate -> mean accuracy on validation rows. None where `finished`
        asks for no run and a trial is missing.
    """
    found: dict[float, float] = {}
    if not _try(setting, method, setting.rates, seeds, finished, found):
        return None
    best, step = max(found, key=lambda rate: found[rate]), setting.step
    ends = {setting.rates[0]: 1 / step, setting.rates[-1]: step} if step else {}
    if best in ends and not _try(setting, method, [best * ends[best]], seeds, finished, found):
        return None
    best = max(found, key=lambda rate: found[rate])
    return {"best": rate_label(method, best), "trials": {f"{r:g}": found[r] for r in sorted(found)}}


def _try(
    setting: Setting,
    method: str,
    rates: Sequence[float],
    seeds: int,
    finished: bool,
    found: dict[float, float],
) -> bool:
    """Add mean accuracies at rates to `found`, unless `finished` asks for no run and one is missing."""
    wanted = [(rate, FIRST_SEED + k) for rate in rates for k in range(seeds)]
    jobs = [setting.job(rate_label(method, rate), seed, trial=True) for rate, seed in wanted]
    if finished and any(state_of(job.path) != "done" and not diverged(job.path) for job in jobs):
        return False
    scores = setting.each(lambda x: trial(setting, rate_label(method, x[0]), x[1]), wanted)
    for k, rate in enumerate(rates):
        found[rate] = Interval.of(scores[k * seeds : (k + 1) * seeds]).mean
    return True


def all_curves(
    setting: Setting, chosen: Mapping[str, str], seeds: int, finished: bool
) -> dict[str, dict[int, Curve]]:
    """Every method's run with every seed, seed by seed; with `finished` only the seeds that are whole.

    A method of which a run diverged is left out and told.
    """
    curves: dict[str, dict[int, Curve]] = {method: {} for method in chosen}
    for seed in range(seeds):
        jobs = {m: setting.job(label, seed, trial=False) for m, label in chosen.items() if m in curves}
        if finished and any(state_of(j.path) != "done" and not diverged(j.path) for j in jobs.values()):
            say(f"Seed {seed} is not whole and is left out.")
            continue
        made = setting.each(lambda job: _made(setting, job), list(jobs.values()))
        for (method, job), whole in zip(jobs.items(), made, strict=True):
            if whole:
                curves[method][seed] = curve_of(job.path, method)
            else:
                say(f"{job.label} diverged with seed {seed} and is left out.")
                del curves[method]
    return curves


def _made(setting: Setting, job: Job) -> bool:
    """Make a run unless it is there; whether it is whole, and not one whose training diverged."""
    try:
        setting.make(job)
    except RuntimeError:
        if not diverged(job.path):
            raise
        return False
    return True


def _rates(text: str) -> tuple[float, ...]:
    return tuple(sorted(float(rate) for rate in text.split(",")))


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
    parser.add_argument("--preset", help="preset or config file; default: the embedded default")
    parser.add_argument(
        "--rates", type=_rates, default=RATES, metavar="RATE,RATE,...", help="learning rates of the trials"
    )
    parser.add_argument(
        "--step", type=float, default=STEP, help="times beyond the ends of --rates; 0: never beyond"
    )
    parser.add_argument(
        "--validation-rows", type=int, default=VALIDATION_ROWS, help="rows cut from a task's training rows"
    )
    parser.add_argument(
        "--processes", type=int, help="runs at a time, each a process; default: with a preset one, else none"
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
        asked.folder.resolve(), asked.preset, asked.rates, asked.step, asked.validation_rows,
        int(asked.preset is not None) if asked.processes is None else asked.processes,
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
