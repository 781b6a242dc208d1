"""`dfl-ray evaluate RUN`: a run's saved state asked once more, by our rules or lm-eval's tasks; or attacked."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dfl_ray.cli.common import add_json
from dfl_ray.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="keys of `evaluate`, e.g. evaluate.rules=[all], and where the run's inputs lie now, e.g. tasks.path=DIR",
    )
    parser.add_argument(
        "--harness",
        nargs="+",
        metavar="NAME=VALUE",
        help="ask lm-evaluation-harness: tasks=a,b; and include=DIR with task files, num_fewshot, limit, batch_size",
    )
    parser.add_argument(
        "--device", type=int, metavar="N", help="--harness: one device's model (default: all)"
    )
    parser.add_argument("--experts", action="store_true", help="--harness: each task's expert alone")
    parser.add_argument(
        "--privacy",
        action="store_true",
        help="attack the adapters instead: which rows were trained on, which tokens a gradient or a round tells",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write all rows to a .csv or .parquet file")
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Evaluate, print the mean of each figure over the devices, and write the rows where asked."""
    from dfl_ray.cli.commands import run_folder, silence, table_file

    folder = run_folder(options.run, whole=True)
    output = table_file(options.output)
    silence(options.verbose)
    if options.privacy:
        return _attacked(folder, options, output)
    return _by_harness(folder, options, output) if options.harness else _by_rules(folder, options, output)


def _by_rules(folder: Path, options: argparse.Namespace, output: Path | None) -> int:
    if options.device is not None or options.experts:
        raise InputError("--device and --experts go with --harness", change="Add --harness tasks=NAME.")
    from dfl_ray.cli.commands import print_json, progress_and_answer, write_table
    from dfl_ray.simulation.evaluate_again import evaluate_again

    progress, tell = progress_and_answer(options)
    table = evaluate_again(folder, options.overrides, progress)
    if table.empty:
        raise InputError(
            f"Nobody is there to be asked in the run {folder}",
            got="devices that are faulty, off or without energy in its newest saved round",
            expected="an honest device that takes part in it",
        )
    means = table.groupby(["rule", "task"], sort=False)["accuracy"].mean()
    tell(f"after round {int(table['round'].iloc[0])}, mean accuracy over {table['device'].nunique()} devices")
    for (rule, task), value in means.items():  # type: ignore[misc]
        tell(f"{rule:<16} {task:<16} {100 * value:5.1f} %")
    if output is not None:
        write_table(table, output)
        tell(f"Rows: {output}")
    if options.json:
        by_rule = {
            rule: part.groupby("task")["accuracy"].mean().to_dict() for rule, part in table.groupby("rule")
        }
        print_json({"run": str(folder), "round": int(table["round"].iloc[0]), "accuracy": by_rule})
    return 0


def _attacked(folder: Path, options: argparse.Namespace, output: Path | None) -> int:
    if options.harness or options.device is not None or options.experts:
        raise InputError(
            "--privacy goes alone",
            got="--harness, --device or --experts",
            expected="RUN --privacy",
        )
    from dfl_ray.cli.commands import print_json, progress_and_answer, write_table
    from dfl_ray.simulation.export_device import open_saved
    from dfl_ray.simulation.lengthen import only_places
    from dfl_ray.simulation.privacy_probe import probe_privacy

    only_places("--privacy", options.overrides)
    _, tell = progress_and_answer(options)
    run = open_saved(folder, options.overrides)
    table = probe_privacy(run)
    means = {str(name): float(value) for name, value in table.iloc[:, 2:].mean().items()}
    tell(f"after round {run.round_index}, area under the ROC curve of each attack; 0.5 is guessing")
    for name, value in means.items():
        tell(f"{name:<16} {value:5.3f}")
    if output is not None:
        write_table(table, output)
        tell(f"Rows: {output}")
    if options.json:
        told = {name: None if value != value else value for name, value in means.items()}
        print_json({"run": str(folder), "round": run.round_index, "privacy": told})
    return 0


def _by_harness(folder: Path, options: argparse.Namespace, output: Path | None) -> int:
    from dfl_ray.simulation.harness import harness_settings
    from dfl_ray.simulation.lengthen import only_places

    only_places("--harness", options.overrides)
    settings = harness_settings(options.harness)
    from dfl_ray.cli.commands import print_json, progress_and_answer, write_table
    from dfl_ray.simulation.export_device import open_saved
    from dfl_ray.simulation.harness import evaluate_with_harness

    progress, tell = progress_and_answer(options)
    run = open_saved(folder, options.overrides)
    devices = sorted(run.experiment.setup.held) if options.device is None else [options.device]
    table = evaluate_with_harness(run, settings, progress, devices=devices, experts=options.experts)
    shown = table.groupby(["expert", "task", "metric", "filter"], sort=False)["value"].mean()
    of = f"device {options.device}" if options.device is not None else f"{len(devices)} devices, mean"
    tell(f"after round {run.round_index}, {of}")
    for (expert, task, metric, kind), value in shown.items():  # type: ignore[misc]
        words = f"{task} {metric}" + ("" if kind == "none" else f" ({kind})")
        tell(f"{words:<40} {value:10.4f}" + (f"   expert of {expert}" if expert else ""))
    if output is not None:
        write_table(table, output)
        tell(f"Rows: {output}")
    if options.json:
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        print_json({"run": str(folder), "round": run.round_index, "harness": rows})
    return 0
