"""`dfl-ray export RUN OUT`: a device's model as a folder that PEFT or `transformers` reads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dfl_ray.cli.common import add_json

CONVERTER = "convert_hf_to_gguf.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("out", metavar="OUT", help="folder to make")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="where the run's inputs lie now, e.g. tasks.path=DIR or model.name=DIR",
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--device", type=int, default=0, metavar="N", help="whose model (default: 0)")
    whose.add_argument("--all", action="store_true", help="every device's, in OUT/device-0000 and so on")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--experts", action="store_true", help="one adapter a task, routing statistics and a loader"
    )
    form.add_argument(
        "--merged", action="store_true", help="a plain model folder with the adapter in its weights"
    )
    form.add_argument(
        "--gguf",
        nargs="?",
        const=CONVERTER,
        metavar="CONVERTER",
        help=f"a GGUF file, by llama.cpp's {CONVERTER}: its path, or none if it is in PATH",
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Write the folder or folders and say what they hold."""
    from dfl_ray.cli.commands import make_folder, run_folder, silence

    folder, out = run_folder(options.run, whole=True), Path(options.out).expanduser()
    silence(options.verbose)
    from dfl_ray.simulation.export_device import check_out, export_device, open_saved
    from dfl_ray.simulation.lengthen import only_places

    only_places("an export", options.overrides)
    if not options.all:
        check_out(out)
    make_folder(out if options.all else out.parent)
    run = open_saved(folder, options.overrides)
    devices = sorted(run.experiment.setup.held) if options.all else [options.device]
    for device in devices:
        place = out / f"device-{device:04d}" if options.all else out
        export_device(run, device, place, experts=options.experts, merged=options.merged, gguf=options.gguf)
        if not options.json:
            print(f"Model of device {device} after round {run.round_index}: {place}")
    if options.json:
        print(json.dumps({"run": str(folder), "out": str(out), "devices": devices, "round": run.round_index}))
    return 0
