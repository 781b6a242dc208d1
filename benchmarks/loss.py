"""Accuracy against the share of messages that the radio loses, on the embedded suite.

`python benchmarks/loss.py --seeds 2 --picture docs/pictures/accuracy_over_loss.svg` trains the default network (10
devices) with each method and each share of loss, and prints a table of accuracies in percent: mean over seeds, devices
and tasks, and the share of messages that were lost. Every radio hop is lost with the given chance, independently of
all others and beside what the radio itself loses; the sender learns of it, as it does of other losses, and the method's
law decides what is sent again. `--json` prints the figures of every seed. A loss, gradient, accuracy or adapter that is
not finite ends the benchmark with an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.line_chart import Axis, save_chart
from benchmarks.result import with_origin
from channels.transfers import FAILED, UPSTREAM, RoundPlan
from dfl_ray.config.load import load_config, resolved_yaml
from dfl_ray.methods.spec import method_spec
from dfl_ray.records import RunFolder, load_run
from dfl_ray.seeds import Stream, generator
from dfl_ray.simulation.backend import LocalBackend

if TYPE_CHECKING:
    from channels.transfers import Transfers
    from dfl_ray.config.schema import Config

LOSSES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95)
SETTING = (
    "runtime.backend=local", "runtime.report=false", "track.trackers=[]", "rounds=12", "evaluate.every=12",
    "method.learning_rate=1e-2", "method.warmup_rounds=1",
)  # fmt: skip


class LossyBackend:
    """A backend whose radio loses hops at random; all else is the backend's that it stands before.

    Args:
        inner: Hosts devices and channel.
        loss: Chance that a delivered hop is lost all the same, in [0, 1).
        seed: Keys the draws, with the round.
    """

    def __init__(self, inner: LocalBackend, loss: float, seed: int) -> None:
        self._inner, self._loss, self._seed = inner, loss, seed

    def __getattr__(self, name: str) -> Any:
        """Everything else."""
        return getattr(self._inner, name)

    def plan(
        self, round_index: int, transfers: Transfers, ready_s: np.ndarray, compute_energy_j: np.ndarray
    ) -> RoundPlan:
        """See `Backend.plan`; the lost hops have used their time and energy, as those whose last attempt fails."""
        done = self._inner.plan(round_index, transfers, ready_s, compute_energy_j)
        drawn = generator(self._seed, Stream.CHANNEL, round_index, 1).random(len(transfers))
        lost = done.delivered & (drawn < self._loss)
        upstream = lost.copy()
        for _ in range(int(transfers.hops_before().max(initial=0))):
            # Nothing is forwarded that did not arrive.
            upstream |= (transfers.after >= 0) & upstream[transfers.after]
        forwarded, lost = done.delivered & upstream & ~lost, done.delivered & upstream
        table = done.table.copy()
        table["delivered"] &= ~lost[table["transfer"].to_numpy(np.int64)]
        return replace(
            done,
            table=table,
            delivered=done.delivered & ~lost,
            finished_s=np.where(lost, np.nan, done.finished_s),
            outcome=np.where(forwarded, UPSTREAM, np.where(lost, FAILED, done.outcome)),
        )


@dataclass(frozen=True)
class Result:
    """One method at one share of loss.

    Attributes:
        method: The learning method.
        loss: Chance of losing a hop.
        lost: Share of the messages that were lost, of each seed.
        accuracy: Mean over devices and tasks after the last round, of each seed, in [0, 1].
    """

    method: str
    loss: float
    lost: tuple[float, ...]
    accuracy: tuple[float, ...]


def train(config: Config, loss: float, runs: Path) -> tuple[float, float]:
    """One run; returns the share of messages lost and the accuracy by the method's own rule.

    Raises:
        RuntimeError: A loss, a gradient, an accuracy or an adapter is not finite, or a device trained nothing.
    """
    from dfl_ray.simulation.driver import Driver
    from dfl_ray.simulation.experiment import build_experiment
    from dfl_ray.tracking.progress import QuietProgress
    from dfl_ray.tracking.tracker import make_tracker

    experiment, progress = build_experiment(config), QuietProgress()
    backend: Any = LossyBackend(LocalBackend(experiment.setup, experiment.channel), loss, config.seed)
    folder = RunFolder.create(runs, "lossy", resolved_yaml(experiment.config))
    try:
        tracker = make_tracker(config.track, name="lossy", say=progress.say, verbose=False)
        Driver(experiment, backend, folder, tracker, progress).run()
        folder.finish("done")
    finally:
        folder.close()
    run = load_run(folder.path)
    figures = run.devices[["loss", "gradient_norm"]].to_numpy(float)
    last = run.evaluation[run.evaluation["round"] == config.rounds]
    mine = last[last["rule"] == method_spec(config.method).rule]["accuracy"].to_numpy(float)
    if not (np.isfinite(figures).all() and np.isfinite(mine).all()) or run.info.get("warnings"):
        raise RuntimeError(f"not finite at a loss of {loss}: {run.info.get('warnings')}")
    ends = run.transfers["destination"] == run.transfers["receiver"]
    return float(1 - run.transfers.loc[ends, "delivered"].mean()), float(mine.mean())


def measure(method: str, loss: float, seeds: int, extra: Sequence[str]) -> Result:
    """One method at one share of loss, for every seed."""
    found: list[tuple[float, float]] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as runs:
            words = [*SETTING, f"method={method}", f"seed={seed}", f"runtime.runs_dir={runs}", *extra]
            found.append(train(load_config(None, words), loss, Path(runs)))
    return Result(method, loss, tuple(lost for lost, _ in found), tuple(mean for _, mean in found))


def lines(results: Sequence[Result]) -> list[str]:
    """The table, in Markdown: a row a share of loss, two columns a method."""
    methods = list(dict.fromkeys(r.method for r in results))
    heads = [f"{m}, {what}" for m in methods for what in ("lost %", "accuracy %")]
    out = ["| chance of loss % | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for loss in dict.fromkeys(r.loss for r in results):
        cells = [
            f"{100 * float(np.mean(values)):.1f}"
            for r in results
            if r.loss == loss
            for values in (r.lost, r.accuracy)
        ]
        out.append(f"| {100 * loss:g} | " + " | ".join(cells) + " |")
    return out


def draw(path: Path, results: Sequence[Result]) -> None:
    """The picture: accuracy over the share of messages lost, a line a method; bars are the seeds' half-range."""
    series = {
        m: (
            [100 * float(np.mean(r.lost)) for r in results if r.method == m],
            [100 * float(np.mean(r.accuracy)) for r in results if r.method == m],
        )
        for m in dict.fromkeys(r.method for r in results)
    }
    spreads = {m: [50 * float(np.ptp(r.accuracy)) for r in results if r.method == m] for m in series}
    save_chart(
        path,
        "Accuracy over lost messages",
        Axis("messages lost, %", 0, 100),
        Axis("accuracy, %", 0, 100),
        series,
        spreads,
    )


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", default="sparse_orthogonal,dlora")
    parser.add_argument("--losses", default=",".join(map(str, LOSSES)), help="chances of losing a hop")
    parser.add_argument("--picture", type=Path, help="SVG file to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("extra", nargs="*", help="further settings of all runs, e.g. rounds=20")
    args = parser.parse_args()
    results: list[Result] = []
    for method in args.methods.split(","):
        for loss in map(float, args.losses.split(",")):
            results.append(measure(method, loss, args.seeds, args.extra))
            print(results[-1], file=sys.stderr, flush=True)
    print("\n".join(lines(results)))
    if args.picture:
        draw(args.picture, results)
    if args.json:
        print(json.dumps(with_origin({"results": [asdict(r) for r in results]}, seeds=args.seeds)))


if __name__ == "__main__":
    main()
