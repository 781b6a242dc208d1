"""What each command does. Heavy imports stand inside the functions: a command pays for what it uses."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from dfl_ray.config.schema import Config
    from dfl_ray.tracking.progress import Progress


def run(options: argparse.Namespace) -> int:
    """`dfl-ray run`: load and check the configuration, then launch it.

    The process that actors are forks of is started before anything else, unless the words say that none are needed: it
    imports what they need meanwhile.
    """
    from actors.forks import ForkServer

    if options.resume:
        from dfl_ray.cli.again import begun

        found = begun(load(options.words), options.words)
        if found is not None:
            return 0 if found.overrides is None else resume(_of_run(found.folder, found.overrides, options))
    with nullcontext() if _local(options.words) else ForkServer(verbose=options.verbose) as server:
        from dfl_ray.config.check import check_inputs

        config = load(options.words)
        check_inputs(config)
        silence(options.verbose)
        from dfl_ray.simulation.launch import launch

        outcome = launch(
            config, verbose=options.verbose, json=options.json, quiet=options.quiet, server=server
        )
        return _finish(outcome, options.json)


def _local(words: Iterable[str], before: str = "") -> bool:
    """Whether the last word on the backend, or the line of a run's `config.yaml`, says that no actors are needed."""
    said = [w.partition("=")[2] for w in words if w.startswith("runtime.backend=")]
    return (said or [before])[-1] == "local"


def _backend_of(folder: Path) -> str:
    """The backend that a run was begun with, as its `config.yaml` says; read without the time that checks take."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # whoever loads it says what is wrong with it
    return text.partition("\n  backend: ")[2].partition(" ")[0].partition("\n")[0]


def _of_run(folder: Path, overrides: list[str], options: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(
        run=str(folder),
        overrides=overrides,
        verbose=options.verbose,
        json=options.json,
        quiet=options.quiet,
        changed=False,
    )


def resume(options: argparse.Namespace) -> int:
    """`dfl-ray resume`: go on with a run from its newest checkpoint."""
    from actors.forks import ForkServer

    folder = run_folder(options.run, whole=True)
    local = _local(options.overrides, _backend_of(folder))
    with nullcontext() if local else ForkServer(verbose=options.verbose) as server:
        silence(options.verbose)
        from dfl_ray.simulation.launch import resume as resume_run

        outcome = resume_run(
            folder,
            options.overrides,
            verbose=options.verbose,
            json=options.json,
            quiet=options.quiet,
            changed=options.changed,
            server=server,
        )
        return _finish(outcome, options.json)


def report(options: argparse.Namespace) -> int:
    """`dfl-ray report`: write the HTML report of one run or of several compared."""
    folders = run_folders(options.runs)
    one = folders[0] / "report.html" if len(folders) == 1 else folders[0].parent / "comparison.html"
    output = output_file(options.output or one, (".html", ".htm"))
    silence(options.verbose)
    from dfl_ray.views.report import write_report

    written = write_report(folders, output)
    print(f"Report: {written}")
    if options.json:
        print_json({"report": str(written), "runs": [str(folder) for folder in folders]})
    return 0


def presets(options: argparse.Namespace) -> int:
    """`dfl-ray presets`: what each preset is."""
    del options
    from dfl_ray.config.presets import preset_names, preset_summary
    from dfl_ray.tracking.terminal import columns, named

    rows = [(name, preset_summary(name)) for name in preset_names()]
    print("\n".join(named(rows, columns())))
    return 0


def config(options: argparse.Namespace) -> int:
    """`dfl-ray config`: what differs from the defaults as commented YAML, or with `--all` every key."""
    from dfl_ray.config.describe import describe

    print(describe(load(options.words), changed_only=not options.all), end="")
    return 0


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the configuration (the first word without `=`) from the overrides (all other words)."""
    source = next((word for word in words if "=" not in word), None)
    rest = list(words)
    if source is not None:
        rest.remove(source)
    return source, rest


def load(words: Sequence[str]) -> Config:
    """The configuration that the words name; what a switched type drops is told."""
    from dfl_ray.config.load import load_config

    source, overrides = split_words(words)
    return load_config(source, overrides, say=lambda text: print(f"dfl-ray: {text}", file=sys.stderr))


def run_folder(text: str, *, whole: bool = False) -> Path:
    """The folder of a run that is named on the command line; refused if it is none.

    A URL is fetched first, with `whole` its checkpoints too.
    """
    from dfl_ray.errors import InputError

    if "://" in text:
        from dfl_ray.records.remote import fetched

        return fetched(text, whole=whole)

    folder = Path(text).expanduser()
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"`{text}` is not a run", got=_kind_of(folder), expected="a run folder, e.g. runs/NAME"
        )
    return folder


