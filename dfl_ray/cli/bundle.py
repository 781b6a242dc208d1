"""`dfl-ray bundle RUN` and `dfl-ray replay BUNDLE`: a run that others can check."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from dfl_ray.cli.common import add_json


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bundle`."""
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="archive to write (default: RUN.zip, here for a URL)"
    )
    add_json(parser)


def bundle(options: argparse.Namespace) -> int:
    """Write the archive and say where it is."""
    from dfl_ray.cli.commands import output_file, run_folder
    from dfl_ray.records.bundle import foreign, write_bundle
    from dfl_ray.records.remote import is_remote

    folder = run_folder(options.run)
    named = folder.resolve() if folder.name in ("", "..") else folder
    # What a URL holds is worked on in a cache, where nobody would look for the archive.
    beside = Path() if is_remote(options.run) else named.parent
    out = output_file(options.output or beside / f"{named.name}.zip", (".zip",))
    _refuse_changed(folder)
    left_out = foreign(folder)
    files = write_bundle(folder, out)
    print(f"Bundle: {out} ({files} files, {out.stat().st_size / 1e6:.2f} MB)")
    if left_out:
        print(f"Left out, since the run did not write it: {', '.join(left_out)}")
    if options.json:
        print(json.dumps({"run": str(folder), "bundle": str(out), "files": files, "left_out": left_out}))
    return 0


def _refuse_changed(folder: Path) -> None:
    """Refuse a run whose configuration was changed; one that needs packages which are missing is not compared."""
    from dfl_ray.errors import InputError
    from dfl_ray.records.folder_checks import check_run_folder
    from dfl_ray.simulation.fingerprint import refuse_changed_config
    from dfl_ray.simulation.resuming import missing_packages, own_config

    info = check_run_folder(folder)
    try:
        own = own_config(folder)
    except InputError:
        if not (missing := missing_packages(folder)):
            raise
        print(f"Not compared with what the run began with: its configuration needs {missing}.")
        return
    refuse_changed_config(folder, info, own)


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `replay`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="archive that `dfl-ray bundle` wrote")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="where things lie here: model.name, tasks.path, devices.partition.path and the like, keys of runtime",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="keep the new run in this folder")
    add_json(parser)


def replay(options: argparse.Namespace) -> int:
    """Run it again and say whether it is the same; 0 if equal or close, 1 if different."""
    from dfl_ray.cli.commands import make_folder, silence
    from dfl_ray.errors import Interrupted
    from dfl_ray.records import load_run
    from dfl_ray.records.bundle import open_bundle

    kept = Path(options.output).expanduser() if options.output else None
    if kept is not None:
        make_folder(kept)
    with TemporaryDirectory() as place:
        was = load_run(open_bundle(Path(options.bundle).expanduser(), Path(place) / "was"))
        silence(options.verbose)
        from dfl_ray.simulation import replay as again
        from dfl_ray.simulation.library import run

        runs_dir = Path(place) / "runs" if kept is None else kept
        config = again.replay_config(was.path, options.overrides, runs_dir, report=kept is not None)
        try:
            now = run(config, progress=not (options.quiet or options.json), verbose=options.verbose)
        except (Interrupted, KeyboardInterrupt) as error:
            if kept is not None:
                raise
            raise Interrupted(
                "Interrupted. The new run was not kept; start it again, with -o FOLDER to keep it."
            ) from error
        found = again.compare(was, now)
    for line in found.circumstances:
        print(f"not as it was: {line}")
    if found.verdict == "equal":
        print("Replay: bit for bit equal")
    else:
        allowed = f"tolerance {again.TOLERANCE:g} of a figure, {again.ROWS} answers of an accuracy"
        print(
            f"Replay: {found.verdict} (largest difference {found.worst:.3g}; {allowed}); first: {found.first}"
        )
    if options.json:
        record = {"verdict": found.verdict, "first": found.first, "worst": found.worst}
        print(json.dumps(record | {"circumstances": list(found.circumstances)}))
    return 1 if found.verdict == "different" else 0
