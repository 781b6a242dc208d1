"""`dfl-ray sweep CONFIG key=a,b,c seeds=5`: many runs, compared seed by seed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dfl_ray.cli.common import add_json
from dfl_ray.errors import tell, way_on_told
from dfl_ray.tracking.terminal import broken, columns

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.simulation.sweep import Trial


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="CONFIG key=a,b,c",
        help="a preset's name or a YAML file, overrides, keys with several values, seeds=N, samples=N",
    )
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Check every run's configuration, run what is not done, and compare."""
    from dfl_ray.cli.commands import silence
    from dfl_ray.simulation import sweep

    folder, trials, configs = _runs(options.words)
    silence(options.verbose)
    _check_rows(folder, configs)
    from actors.sweep import run_trials
    from dfl_ray.tracking.console import LastingConsole
    from dfl_ray.views.report import write_report

    console = LastingConsole(quiet=options.json or options.quiet)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)

    for line in sweep.point_lines(trials):
        say(line)
    folder.mkdir(parents=True, exist_ok=True)
    same_words = f"the same words and name={folder.name}"
    with way_on_told(f"Go on with {same_words}"):
        failed = run_trials(folder, configs, say)
    found = sweep.done_summaries(folder, trials)
    rows = sweep.summary_rows(trials, found)
    (folder / "summary.json").write_text(json.dumps({"rows": rows, "failed": failed}, indent=1))
    for line in sweep.summary_lines(rows):
        say("\n".join(broken(line, columns(), rest="    ")))
    for why in dict.fromkeys(failed.values()):
        of = ", ".join(trial for trial, reason in failed.items() if reason == why)
        (tell if options.quiet else say)(f"failed: {of}: {why}")
    if found:
        say(f"Report: {write_report([folder / run for run in found], folder / 'comparison.html')}")
    if failed:
        say(f"Try the failed ones again with {same_words}")
    if options.json:
        print(json.dumps({"sweep": str(folder), "rows": rows, "failed": failed}))
    return 1 if failed else 0


def _runs(given: Sequence[str]) -> tuple[Path, list[Trial], list[Config]]:
    """The sweep's folder, its runs, and their configurations, all of them checked."""
    from dfl_ray.cli.commands import split_words
    from dfl_ray.config.check import check_inputs
    from dfl_ray.config.load import load_config, override_texts
    from dfl_ray.config.locations import with_absolute_paths
    from dfl_ray.simulation import sweep

    source, words = split_words(given)
    fixed, grid, own = sweep.split_words(words)
    told: dict[str, None] = {}
    base = load_config(source, fixed, say=told.setdefault)
    trials = sweep.make_trials(
        grid, seeds=own.get("seeds", 1), samples=own.get("samples"), first_seed=base.seed
    )
    folder = _folder(base)
    common = override_texts({"runtime.runs_dir": folder, "runtime.backend": "local"})
    there = {file.parent.name for file in folder.glob("*/run.json")}
    configs: list[Config] = []
    for number, trial in enumerate(trials):
        own_words = override_texts({"seed": trial.seed, "name": trial.name})
        config = load_config(source, [*fixed, *common, *trial.point, *own_words], say=told.setdefault)
        check_inputs(config)
        config = _as_begun(folder, there, trial, with_absolute_paths(_grouped(config, folder.name)))
        configs.append(config)
        trials[number] = replace(trial, name=str(config.name))
        there.discard(str(config.name))
        _same_as_begun(folder / str(config.name), config, told.setdefault)
    if there:
        told.setdefault(
            f"Runs in {folder} that are none of these and are not compared: {_some(sorted(there))}"
        )
    for note in told:
        tell(f"dfl-ray: {note}")
    return folder, trials, configs


def _folder(base: Config) -> Path:
    """The folder of a sweep, checked; its name is the sweep's."""
    from dfl_ray.errors import InputError
    from dfl_ray.records.folder_checks import check_free_for_sweep

    if "://" in base.runtime.runs_dir:
        raise InputError(
            "A sweep lies on a file system", got=f"runtime.runs_dir: {base.runtime.runs_dir}",
            change="Give a folder that all its trials reach, such as a shared volume.",
        )  # fmt: skip
    name = base.name or f"sweep-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(base.runtime.runs_dir).absolute() / name
    check_free_for_sweep(folder)
    return folder


def _as_begun(folder: Path, there: Iterable[str], trial: Trial, config: Config) -> Config:
    """A run's configuration with the name under which it has begun, which may be that of a grid of other points."""
    from dfl_ray.errors import InputError
    from dfl_ray.simulation.lengthen import same_experiment
    from dfl_ray.simulation.resuming import own_config
    from dfl_ray.simulation.sweep import of_same_words

    for name in of_same_words(there, trial):
        found = config.model_copy(update={"name": name})
        with suppress(InputError):  # of its own name it is told later
            same_experiment(own_config(folder / name), found, folder / name)
            return found
    return config


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_rows(folder: Path, configs: Sequence[Config]) -> None:
    """Read the rows of runs that are not done, each set once, so that what is wrong with them is told before any."""
    from dfl_ray.simulation.sweep import is_done
    from dfl_ray.tasks.load import read_tasks

    waiting = [config for config in configs if not is_done(folder / str(config.name), config.rounds)]
    for config in {(c.tasks.model_dump_json(), c.devices.model_dump_json()): c for c in waiting}.values():
        read_tasks(config)


def _same_as_begun(folder: Path, config: Config, say: Callable[[str], object]) -> None:
    """Refuse a sweep under the name of another: a run of it that has begun must be the same experiment, or shorter.

    One that is done must have been measured alike; one that is not goes on as the sweep says, and it is told.
    """
    from dfl_ray.errors import InputError
    from dfl_ray.simulation.lengthen import measured_otherwise, same_experiment
    from dfl_ray.simulation.resuming import own_config
    from dfl_ray.simulation.sweep import is_done

    if not (folder / "run.json").is_file():
        return
    own = own_config(folder)
    same_experiment(own, config, folder)
    if config.rounds < own.rounds:
        raise InputError(
            f"The run {folder} is longer than this sweep", got=f"rounds={config.rounds}, and {own.rounds} there",
            expected="at least as many rounds as its runs have", change="Give another `name`.",
        )  # fmt: skip
    other = measured_otherwise(own, config)
    if other and is_done(folder, config.rounds):
        raise InputError(
            f"The run {folder} is done and was measured otherwise than this sweep", got=f"{', '.join(other)} there",
            expected="runs alike in `evaluate` and `stop`, since their results are averaged and compared",
            change="Say these keys as that run has them, or give another `name`.",
        )  # fmt: skip
    if other:
        say(f"{folder.name} has begun and goes on with {', '.join(other)}")


def _grouped(config: Config, name: str) -> Config:
    """The same run in the W&B group that was asked for, else in the sweep's."""
    wandb = config.track.wandb.model_copy(update={"group": config.track.wandb.group or name})
    return config.model_copy(update={"track": config.track.model_copy(update={"wandb": wandb})})
