"""What attackers cost under each aggregation rule, on the embedded suite.

`python benchmarks/robustness.py --seeds 2` trains the default network (10 devices) with each method and each rule, once
clean and once with a fifth of the devices as sign-flippers, and prints a table of accuracies in percent: mean over
seeds, honest devices and tasks. So that the two runs are compared on the same devices, the clean one is read over the
devices that are honest in the other. `--kind scaled_noise --share 0.3 --scale 10` asks another attack.

A rule passes where it keeps 90 % of its own clean accuracy and, without attackers, is at most one point below gossip.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.result import with_origin
from dfl_ray.config.load import load_config
from dfl_ray.devices.faulty import drawn_faults
from dfl_ray.methods.spec import method_spec
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch

RULES = ("gossip", "clip", "trimmed_mean", "median", "krum", "balance")
SETTING = (
    "runtime.backend=local", "runtime.report=false", "track.trackers=[]", "rounds=12", "evaluate.every=12",
    "method.learning_rate=1e-2", "method.warmup_rounds=1",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One method under one rule; accuracies in [0, 1], means over seeds.

    Attributes:
        method: The learning method.
        rule: The aggregation rule.
        clean: Accuracy without attackers.
        attacked: Accuracy with them.
    """

    method: str
    rule: str
    clean: float
    attacked: float


def accuracy(runs: Path, attack: Sequence[str], attacked: bool, words: Sequence[str]) -> float:
    """Train once and read the accuracy of the devices that are honest under the attack."""
    base = [*SETTING, f"runtime.runs_dir={runs}", *words]
    hostile = load_config(None, [*base, *attack])
    run = load_run(launch(hostile if attacked else load_config(None, base), json=True).folder)
    last = run.evaluation[run.evaluation["round"] == run.evaluation["round"].max()]
    mine = last[
        (last["rule"] == method_spec(hostile.method).rule)
        & ~last["device"].isin(drawn_faults(hostile).devices)
    ]
    return float(mine["accuracy"].mean())


def measure(method: str, rule: str, seeds: int, attack: Sequence[str], extra: Sequence[str]) -> Result:
    """Both runs of one method and rule, for every seed."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(seeds):
        words = (f"method={method}", f"method.aggregation={rule}", f"seed={seed}", *extra)
        for attacked, values in found.items():
            with tempfile.TemporaryDirectory() as runs:
                values.append(accuracy(Path(runs), attack, attacked, words))
    return Result(method, rule, float(np.mean(found[False])), float(np.mean(found[True])))


def lines(results: Sequence[Result]) -> list[str]:
    """The table, in Markdown."""
    out = ["| method | rule | clean % | attacked % | kept % |", "|---|---|---|---|---|"]
    for r in results:
        kept = 100 * r.attacked / r.clean
        out.append(f"| {r.method} | {r.rule} | {100 * r.clean:.1f} | {100 * r.attacked:.1f} | {kept:.0f} |")
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", default="dlora,sparse_orthogonal")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--kind", default="sign_flip")
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--scale", type=float, default=4.0)
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of the table")
    parser.add_argument("extra", nargs="*", help="further settings of all runs, e.g. rounds=20")
    args = parser.parse_args()
    attack = [f"devices.faults.{name}={getattr(args, name)}" for name in ("share", "kind", "scale")]
    results: list[Result] = []
    for method in args.methods.split(","):
        for rule in args.rules.split(","):
            results.append(measure(method, rule, args.seeds, attack, args.extra))
            print(lines(results[-1:])[-1], file=sys.stderr, flush=True)
    if args.json:
        found = {"attack": attack, "results": [asdict(r) for r in results]}
        print(json.dumps(with_origin(found, seeds=args.seeds)))
    else:
        print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
