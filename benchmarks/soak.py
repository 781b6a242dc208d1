"""Does anything grow with the rounds? Memory, handles, threads, time a round, files and bytes of a long run.

`python benchmarks/soak.py` runs 1,000 rounds of 20 tiny devices in one process; `--backend ray` has them in actors of
five. After every `--every` rounds each process of the run is looked at, and the run folder is counted. For each
figure it prints the mean over the first and the last fifth of the looks, the first tenth left out, and the slope of a
straight line through all looks but those: what 1,000 rounds add, with its standard error. Time is the processor time
of the run's processes (others on the machine do not count) since the look before, but for rounds that are evaluated.
Then come files and bytes of the run folder, how long its report and the first pages of the dashboard take, and, with
`--json`, all of it.

A figure is called flat where what 1,000 rounds add is below 2 % of its mean or below two standard errors. What a
record needs grows with the rounds, and is not asked to be flat; the number of its files is.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil

from benchmarks.result import with_origin
from dfl_ray.config.load import load_config
from dfl_ray.simulation.launch import launch

SETTING = (
    "devices.count=20", "devices.partition.tasks_per_device=1", "devices.partition.min_holders=2", "name=soak",
    "tasks.names=[topic,agree]", "tasks.train_rows=200", "tasks.test_rows=40", "method.local_steps=1",
    "method.batch_rows=2", "evaluate.every=50", "evaluate.rows_per_task=2", "track.trackers=[]",
    "runtime.report=false", "checkpoint.every=1",
)  # fmt: skip
FLAT = 0.02
"""Share of its mean that a flat figure gains at most in 1,000 rounds."""
ROLES = {
    "ray::DeviceActor": "actors",
    "ray::ChannelActor": "channel",
    "gcs_server": "gcs_server",
    "raylet": "raylet",
}


class Watch:
    """Looks at the run's processes and folder while it goes on.

    Args:
        every: Rounds between two looks.
        evaluated: Rounds between two evaluations.
    """

    def __init__(self, every: int, evaluated: int) -> None:
        self._every, self._evaluated = every, evaluated
        self._round = 0
        self._spent = (0, 0.0, time.perf_counter())
        self.figures: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def __call__(self, folder: Path) -> bool:
        """A round has ended; see `launch`."""
        self._round += 1
        if self._round % self._every == 0:
            for name, value in self._look(folder).items():
                self.figures[name].append((self._round, value))
        if self._round % self._every == 0 or self._round % self._evaluated == 0:
            self._spent = (self._round, _processor_s(_processes()), time.perf_counter())
        return False

    def _look(self, folder: Path) -> dict[str, float]:
        processes = _processes()
        began, before_s, wall = self._spent
        rounds = self._round - began
        found: dict[str, float] = defaultdict(float)
        if self._round % self._evaluated:
            found["processor ms a round"] = 1e3 * (_processor_s(processes) - before_s) / rounds
            found["wall ms a round"] = 1e3 * (time.perf_counter() - wall) / rounds
        for role, process in processes:
            found[f"{role}: private MB"] += process.memory_full_info().uss / 2**20
            found[f"{role}: handles"] += process.num_fds()
            found[f"{role}: threads"] += process.num_threads()
        if "raylet: handles" in found:
            found["object store: MB"], found["object store: objects"] = _object_store()
        for part in ("checkpoints", "records"):
            files = [
                p
                for p in _files(folder)
                if (p.relative_to(folder).parts[0] == "checkpoints") == (part == "checkpoints")
            ]
            found[f"{part}: files"] = len(files)
            found[f"{part}: MB"] = sum(p.stat().st_size for p in files) / 2**20
        return found


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


def _processes() -> list[tuple[str, psutil.Process]]:
    """This process and those of its children that have a role in a run."""
    here = psutil.Process()
    found = [("driver", here)]
    for process in here.children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        name = Path(words[0].split(" ")[0]).name if words else ""
        role = next((role for start, role in ROLES.items() if name.startswith(start)), None)
        if role is not None:
            found.append((role, process))
    return found


def _processor_s(processes: Sequence[tuple[str, psutil.Process]]) -> float:
    return sum(t.user + t.system for t in (process.cpu_times() for _, process in processes))


def _object_store() -> tuple[float, float]:
    """Megabytes and objects in the object store of this node."""
    import ray
    from ray._private.internal_api import node_stats

    node = ray.nodes()[0]
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
    return stats.object_store_bytes_used / 2**20, stats.num_local_objects


def trend(looks: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Straight line through the looks behind the first tenth, by least squares.

    Args:
        looks: Rounds and what was found after them.

    Returns:
        `first` and `last`: means over the first and last fifth of those looks; `added`: what 1,000 rounds add; `error`:
        its standard error; `flat`.
    """
    x, y = np.asarray(looks, float).T
    behind = x > x[0] + 0.1 * (x[-1] - x[0])
    x, y = x[behind], y[behind]
    fifth = max(1, len(x) // 5)
    slope, offset = np.polyfit(x, y, 1)
    rest = y - (slope * x + offset)
    error = float(np.sqrt((rest**2).sum() / max(1, len(x) - 2) / ((x - x.mean()) ** 2).sum()))
    added, spread = 1000 * float(slope), 1000 * error
    return {
        "first": float(y[:fifth].mean()),
        "last": float(y[-fifth:].mean()),
        "added": added,
        "error": spread,
        "flat": abs(added) < max(FLAT * abs(float(y.mean())), 2 * spread, 1e-9),
    }


def timed_views(folder: Path) -> dict[str, float]:
    """Seconds of the report, and of the dashboard's list and run page, each asked for the first time."""
    from starlette.testclient import TestClient

    from dfl_ray.dashboard.server import make_app, warm_up
    from dfl_ray.views.report import write_report

    found: dict[str, float] = {}
    began = time.perf_counter()
    write_report([folder], folder / "report.html")
    found["report"] = time.perf_counter() - began
    warm_up()
    client = TestClient(make_app(folder.parent), base_url="http://127.0.0.1")
    for name, page in (
        ("list of runs", "/"),
        ("page of the run", "/run?run=soak"),
        ("its tables", "/state?run=soak"),
    ):
        began = time.perf_counter()
        client.get(page).raise_for_status()
        found[name] = time.perf_counter() - began
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the table, in Markdown."""
    print("| figure | first fifth | last fifth | added by 1,000 rounds | |")
    print("|---|---|---|---|---|")
    for name, t in found.items():
        word = "flat" if t["flat"] else "grows" if t["added"] > 0 else "falls"
        print(
            f"| {name} | {t['first']:.4g} | {t['last']:.4g} | {t['added']:+.3g} ± {t['error']:.2g} | {word} |"
        )


def main() -> None:
    """Run, look and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=("local", "ray"), default="local")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--every", type=int, default=5, help="rounds between two looks")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("extra", nargs="*", help="further settings, e.g. method=dlora")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        words = [
            *SETTING,
            f"rounds={args.rounds}",
            f"runtime.backend={args.backend}",
            f"runtime.runs_dir={runs}",
        ]
        if args.backend == "ray":
            words.append("runtime.devices_per_actor=5")
        config = load_config(None, [*words, *args.extra])
        watch = Watch(args.every, config.evaluate.every)
        began = time.perf_counter()
        folder = launch(config, quiet=True, on_round_end=watch).folder
        wall_s = time.perf_counter() - began
        trends = {name: trend(looks) for name, looks in watch.figures.items()}
        show(trends)
        files = _files(folder)
        left = {"files": len(files), "MB": sum(p.stat().st_size for p in files) / 2**20}
        views = timed_views(folder)
    print(f"finished after {wall_s:.0f} s: {left['files']} files, {left['MB']:.1f} MB")
    print("; ".join(f"{name} {seconds:.2f} s" for name, seconds in views.items()))
    if args.json:
        facts = {"rounds": args.rounds, "backend": args.backend, "wall_s": wall_s}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures = {**facts, "peak_mb": peak, "trends": trends, "left": left, "views_s": views}
        print(json.dumps(with_origin(figures)))


if __name__ == "__main__":
    main()