def run_folders(texts: Sequence[str]) -> list[Path]:
    """The folders of runs that are named on the command line; of a folder of runs all that are in it, by name.

    Of several words those that are there and hold no run are left out, and it is told: what `runs/*` names beside runs.

    Raises:
        InputError: A word names nothing, or none holds a run.
    """
    from dfl_ray.errors import InputError, tell
    from dfl_ray.records.states import find_runs

    found: list[Path] = []
    for text in texts:
        folder = Path(text).expanduser()
        if "://" in text or (folder / "config.yaml").is_file():
            found.append(run_folder(text))
        elif inside := sorted(find_runs(folder)):
            found += inside
        elif len(texts) > 1 and folder.exists():
            tell(f"dfl-ray: `{text}` is left out: {_kind_of(folder)}")
        else:
            run_folder(text)
    if not found:
        raise InputError(
            "None of these is a run", got=", ".join(texts), expected="run folders, e.g. runs/NAME"
        )
    return found


def _kind_of(path: Path) -> str:
    """What a path is that is no run."""
    if path.is_dir():
        return "a folder without config.yaml"
    return "a file" if path.exists() else "no such folder"


def watched(text: str) -> Path:
    """The folder whose runs are watched while they go on; a URL is refused, since its copy has no sign of life."""
    from dfl_ray.errors import InputError

    if "://" in text:
        raise InputError(
            f"`{text}` cannot be watched",
            got="a URL, which holds copies of runs as of their last checkpoints",
            expected="a folder",
            change="Watch the working folder on the machine that runs them (~/.cache/dfl-ray/runs), or read a copy "
            "with `dfl-ray report URL`.",
        )
    return Path(text).expanduser()


TABLES = (".csv", ".parquet")
"""Endings of the files that tables are written to."""


def table_file(name: str | None) -> Path | None:
    """The file that `-o` names for a table; see `output_file`."""
    return output_file(name, TABLES) if name else None


def output_file(name: str | Path, endings: Sequence[str]) -> Path:
    """The file that `-o` names, the folder it lies in made; asked for before the work, whose result would be lost.

    Args:
        name: Its path, as it is given.
        endings: What its name may end in: that form is written.

    Raises:
        InputError: Another ending, a folder, a file that may not be written, or a place where none can be made.
    """
    from dfl_ray.errors import InputError

    path = Path(name).expanduser()
    if os.path.isdir(path):
        raise InputError(
            f"`-o {name}` cannot be written",
            got="a folder",
            expected="the name of a file",
            change="Name a file in it.",
        )
    if path.suffix not in endings:
        one_of = " or ".join([", ".join(endings[:-1]), endings[-1]] if len(endings) > 1 else endings)
        raise InputError(
            f"`{name}` cannot be written", got=_ending(path), expected=f"a name that ends in {one_of}"
        )
    if not os.path.exists(path):
        make_folder(path.parent)
    problem = _problem_of(path)
    if problem:
        raise InputError(
            f"`-o {name}` cannot be written",
            got=problem,
            expected="a new file, or one that you may write to",
            change="Give another name.",
        )
    return path


def _ending(path: Path) -> str:
    return f"the ending {path.suffix}" if path.suffix else "no ending"


def _problem_of(path: Path) -> str:
    """Why a file in a folder that can be written to cannot; empty where it can."""
    try:
        path.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:  # such as a name that is too long
        return error.strerror or str(error)
    return "" if os.access(path, os.W_OK) or path.is_symlink() else "a file that may not be written"


def make_folder(path: Path) -> None:
    """Make a folder that something is written to, and those above it; refused where it cannot be."""
    from dfl_ray.errors import InputError

    try:
        path.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(path, os.W_OK | os.X_OK) else "where nothing may be written"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise InputError(
            f"Nothing can be written to the folder `{path}`",
            got=problem,
            expected="a folder that you may write to, or a place where one can be made",
            change="Give another one, or mend this one.",
        )


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as its file's ending says."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)


def silence(verbose: bool) -> None:
    """Keep libraries from talking, unless asked to let them."""
    if not verbose:
        from dfl_ray.cli.quiet import silence_libraries

        silence_libraries()


def _finish(outcome: Any, as_json: bool) -> int:
    if as_json:
        print_json({"run": str(outcome.folder), **outcome.summary})
    return 0


def progress_and_answer(options: argparse.Namespace) -> tuple[Progress, Callable[[str], None]]:
    """The progress, silent under `-q` and `--json`, and what prints the answer, silent under `--json` alone."""
    from dfl_ray.tracking.progress import make_progress

    progress = make_progress(quiet=options.json or options.quiet)
    return progress, progress.say if options.json or not options.quiet else make_progress().say


def print_json(record: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own."""
    sys.stdout.flush()
    print(json.dumps(record, default=_number), flush=True)


def _number(value: Any) -> Any:
    """NumPy scalars as Python numbers, all else as text."""
    return value.item() if hasattr(value, "item") else str(value)
