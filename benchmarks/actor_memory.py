"""Memory of an actor as planned and as measured, by how many devices it hosts; and what a run takes beside Ray's own.

For each size two actors host that many devices each; the largest private memory of either, and the largest sum of the
proportional shares of driver, channel, fork server and actors (a page that three processes map counts a third in
each), are looked for twice a second while the run goes on. Ray's own processes are the rest.

    python -m benchmarks.actor_memory [--devices 100,1000,3333] [--json] [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import psutil

from benchmarks.result import with_origin
from benchmarks.scaling import place

SETTING = (
    "rounds=2", "method.local_steps=1", "method.batch_rows=4", "method.exchange_every=1", "evaluate.rows_per_task=2",
    "evaluate.rules=[likelihood]", "evaluate.every=2", "checkpoint.every=0", "runtime.report=false", "track=none",
)  # fmt: skip
ACTORS = 2
OURS = ("ray::DeviceActor", "ray::ChannelActor", "actors.forks", "dfl_ray run")
"""What the command lines of our processes hold: actors, channel, fork server, driver."""


def planned_mb(words: Sequence[str]) -> float:
    """Memory of one actor as the run's own choice of packing expects it, in 2^20 bytes."""
    from dfl_ray.config.load import load_config
    from dfl_ray.simulation.chosen_packing import choose_packing
    from dfl_ray.simulation.experiment import build_experiment

    return choose_packing(build_experiment(load_config(None, words)), {"CPU": float(ACTORS)}).memory_mb


def watched(process: subprocess.Popen[bytes], every_s: float = 0.5) -> dict[str, float]:
    """The largest memories while a process and its children run, in 2^20 bytes.

    Returns:
        `actor_mb` (private), and proportional `ours_mb`, `driver_mb`, `channel_mb`, `forks_mb` and `ray_mb`.
    """
    most = dict.fromkeys(("actor_mb", "ours_mb", "driver_mb", "channel_mb", "forks_mb", "ray_mb"), 0.0)
    while True:
        found = [_memory(child) for child in _family(process.pid)]
        sums = {name: sum(pss for of, pss, _ in found if of == name) for name in (*OURS, "")}
        actor = max((uss for of, _, uss in found if of == OURS[0]), default=0.0)
        now = {
            "actor_mb": actor, "ours_mb": sum(sums[name] for name in OURS), "driver_mb": sums[OURS[3]],
            "channel_mb": sums[OURS[1]], "forks_mb": sums[OURS[2]], "ray_mb": sums[""],
        }  # fmt: skip
        most = {name: max(value, now[name]) for name, value in most.items()}
        try:
            process.wait(every_s)
            return most
        except subprocess.TimeoutExpired:
            continue


def _family(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _memory(process: psutil.Process) -> tuple[str, float, float]:
    """Which of `OURS` a process is, or empty; proportional and private memory in 2^20 bytes."""
    try:
        memory, line = process.memory_full_info(), " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return "", 0.0, 0.0
    name = next((name for name in OURS if name in line), "")
    return name, memory.pss / 2**20, memory.uss / 2**20


def measure(devices: int, words: Sequence[str]) -> dict[str, float]:
    """One size.

    Args:
        devices: Devices of an actor.
        words: Further settings.

    Returns:
        Planned and measured figures, by name.
    """
    with tempfile.TemporaryDirectory(prefix="dfl") as folder:
        every = [
            *place(ACTORS * devices), *SETTING, f"runtime.devices_per_actor={devices}", f"runtime.runs_dir={folder}",
            *words,
        ]  # fmt: skip
        planned = planned_mb(every)
        run = subprocess.Popen([sys.executable, "-m", "dfl_ray", "run", *every, "-q"])
        found = watched(run)
        if run.returncode:
            raise RuntimeError(f"the run of {ACTORS * devices} devices ended with {run.returncode}")
    return {
        "devices": devices,
        "planned_actor_mb": planned,
        **found,
        "planned_share": planned / found["actor_mb"],
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", default="100,1000,3333", help="devices of an actor, comma-separated")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("words", nargs="*", help="key=value settings of all runs")
    options = parser.parse_args()
    rows = []
    for size in options.devices.split(","):
        rows.append(measure(int(size), options.words))
        print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    if options.json:
        print(json.dumps(with_origin({"actors": ACTORS, "sizes": rows})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
