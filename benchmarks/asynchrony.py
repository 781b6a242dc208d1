"""What does a barrier cost where some devices are slow, in virtual seconds and joules?

`python -m benchmarks.asynchrony --json` runs one experiment with and without a barrier (`schedule`) at 0, 30 and 60 %
stragglers, phones of a tenth of the others' speed (figures of computing chosen so that training takes longer than
sending), for equal virtual time: the synchronous run has `--rounds` rounds, and the other one as many windows as a plan
says fit into its time. Everything else is equal. It prints, for each run, the accuracy by the method's own rule at a
quarter, a half and the end of that time, joules until then, how many local rounds the fastest and the slowest device
made, and real seconds of training, planning and mixing for a thousand local rounds.

`--plan` trains nothing and prints what virtual time is spent on alone: local rounds, joules and bytes.
`--charts FOLDER` draws accuracy over virtual time and over joules, means over seeds with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


import numpy as np

from benchmarks.comparison import Interval
from benchmarks.line_chart import Axis, save_chart
from benchmarks.result import with_origin
from channels.energy import DeviceClass
from dfl_ray.config.load import load_config
from dfl_ray.config.schema import Config
from dfl_ray.records import Run, load_run
from dfl_ray.simulation.dry_run import DryRun, dry_run, totals
from dfl_ray.simulation.launch import launch

SHARES = (0.0, 0.3, 0.6)
MOST_WINDOWS = 5000
EVALUATIONS = 8


def words_of(share: float, options: argparse.Namespace, seed: int) -> list[str]:
    """The part of the configuration that all runs of one share of stragglers have in common.

    Args:
        share: Share of stragglers in [0, 1].
        options: Says method, devices and further overrides.
        seed: Seed of the run.

    Returns:
        Overrides.
    """
    phone = figures_of("phone", 1 - share, options.frequency_hz)
    slow = figures_of("straggler", share, options.frequency_hz / options.slower)
    return [
        f"method={options.method}", f"devices.count={options.devices}", f"seed={seed}",
        f"devices.class_figures={{{phone}, {slow}}}", "runtime.backend=local", "runtime.report=false", "track=none",
        "checkpoint.every=0", *options.words,
    ]  # fmt: skip


def figures_of(name: str, share: float, frequency_hz: float) -> str:
    """A class of devices with another clock than the default class, and its energy for an operation."""
    default = DeviceClass()
    capacitance = default.capacitance * (default.frequency_hz / frequency_hz) ** 2
    return f"{name}: {{share: {share:g}, frequency_hz: {frequency_hz:g}, capacitance: {capacitance:g}}}"


def planned_within(words: list[str], simulated_s: float) -> DryRun:
    """The plan of the run without a barrier up to a virtual time, whose windows say how many fit into it.

    Args:
        words: Overrides of the run.
        simulated_s: The time in s.

    Returns:
        The plan, of at least one window.
    """
    return dry_run(load_config(None, [*words, f"stop.simulated_s={simulated_s}", f"rounds={MOST_WINDOWS}"]))


def planned_figures(found: DryRun) -> dict[str, Any]:
    """What is printed of one plan: local rounds, joules and bytes on air.

    Args:
        found: The plan.

    Returns:
        Column -> value.
    """
    counts = np.zeros(found.outline.config.devices.count, np.int64)
    for played in found.played.values():
        counts[slice(None) if played.ended is None else played.ended.devices] += 1
    sums = totals(found)
    return {
        "windows": len(found.played),
        "simulated_s": sums["simulated_s"],
        "joules": sums["energy_j"],
        "payload_bytes": sums["payload_bytes"],
        "least_local_rounds": int(counts.min()),
        "mean_local_rounds": float(counts.mean()),
        "most_local_rounds": int(counts.max()),
    }


def compared_plans(share: float, options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Both schedules at one share of stragglers, without training."""
    words = words_of(share, options, seed)
    sync = dry_run(load_config(None, [*words, f"rounds={options.rounds}"]))
    free = planned_within([*words, "schedule=async"], totals(sync)["simulated_s"])
    common = {"stragglers": share, "seed": seed}
    return [
        {**common, "schedule": name, **planned_figures(found)}
        for name, found in (("sync", sync), ("async", free))
    ]


def carried_out(config: Config, folder: Path) -> Run:
    """Run a configuration below a folder and read its records."""
    text = config.model_dump(mode="json")
    text["runtime"]["runs_dir"] = str(folder)
    return load_run(launch(type(config).model_validate(text), json=True).folder)


