"""Runs that benchmarks make, each in a folder of its own: finished ones are kept and read again.

A folder's name tells the arguments. A kept run is read only if the rows and weights that its arguments name are
still those it was made of; one made by other code is read and told. A run whose training diverged is not made again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison import Curve, Curves, curve_of
from dfl_ray.cli.commands import split_words
from dfl_ray.config.load import load_config, override_texts
from dfl_ray.config.schema import Config
from dfl_ray.errors import InputError
from dfl_ray.records.info import read_info
from dfl_ray.records.lock import acquire

ROOT = Path(__file__).resolve().parents[1]
BASE = ("runtime.backend=local", "track.wandb.mode=disabled", "evaluate.every=2", "checkpoint.every=10")
OTHER_COMMITS: set[str] = set()
"""Commits of the kept runs that this process has read and whose code is not today's."""
DIVERGED: set[str] = set()
"""Labels of which this process has seen a run that diverged, for what is told."""
_FOUND_LOCK = threading.Lock()
_FOUND: dict[str, Mapping[str, Any]] = {}
"""Tasks, model and seed as JSON -> their fingerprint."""


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        label: Method and settings, as asked for.
        seed: Seed.
        arguments: What `dfl-ray run` is given besides name and folder.
        path: The run folder.
    """

    label: str
    seed: int
    arguments: tuple[str, ...]
    path: Path


def make_job(label: str, seed: int, preset: str | None, overrides: Sequence[str], folder: Path) -> Job:
    """The run of one method and seed; its folder's name tells it from runs with other settings."""
    from dfl_ray.methods.table import METHODS

    method = label.split(":")[0]
    every_rule = ["evaluate.rules=[all]"] if len(METHODS[method].spec.rules) > 1 else []
    named, *settings = settings_of(label)
    arguments = (
        *([preset] if preset else []), *BASE, *every_rule, named, *overrides, *settings, f"seed={seed}",
    )  # fmt: skip
    digest = hashlib.blake2b("\n".join(arguments).encode(), digest_size=4).hexdigest()
    return Job(label, seed, arguments, folder / f"{method}-s{seed}-{digest}")


def settings_of(label: str) -> list[str]:
    """A label as settings of the command line: `dlora:precision=int8` is `method=dlora method.precision=int8`."""
    method, *settings = label.split(":")
    own = (s if "." in s.split("=")[0] or s.startswith("rounds=") else f"method.{s}" for s in settings)
    return [f"method={method}", *own]


def state_of(path: Path) -> str | None:
    """State of a run folder, None where there is none."""
    return _info(path).get("state")


def diverged(path: Path) -> bool:
    """Whether a run folder holds a run whose training diverged."""
    info = _info(path)
    return info.get("state") == "failed" and "diverged" in str(info.get("failed_by"))


def _info(path: Path) -> dict[str, Any]:
    info = path / "run.json"
    return read_info(info) if info.is_file() else {}


def carry_out(job: Job) -> None:
    """Make one run, in a process of its own, unless it is there already.

    Raises:
        RuntimeError: It failed, now or, where training diverged, before.
        InputError: Another process is making it, or it is there and was made of other rows or weights.
    """
    if _kept(job):
        return
    checkpoints = job.path / "checkpoints"
    began = time.perf_counter()
    if state_of(job.path) is not None and checkpoints.is_dir() and any(checkpoints.iterdir()):
        command = ["resume", str(job.path)]
    else:
        shutil.rmtree(job.path, ignore_errors=True)
        own = override_texts({"name": job.path.name, "runtime.runs_dir": job.path.parent})
        command = ["run", *job.arguments, *own]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "dfl_ray", *command, "--json"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{job.label}, seed {job.seed}, failed:\n{(done.stderr or done.stdout)[-2000:]}")
    say(f"{job.label} seed {job.seed}: {time.perf_counter() - began:.0f} s")


