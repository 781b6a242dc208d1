"""`dfl-ray verify RUN`: whether a run folder is whole."""

from __future__ import annotations

import argparse
import json

from dfl_ray.cli.common import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Check every file, and print what is wrong and how much was looked at; 0 if all is whole, else 2."""
    from dfl_ray.records.remote import folder_at
    from dfl_ray.simulation.verify import verify

    folder = folder_at(options.run)
    found = verify(folder)
    for problem in found.problems:
        print(problem)
    state = f"{len(found.problems)} problems" if found.problems else "whole"
    print(
        f"{folder}: {state}; {found.files} files with checksums, {found.rounds} rounds, "
        f"{found.checkpoints} checkpoints"
    )
    if options.json:
        print(json.dumps({"run": str(folder), "whole": not found.problems, "problems": list(found.problems)}))
    return 2 if found.problems else 0