def figures(run: Run, simulated_s: float) -> dict[str, Any]:
    """What is printed of one run.

    Args:
        run: The run.
        simulated_s: The virtual time of which a quarter, a half and all is looked at.

    Returns:
        Column -> value.
    """
    rounds = run.rounds
    measured = rounds[rounds["accuracy_mean"].notna()]
    row: dict[str, Any] = {"windows": len(rounds), "simulated_s": float(rounds["simulated_s"].iloc[-1])}
    for name, part in (("quarter", 0.25), ("half", 0.5), ("end", 1.0)):
        # The last window's messages may end a little after the time that was planned for.
        seen = measured[measured["simulated_s"] <= part * simulated_s * (1.02 if part == 1 else 1)]
        row[f"accuracy_{name}"] = float(seen["accuracy_mean"].iloc[-1]) if len(seen) else None
        row[f"joules_{name}"] = float(
            rounds["energy_j"][rounds["simulated_s"] <= part * simulated_s * 1.02].sum()
        )
    row["curve"] = curve(run)
    counts = run.devices[run.devices["loss"].notna()].groupby("device").size()
    wall = rounds[["train_wall_s", "plan_wall_s", "exchange_wall_s"]].to_numpy().sum()
    row |= {"least_local_rounds": int(counts.min()), "most_local_rounds": int(counts.max())}
    return row | {"wall_s_per_1000_local_rounds": 1000 * float(wall) / int(counts.sum())}


def curve(run: Run) -> list[tuple[float, float, float]]:
    """Virtual time in s, joules of all devices until then, and accuracy, at every evaluation after the first round."""
    rounds = run.rounds.assign(joules=run.rounds["energy_j"].cumsum())
    measured = rounds[rounds["accuracy_mean"].notna()]
    return list(
        zip(*(measured[name].tolist() for name in ("simulated_s", "joules", "accuracy_mean")), strict=True)
    )


def draw(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw accuracy over virtual time and over joules: one colour a share of stragglers, dashed where devices wait.

    Args:
        folder: Where `asynchrony_time.svg` and `asynchrony_energy.svg` go.
        rows: The rows of `compared`, of all shares and seeds.
    """
    runs: dict[str, list[np.ndarray]] = {}
    for row in sorted(rows, key=lambda r: (r["stragglers"], r["schedule"])):
        runs.setdefault(f"{row['stragglers']:.0%} stragglers: {row['schedule']}", []).append(
            evenly(row["curve"])
        )
    for column, name, title in ((0, "time", "virtual time, s"), (1, "energy", "energy of all devices, J")):
        over = {
            label: np.mean([c[:, column] for c in found], axis=0).tolist() for label, found in runs.items()
        }
        accuracy = {
            label: [Interval.of((100 * at).tolist()) for at in np.array(found)[:, :, 2].T]
            for label, found in runs.items()
        }
        every = [x for xs in over.values() for x in xs]
        save_chart(
            folder / f"asynchrony_{name}.svg",
            f"Accuracy over {title.partition(',')[0]}",
            Axis(title, min(every) / 1.15, max(every) * 1.15, log=True),
            Axis("accuracy, all devices and tasks, %", 0, 100),
            {label: (xs, [i.mean for i in accuracy[label]]) for label, xs in over.items()},
            {label: [i.half_width for i in found] for label, found in accuracy.items()},
        )


def evenly(points: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """A curve at `EVALUATIONS` times equally far apart, so that seeds can be averaged; linear between evaluations."""
    known = np.asarray(points, float)
    at_s = np.linspace(known[0, 0], known[-1, 0], EVALUATIONS)
    return np.stack([np.interp(at_s, known[:, 0], column) for column in known.T], axis=1)


def compared(share: float, options: argparse.Namespace, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Both schedules at one share of stragglers."""
    words = words_of(share, options, seed)
    every = max(1, options.rounds // EVALUATIONS)
    sync = carried_out(
        load_config(None, [*words, f"rounds={options.rounds}", f"evaluate.every={every}"]), folder
    )
    simulated_s = float(sync.rounds["simulated_s"].iloc[-1])
    free = [*words, "schedule=async", f"async.staleness={options.staleness}"]
    windows = max(planned_within(free, simulated_s).played)
    every = max(1, windows // EVALUATIONS)
    other = carried_out(load_config(None, [*free, f"rounds={windows}", f"evaluate.every={every}"]), folder)
    common = {"stragglers": share, "seed": seed}
    return [
        {**common, "schedule": name, **figures(run, simulated_s)}
        for name, run in (("sync", sync), ("async", other))
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or one JSON object a run."""
    parser = argparse.ArgumentParser(description="What does a barrier cost where some devices are slow?")
    parser.add_argument("--method", default="dlora")
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--staleness", default="polynomial")
    parser.add_argument("--slower", type=float, default=10.0)
    parser.add_argument("--frequency-hz", type=float, default=1e7)
    parser.add_argument("--shares", type=float, nargs="*", default=list(SHARES))
    parser.add_argument("--plan", action="store_true", help="train nothing")
    parser.add_argument("--charts", type=Path, help="folder for the charts; of runs that train")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("words", nargs="*", help="further overrides of both runs")
    options = parser.parse_args(arguments)
    every: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for share in options.shares:
            for seed in range(options.seeds):
                asked = (share, options, seed)
                rows = compared_plans(*asked) if options.plan else compared(*asked, Path(folder))
                every += rows
                for row in rows:
                    print(shown(row), flush=True)
    if options.charts and not options.plan:
        draw(options.charts, every)
    if options.json:
        print(json.dumps(with_origin({"runs": every}, seeds=options.seeds)))


def shown(row: dict[str, Any]) -> str:
    """One run as a line of text."""
    parts = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if name != "curve"
    ]
    return ", ".join(parts)


if __name__ == "__main__":
    main()
