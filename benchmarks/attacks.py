"""What attackers, free riders and privacy cost each method, and what its adapters tell, on the embedded suite.

`python benchmarks/attacks.py --json` trains each method clean, with a fifth of the devices faulty in each way of
`KINDS` (by the mean; sign flips by `balance` too), and under DP-SGD; accuracy in percent is that of the devices that
are honest under the attacks. A cell says `refused` where the configuration does not allow it. The adapters of the
clean runs are attacked too (`dfl-ray evaluate --privacy`). `--column NAME`, as often as wanted, asks for some columns.
Any `key=value` holds for all runs.
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

from benchmarks.claim import markdown
from benchmarks.comparison import plain
from benchmarks.kept_runs import say
from benchmarks.result import with_origin
from dfl_ray.config.load import load_config
from dfl_ray.devices.faulty import drawn_faults
from dfl_ray.errors import InputError
from dfl_ray.methods.spec import method_spec
from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch

METHODS = ("dlora", "sparse_orthogonal", "ffa", "rolora", "flexlora")
KINDS = ("sign_flip", "scaled_noise", "label_flip", "backdoor", "silent")
SETTING = (
    "runtime.backend=local", "runtime.report=false", "track.trackers=[]", "rounds=6", "evaluate.every=6",
    "method.learning_rate=1e-2", "method.warmup_rounds=1", "method.batch_rows=8", "tasks.test_rows=24",
)  # fmt: skip
SHARE = 0.2
NOISE = 0.5
"""Noise of DP-SGD over the clipping norm."""
PROBES = ("membership_auc", "row_b", "row_a", "round_b", "round_a")
"""Attacks on the adapters of clean runs."""


def columns() -> dict[str, tuple[str, ...]]:
    """Column -> the settings that it adds."""
    hostile = {kind: (f"devices.faults.share={SHARE}", f"devices.faults.kind={kind}") for kind in KINDS}
    return {
        "clean": (),
        **hostile,
        "sign_flip, balance": (*hostile["sign_flip"], "method.aggregation=balance"),
        "DP-SGD": ("privacy.mechanism=examples", f"privacy.noise_multiplier={NOISE}"),
    }


def measure(words: Sequence[str], runs: Path, probe: bool) -> dict[str, Any] | None:
    """Train once.

    Args:
        words: Settings.
        runs: Where the run's folder is made.
        probe: Whether its adapters are attacked.

    Returns:
        `accuracy` of the devices that are honest under the attacks; `success` of a backdoor, largest `epsilon`, and
        the areas under the ROC curves of the attacks on adapters, where there are any; None where it is refused.
    """
    try:
        config = load_config(None, [*SETTING, f"runtime.runs_dir={runs}", *words])
    except InputError as error:
        say(str(error))
        return None
    honest = config if config.devices.faults.share else load_config(
        None, [*SETTING, *words, f"devices.faults.share={SHARE}", "devices.faults.kind=silent"]
    )  # fmt: skip
    run = load_run(launch(config, json=True).folder)
    last = run.evaluation[run.evaluation["round"] == run.evaluation["round"].max()]
    mine = last[
        (last["rule"] == method_spec(config.method).rule) & ~last["device"].isin(drawn_faults(honest).devices)
    ]
    found: dict[str, Any] = {"accuracy": float(mine["accuracy"].mean())}
    success = run.info.get("faults", {}).get("attack_success", {})
    if success:
        found["success"] = list(success.values())[-1]
    if run.info.get("privacy"):
        found["privacy"] = run.info["privacy"]
    return found | (_probed(run.path) if probe else {})


def _probed(path: Path) -> dict[str, float]:
    from dfl_ray.simulation.export_device import open_saved
    from dfl_ray.simulation.privacy_probe import probe_privacy

    table = probe_privacy(open_saved(path))
    return {str(name): float(value) for name, value in table.iloc[:, 2:].mean().items()}


def cell(found: dict[str, Any] | None) -> str:
    """Accuracy %, with the backdoor's success where there is one."""
    if found is None:
        return "refused"
    more = f" (success {100 * found['success']:.0f})" if "success" in found else ""
    return f"{100 * found['accuracy']:.1f}{more}"


def tables(found: Mapping[str, Mapping[str, Any]], named: Sequence[str]) -> str:
    """Accuracies by column, and below them what clean adapters tell, where they were attacked."""
    parts = [markdown(("method", *named), [[m, *(cell(row[c]) for c in named)] for m, row in found.items()])]
    probed = {m: row["clean"] for m, row in found.items() if row.get("clean")}
    if probed:
        rows = [[m, *(f"{clean[p]:.2f}" for p in PROBES)] for m, clean in probed.items()]
        parts.append(markdown(("method", *PROBES), rows))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, return."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--methods", default=",".join(METHODS), help="comma separated")
    parser.add_argument(
        "--column", action="append", choices=tuple(columns()), help="a column; default: all of them"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    asked = parser.parse_intermixed_args(arguments)
    methods = asked.methods.split(",")
    wanted = {column: more for column, more in columns().items() if column in (asked.column or columns())}
    found: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for column, more in wanted.items():
        for method in methods:
            words = (f"method={method}", f"seed={asked.seed}", *asked.overrides, *more)
            with tempfile.TemporaryDirectory() as runs:
                found[method][column] = measure(words, Path(runs), column == "clean")
            say(f"{method}, {column}: {cell(found[method][column])} {found[method][column]}")
    print(tables(found, list(wanted)))
    result = {"found": found, "overrides": asked.overrides}
    if asked.json:
        print(json.dumps(plain(with_origin(result, seeds=[asked.seed]))))
    return result


if __name__ == "__main__":
    main()
