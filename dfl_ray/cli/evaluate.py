"""`dfl-ray evaluate RUN`: the accuracy of a run's saved state, asked once more."""

from __future__ import annotations

import argparse
import json

from dfl_ray.cli.common import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys of `evaluate`, e.g. evaluate.rules=[all]"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write all rows to a .csv or .parquet file")
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Evaluate, print the mean accuracy of each task by each rule, and write the rows where asked."""
    from dfl_ray.cli.commands import run_folder, silence, table_file, write_table

    folder = run_folder(options.run)
    output = table_file(options.output)
    silence(options.verbose)
    from dfl_ray.simulation.evaluate_again import evaluate_again
    from dfl_ray.tracking.progress import make_progress

    progress = make_progress(quiet=options.json)
    table = evaluate_again(folder, options.overrides, progress)
    means = table.groupby(["rule", "task"], sort=False)["accuracy"].mean()
    progress.say(f"after round {int(table['round'].iloc[0])}, mean accuracy over devices")
    for (rule, task), value in means.items():  # type: ignore[misc]
        progress.say(f"{rule:<16} {task:<16} {100 * value:5.1f} %")
    if output is not None:
        write_table(table, output)
        progress.say(f"Rows: {output}")
    if options.json:
        by_rule = {
            rule: part.groupby("task")["accuracy"].mean().to_dict() for rule, part in table.groupby("rule")
        }
        print(json.dumps({"run": str(folder), "round": int(table["round"].iloc[0]), "accuracy": by_rule}))
    return 0
