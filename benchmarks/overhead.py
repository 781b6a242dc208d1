"""What does the simulator add to the training it simulates?

`python benchmarks/overhead.py --packed 10,100,1000 --lone 16 --json` runs the whole driver with Ray actors (radio,
messages, records) and, on the same machine, a bare loop over the same batches: as many plain processes as there
are actors at work (one a core), each with its share of the devices, calling nothing but the training step on rows
drawn beforehand, and the evaluation when it is due.

The two take turns, a round of one and then the same round of the other, because on a shared machine a core's speed
changes by half within seconds. The overhead is the median over the rounds of (wall time of the driver's round / wall
time of the bare one); the first third of the rounds is left out. Ray's own processes stay alive
during the bare rounds. `--lone` sizes have one actor per device; their bare loop trains the devices one by one.

`--work light` is 5 local steps of 8 rows with messages in every round, `--work default` what the default preset does.
Any `key=value` holds for all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from benchmarks.scaling import overrides, place
from benchmarks.timed_run import PARTS

TIMEOUT_S = 3600.0


def bare_worker(arguments: Sequence[str], share: tuple[int, int], barrier: Any, results: Any) -> None:
    """Train one process's share of the devices round by round.

    The barrier is passed before a round is prepared, and again before it starts.

    Args:
        arguments: Settings of the run.
        share: (number of this process, processes).
        barrier: Shared with the other processes and with whoever takes the times.
        results: Queue for the seconds of each round.
    """
    from dfl_ray.driver import evaluation_due, rules_asked

    group, config = _group(arguments, share)
    for round_index in range(1, config.rounds + 1):
        barrier.wait(TIMEOUT_S)
        for device in group.devices.values():
            group.method.begin(device, round_index)
        ready = [group.training(part, round_index) for part in group.micro_batches()]
        barrier.wait(TIMEOUT_S)
        began = time.perf_counter()
        for train in ready:
            train()
        if evaluation_due(config, round_index):
            group.evaluate(round_index, rules_asked(config, round_index))
        results.put(time.perf_counter() - began)


def _group(arguments: Sequence[str], share: tuple[int, int]) -> tuple[Any, Any]:
    import numpy as np

    from dfl_ray.config.load import load_config
    from dfl_ray.group.group import DeviceGroup
    from dfl_ray.scene import build_scene

    config = load_config(None, [*arguments, "name=bare", "track.wandb.mode=disabled"])
    number, processes = share
    order = np.array_split(np.arange(config.devices.count), processes)[number]
    return DeviceGroup(build_scene(config).setup, [int(d) for d in order]), config


class BareLoop:
    """The processes of the bare loop.

    Args:
        arguments: Settings of the run.
        processes: How many share its devices.
    """

    def __init__(self, arguments: Sequence[str], processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._barrier, self._results = context.Barrier(processes + 1), context.Queue()
        self._workers = [
            context.Process(
                target=bare_worker, args=(arguments, (k, processes), self._barrier, self._results)
            )
            for k in range(processes)
        ]
        for worker in self._workers:
            worker.start()

    def round(self) -> float:
        """Seconds of the next round; the slowest process counts."""
        for _ in range(2):
            self._barrier.wait(TIMEOUT_S)
        return max(self._results.get(timeout=TIMEOUT_S) for _ in self._workers)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.terminate()
            worker.join()


def rounds_of_both(settings: Sequence[str], processes: int) -> Iterator[tuple[dict[str, float], float]]:
    """Each round's wall times in the driver, and the seconds of the same round in the bare loop.

    Raises:
        RuntimeError: The driver ended early; the message holds the end of what it said.
    """
    script = str(Path(__file__).with_name("timed_run.py"))
    rounds = int([s for s in settings if s.startswith("rounds=")][-1].partition("=")[2])
    with tempfile.TemporaryFile("w+") as said:
        driver = subprocess.Popen(
            [sys.executable, script, "--paced", *settings],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
        )  # fmt: skip
        loop = BareLoop(settings, processes)
        try:
            assert driver.stdout is not None and driver.stdin is not None
            for _ in range(rounds):
                line = next((said_line for said_line in driver.stdout if said_line.startswith("{")), "")
                if not line:  # other lines are Ray's
                    said.seek(0)
                    raise RuntimeError(f"the driver ended early: {said.read()[-800:]}")
                yield json.loads(line), loop.round()
                driver.stdin.write("\n")
                driver.stdin.flush()
            driver.communicate(timeout=TIMEOUT_S)
        finally:
            loop.close()
            driver.kill()


def default_work(devices: int, rounds: int) -> list[str]:
    """What the default preset does; no rule that needs other groups' sketches, which a bare loop has not."""
    return [*place(devices), f"rounds={rounds}", "evaluate.rules=[likelihood,oracle]"]