def carry_out_here(job: Job) -> None:
    """Make one run in this process unless it is there already: for many short runs, which start-up would dominate.

    Raises and keeps what `carry_out` does.
    """
    from dfl_ray.simulation.launch import launch

    if _kept(job):
        return
    shutil.rmtree(job.path, ignore_errors=True)
    began_s = time.process_time()
    own = override_texts(
        {"name": job.path.name, "runtime.runs_dir": job.path.parent, "runtime.report": False}
    )
    launch(_config_of([*job.arguments, *own]), json=True)
    say(f"{job.path.name}: {time.process_time() - began_s:.1f} s of CPU time")


def _kept(job: Job) -> bool:
    """Whether a run is there and done. One that another process writes to, or that diverged, is refused."""
    failed = diverged(job.path)
    if failed or state_of(job.path) == "done":
        _refuse_other_inputs(job)
    elif job.path.is_dir():
        acquire(job.path).release()
    if failed:
        why, again = _info(job.path)["failed_by"], f"Remove {job.path} to try it again."
        raise RuntimeError(f"{job.label}, seed {job.seed}, failed:\n{why} {again}")
    return state_of(job.path) == "done"


def _refuse_other_inputs(job: Job) -> None:
    """Refuse a kept run of other rows or weights than its arguments name now, and tell one of other code."""
    from dfl_ray.simulation.fingerprint import KEY, refuse_changed_inputs

    info, now = _info(job.path), inputs_now(job.arguments)
    try:
        refuse_changed_inputs(job.path, info, now, goes_on=False)
    except InputError as error:
        again = f"Restore them, remove {job.path} to make the run anew, or give another --folder."
        raise InputError(
            "A run kept from before cannot be read.", got=error.got, expected="the rows and weights of now",
            change=again,
        ) from error  # fmt: skip
    commit = (info.get("git") or {}).get("commit") or "unknown"
    if KEY in info and info[KEY]["code"] != now["code"] and commit not in OTHER_COMMITS:
        OTHER_COMMITS.add(commit)
        say(f"{job.path.name} and maybe others are kept from other code, commit {commit}.")


def inputs_now(arguments: Sequence[str]) -> Mapping[str, Any]:
    """The fingerprint of what a run's arguments name now; rows and weights are read once for the same sections."""
    from dfl_ray.simulation.experiment import build_experiment
    from dfl_ray.simulation.fingerprint import file_digests, fingerprint

    config = _config_of(arguments)
    named = config.model_dump_json(include={"tasks", "model", "seed"})
    with _FOUND_LOCK:
        if named not in _FOUND:
            _FOUND[named] = fingerprint(build_experiment(config))
    return {**_FOUND[named], "files": file_digests(config)}


def _config_of(arguments: Sequence[str]) -> Config:
    """What `dfl-ray run` would run of the same words."""
    source, words = split_words(arguments)
    return load_config(source, words)


def say(text: str) -> None:
    """A line for people, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def run_all(
    jobs: Sequence[Job], workers: int, needed: Sequence[str] = (), *, keep_rest: bool = False
) -> Curves:
    """Make what is missing, `workers` processes at a time, and read all runs.

    Args:
        jobs: The runs.
        workers: How many at a time.
        needed: Labels without which there is nothing to compare.
        keep_rest: Whether to give the other seeds of a label of which a run diverged.

    Returns:
        Curves of all labels but those of which a run diverged, which are told: a mean over the rest would flatter.

    Raises:
        SystemExit: Runs failed otherwise, or of a needed label; raised when all others are made.
    """
    with ThreadPoolExecutor(workers) as pool:
        tried = [(job, pool.submit(carry_out, job)) for job in jobs]
    failed = [(job, error) for job, future in tried if (error := future.exception())]
    ends = [
        str(error)
        for job, error in failed
        if isinstance(error, InputError) or not diverged(job.path) or job.label in needed
    ]
    if ends:
        raise SystemExit("\n".join([*ends, "What is done is kept; the same command makes what is missing."]))
    bad, then = {job.label for job, _ in failed}, "" if keep_rest else " and is left out of all tables"
    DIVERGED.update(bad)
    for job, _ in failed:
        say(f"{job.label} diverged with seed {job.seed}{then}.")
    curves: dict[str, dict[int, Curve]] = {}
    for job in jobs:
        if job.label not in bad or (keep_rest and not diverged(job.path)):
            curves.setdefault(job.label, {})[job.seed] = curve_of(job.path, job.label)
    return curves
