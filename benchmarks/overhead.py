"""What does the simulator add to the training it simulates?

`python benchmarks/overhead.py --packed 10,100,1000 --lone 16 --json` runs the whole driver with Ray actors (radio,
messages, records) and then, on the same machine, a bare loop over the same batches: as many plain processes as there
are actors at work (one a core), each with its share of the devices, calling nothing but the training step on rows
drawn beforehand, and the evaluation. The ratio of the two times over the second half of the rounds is the
overhead: in the first half Ray's own processes still start. `--lone`
sizes have one actor per device; their bare loop trains the devices one by one. Any `key=value` holds for all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scaling import overrides
from benchmarks.timed_run import measure


def bare_worker(arguments: Sequence[str], share: tuple[int, int], barrier: Any, results: Any) -> None:
    """Train one process's share of the devices round by round; all processes start each round together.

    Args:
        arguments: Settings of the run.
        share: (number of this process, processes).
        barrier: Passed by all processes at every round's start.
        results: Queue for (round, seconds); round 0 stands for the evaluation.
    """
    group, config = _group(arguments, share)
    for round_index in range(1, config.rounds + 1):
        for device in group.devices.values():
            group.method.begin(device, round_index)
        ready = [group.training(part, round_index) for part in group.micro_batches()]
        barrier.wait()
        began = time.perf_counter()
        for train in ready:
            train()
        results.put((round_index, time.perf_counter() - began))
    barrier.wait()
    began = time.perf_counter()
    group.evaluate(config.rounds, (group.method.rule,))
    results.put((0, time.perf_counter() - began))


def _group(arguments: Sequence[str], share: tuple[int, int]) -> tuple[Any, Any]:
    import numpy as np

    from dfl_ray.config.load import load_config
    from dfl_ray.group.group import DeviceGroup
    from dfl_ray.scene import build_scene

    config = load_config(None, [*arguments, "name=bare", "track.wandb.mode=disabled"])
    number, processes = share
    order = np.array_split(np.arange(config.devices.count), processes)[number]
    return DeviceGroup(build_scene(config).setup, [int(d) for d in order]), config


def bare(arguments: Sequence[str], processes: int) -> dict[str, float]:
    """Seconds of the bare loop: training of the rounds' second half, and one evaluation; the slowest process counts."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=bare_worker, args=(arguments, (k, processes), barrier, results))
        for k in range(processes)
    ]
    for worker in workers:
        worker.start()
    rounds = int(next(a.split("=")[1] for a in arguments if a.startswith("rounds=")))
    slowest: dict[int, float] = {}
    for _ in range(processes * (rounds + 1)):
        round_index, seconds = results.get(timeout=3600)
        slowest[round_index] = max(seconds, slowest.get(round_index, 0.0))
    for worker in workers:
        worker.join()
    train = sum(s for r, s in slowest.items() if r > rounds // 2)
    return {"train_s": train, "evaluate_s": slowest[0], "total_s": train + slowest[0]}


def compare(devices: int, lone: bool, more: Sequence[str]) -> dict[str, Any]:
    """One size, both ways; dense adapters, since nobody announces masks in the bare loop."""
    rounds = min(40, max(6, 2000 // devices))
    cpus = len(os.sched_getaffinity(0))
    per_actor = 1 if lone else -(-devices // cpus)
    settings = [
        *overrides(devices, rounds, ()), "method.density=1.0", f"runtime.devices_per_actor={per_actor}",
        *(["runtime.micro_devices=1"] if lone else []), *more,
    ]  # fmt: skip
    script = str(Path(__file__).with_name("timed_run.py"))
    full = measure([sys.executable, script, *settings])
    loop = bare(settings, min(cpus, devices))
    wall = sum(full["round_s"][rounds // 2 :])
    return {
        "devices": devices, "actors": full["actors"], "rounds": rounds - rounds // 2, "wall_s": wall, "bare": loop,
        "ratio": wall / loop["total_s"], "median_s": full["median_s"],
    }  # fmt: skip


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table."""
    head = ("devices", "actors", "rounds", "wall s", "bare train s", "bare evaluate s", "wall / bare")
    out = ["  ".join(f"{h:>15}" for h in head)]
    for r in rows:
        cells = (f"{r['devices']}", f"{r['actors']}", f"{r['rounds']}", f"{r['wall_s']:.2f}",
                 f"{r['bare']['train_s']:.2f}", f"{r['bare']['evaluate_s']:.2f}", f"{r['ratio']:.3f}")  # fmt: skip
        out.append("  ".join(f"{c:>15}" for c in cells))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packed", default="10,100,1000", help="sizes packed into one actor a core")
    parser.add_argument("--lone", default="16", help="sizes with one actor per device")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value settings for all runs")
    o = parser.parse_args(arguments)
    rows = [
        compare(int(n), lone, o.overrides)
        for sizes, lone in ((o.packed, False), (o.lone, True))
        for n in sizes.split(",") if n
    ]  # fmt: skip
    print("\n".join(lines(rows)))
    if o.json:
        machine = {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()}
        print(json.dumps({"machine": machine, "sizes": rows}))


if __name__ == "__main__":
    main()