def settings_of(devices: int, lone: bool, work: str, more: Sequence[str]) -> list[str]:
    """The configuration of one size; dense adapters, since nobody announces masks in the bare loop."""
    rounds = min(30, max(9, 2400 // devices))
    base = overrides(devices, rounds, ()) if work == "light" else default_work(devices, rounds)
    cpus = len(os.sched_getaffinity(0))
    per_actor = 1 if lone else -(-devices // cpus)
    return [
        *base, "method.density=1.0", f"runtime.devices_per_actor={per_actor}",
        *(["runtime.micro_devices=1"] if lone else []), *more,
    ]  # fmt: skip


def compare(devices: int, lone: bool, work: str, more: Sequence[str]) -> dict[str, Any]:
    """One size, both ways."""
    settings = settings_of(devices, lone, work, more)
    both = list(rounds_of_both(settings, min(len(os.sched_getaffinity(0)), devices)))
    counted = both[len(both) // 3 :]
    ratios = [row["wall_s"] / bare for row, bare in counted]
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "devices": devices, "lone": lone, "work": work, "rounds": len(counted),
        "wall_s": statistics.median(row["wall_s"] for row, _ in counted),
        "bare_s": statistics.median(bare for _, bare in counted),
        "ratio": statistics.median(ratios), "ratio_quartiles": [quarters[0], quarters[2]],
        "ratio_of_sums": sum(row["wall_s"] for row, _ in counted) / sum(bare for _, bare in counted),
        "parts_s": {
            p: statistics.median(row.get(f"{p}_wall_s") or 0.0 for row, _ in counted) for p in PARTS
        },
    }  # fmt: skip


def show(cells: Sequence[str]) -> None:
    """Print one line of the table, at once: a size can take minutes."""
    print("  ".join(f"{c:>13}" for c in cells), flush=True)


def cells_of(r: dict[str, Any]) -> list[str]:
    """One size's line."""
    return [
        f"{r['devices']}", "one each" if r["lone"] else "packed", f"{r['rounds']}", f"{r['wall_s']:.3f}",
        f"{r['bare_s']:.3f}", *(f"{r['parts_s'][p]:.3f}" for p in PARTS), f"{r['ratio']:.3f}",
        "{:.2f} - {:.2f}".format(*r["ratio_quartiles"]), f"{r['ratio_of_sums']:.3f}",
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packed", default="10,100,1000", help="sizes packed into one actor a core")
    parser.add_argument("--lone", default="16", help="sizes with one actor per device")
    parser.add_argument("--work", choices=("light", "default"), default="light", help="what a round trains")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value settings for all runs")
    o = parser.parse_args(arguments)
    show(("devices", "actors", "rounds", "round s", "bare s", *(f"{p} s" for p in PARTS), "round / bare", "quartiles",
          "of sums"))  # fmt: skip
    rows: list[dict[str, Any]] = []
    for sizes, lone in ((o.packed, False), (o.lone, True)):
        for n in (n for n in sizes.split(",") if n):
            rows.append(compare(int(n), lone, o.work, o.overrides))
            show(cells_of(rows[-1]))
    if o.json:
        print(json.dumps({"machine": machine(), "sizes": rows}))


if __name__ == "__main__":
    main()
