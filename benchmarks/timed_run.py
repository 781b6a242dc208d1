"""One run through the real driver, timed from outside in: what `scaling` and `peers` measure.

As a script (`python benchmarks/timed_run.py [--paced] [CONFIG] [key=value ...]`) it prints one JSON object; `measure`
starts it in a process of its own and watches the memory of that process and all its children. Paced, it also
prints each round's row as JSON when the round has ended, and waits for a line of input before the next.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.memory_watch import Watch
from dfl_ray.errors import InputError, RunError
from dfl_ray.tracking.progress import QuietProgress

PARTS = ("train", "plan", "exchange", "evaluate", "record")


class Stopwatch(QuietProgress):
    """Times the set-up steps and the end of every round; a `Progress` that shows nothing.

    Args:
        began: When the clock started, seconds since the epoch.
        pace: Called with every round's row after it ended; the next starts when it returns.
    """

    def __init__(self, began: float, pace: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.began = began
        self._pace = pace
        self.steps: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.ends: list[float] = []
        self.ready_s = 0.0
        self.processor_s = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one set-up step."""
        start = time.time()
        yield
        self.steps[name] = time.time() - start

    def update(self, row: Mapping[str, Any]) -> None:
        """A round ended."""
        self.processor_s = self.processor_s or _processor_s()
        self.ends.append(time.time() - self.began)
        self.rows.append(dict(row))
        if self._pace is not None:
            self._pace(row)


def run_here(
    arguments: Sequence[str], pace: Callable[[Mapping[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Run an experiment in this process and give its figures; times count from the process's own start.

    Args:
        arguments: Preset or config file if any, then `key=value` settings.
        pace: See `Stopwatch`.
    """
    from actors.forks import ForkServer

    with ForkServer() as server:  # as the command line does
        import psutil

        from dfl_ray.config.load import load_config

        watch = Stopwatch(psutil.Process().create_time(), pace)
        named = bool(arguments) and "=" not in arguments[0]
        with tempfile.TemporaryDirectory() as runs:
            quiet = ["track.wandb.mode=disabled", f"runtime.runs_dir={runs}"]
            config = load_config(
                arguments[0] if named else None, [*arguments[1 if named else 0 :], *quiet, "name=timed"]
            )
            watch.steps["imports"] = time.time() - watch.began
            memory, actors = _drive(config, runs, watch, server)
    return _figures(config, watch, memory, actors)


def _drive(config: Any, runs: str, watch: Stopwatch, server: Any) -> tuple[list[dict[str, int]], int]:
    from dfl_ray.config.load import resolved_yaml
    from dfl_ray.records import RunFolder
    from dfl_ray.simulation.building import built
    from dfl_ray.simulation.driver import Driver
    from dfl_ray.tracking.tracker import make_tracker

    with built(config, watch, server=server) as (experiment, hosts):
        folder = RunFolder.create(runs, "timed", resolved_yaml(config))
        try:
            with watch.step("actors"):
                backend: Any = hosts.ready()
            watch.ready_s = time.time() - watch.began
            tracker = make_tracker(config.track, name="timed", say=watch.say, verbose=False)
            Driver(experiment, backend, folder, tracker, watch).run()
            on_ray = config.runtime.backend == "ray"
            memory, actors = (backend.memory(), backend.actors) if on_ray else ([], 0)
            backend.close()
        finally:
            folder.close()
    return memory, actors


def _figures(config: Any, watch: Stopwatch, memory: list[dict[str, int]], actors: int) -> dict[str, Any]:
    split = {p: statistics.median(float(r.get(f"{p}_wall_s") or 0.0) for r in watch.rows) for p in PARTS}
    bare = [float(r["wall_s"]) - float(r.get("evaluate_wall_s") or 0.0) for r in watch.rows]
    steps = config.devices.count * config.method.local_steps
    return {
        "devices": config.devices.count,
        "rounds": config.rounds,
        "actors": actors,
        "start_up_s": watch.steps,
        "ready_s": watch.ready_s,
        "first_round_s": watch.ends[0],
        "first_round_processor_s": watch.processor_s,
        "round_s": [float(r["wall_s"]) for r in watch.rows],
        "round_without_evaluation_s": bare,
        "median_s": split,
        "overhead_fraction": statistics.median(float(r["overhead_fraction"]) for r in watch.rows),
        "object_store_bytes": statistics.median(float(r["object_store_bytes"]) for r in watch.rows),
        "device_step_s": split["train"] / steps,
        "device_steps_per_s": steps / statistics.median(bare[1:] or bare),
        "actor_private_mb": [m["private_bytes"] / 2**20 for m in memory],
        "actor_proportional_mb": [m["proportional_bytes"] / 2**20 for m in memory],
        "train_loss": [r.get("train_loss") for r in watch.rows],
    }


def _processor_s() -> float:
    """Processor time so far of this process and all that it has started and that live."""
    import psutil

    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(command: Sequence[str], *, timeout_s: float = 7200.0) -> dict[str, Any]:
    """Run a command whose last line is a JSON object, watching the memory of its whole process tree.

    Args:
        command: Program and arguments.
        timeout_s: Longest time it may take.

    Returns:
        Its object with `peak_mb` added: the largest sum of the processes' proportional shares of memory.

    Raises:
        RuntimeError: It failed or printed no object; the message holds the end of what it said.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(list(command), stdout=subprocess.PIPE, stderr=said, text=True)
        peak = PeakMemory(process.pid)
        try:
            out, _ = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
            peak.stop()
        said.seek(0)
        try:
            found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise RuntimeError(
                f"`{' '.join(command[:3])} ...` gave no figures: {said.read()[-800:]}"
            ) from None
    return found | {"peak_mb": peak.megabytes}


class PeakMemory(Watch):
    """Watches a process tree's memory from a thread; pages that several processes share count once.

    Args:
        pid: The root of the tree.
        every_s: Time between looks.
    """

    def __init__(self, pid: int, every_s: float = 1.0) -> None:
        self.megabytes, self._pid = 0.0, pid
        super().__init__(self._measure, every_s)

    def _measure(self) -> bool:
        import psutil

        try:
            root = psutil.Process(self._pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            return False
        self.megabytes = max(self.megabytes, sum(map(_share_mb, tree)))
        return True


def _share_mb(process: Any) -> float:
    import psutil

    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.Error:
        return 0.0


def show_and_wait(row: Mapping[str, Any]) -> None:
    """Print a round's wall times as JSON, then wait for a line of input."""
    print(json.dumps({k: v for k, v in row.items() if k.endswith("wall_s")}), flush=True)
    sys.stdin.readline()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit code, 2 for a wrong configuration."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--paced", action="store_true", help="print each round's row, then wait for a line of input"
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="setting",
        help="preset or configuration file if any, then key=value settings",
    )
    chosen = parser.parse_args(arguments)
    try:
        found = run_here(chosen.settings, show_and_wait if chosen.paced else None)
    except (InputError, RunError) as error:
        print(f"timed_run: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
