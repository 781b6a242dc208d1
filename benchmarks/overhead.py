"""What does the simulator add to the training it simulates?

`python benchmarks/overhead.py --packed 10,100,1000 --lone 16 --json` runs the whole driver with Ray actors (radio,
messages, records) and, on the same machine, a bare loop over the same batches: as many plain processes as there
are actors at work (one a core). Each process holds the same groups of devices as the actors do, and every message
arrives; what is timed of it is nothing but the local steps of its share of the groups, on rows drawn beforehand, and
their evaluation when it is due.

The two take turns, a round of one and then the same round of the other, because on a shared machine a core's speed
changes by half within seconds. The overhead is the median over the rounds of (wall time of the driver's round / wall
time of the bare one), and the quotient of all times; the first third of the rounds is left out. Ray's own processes
stay alive during the bare rounds. `--lone` sizes have one actor per device.

`--work light` is 5 local steps of 8 rows with messages in every round, `--work default` what the default preset does.
Any `key=value` holds for all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.result import with_origin
from benchmarks.scaling import overrides, place
from benchmarks.timed_run import PARTS
from dfl_ray.packing.machine import usable_cpus

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.devices.group import DeviceGroup
    from dfl_ray.engines.training import TrainingResult

TIMEOUT_S = 3600.0


def bare_worker(arguments: Sequence[str], share: tuple[int, int], barrier: Any, results: Any) -> None:
    """Train one process's share of the groups round by round; the others beside it, untimed, for their messages.

    The barrier is passed before a round is prepared, before it starts and before it is evaluated.

    Args:
        arguments: Settings of the run.
        share: (number of this process, processes).
        barrier: Shared with the other processes and with whoever takes the times.
        results: Queue for the seconds of each round's steps and evaluation.
    """
    from dfl_ray.simulation.round_facts import evaluation_due, needs_references, rules_asked

    groups, config = _groups(arguments)
    mine = groups[share[0] :: share[1]]
    for round_index in range(1, config.rounds + 1):
        barrier.wait(TIMEOUT_S)
        ready = {group: list(group.prepare(round_index)) for group in groups}
        barrier.wait(TIMEOUT_S)
        began = time.perf_counter()
        done = {group: [steps() for steps in ready[group]] for group in mine}
        trained = time.perf_counter()
        done |= {group: [steps() for steps in ready[group]] for group in groups if group not in done}
        _deliver_all(round_index, done)
        rules = rules_asked(config, round_index)
        compares = needs_references(config, rules)
        references = {t: s for g in groups for t, s in g.full_sketches().items()} if compares else None
        barrier.wait(TIMEOUT_S)
        asked = time.perf_counter()
        if evaluation_due(config, round_index):
            for group in mine:
                group.evaluate(round_index, rules, references)
        results.put((trained - began, time.perf_counter() - asked))


def _groups(arguments: Sequence[str]) -> tuple[list[DeviceGroup], Config]:
    """The groups of devices that the run's actors hold."""
    from dfl_ray.config.load import load_config
    from dfl_ray.devices.group import DeviceGroup
    from dfl_ray.packing.machine import local_resources
    from dfl_ray.simulation.chosen_packing import choose_packing
    from dfl_ray.simulation.experiment import build_experiment

    config = load_config(None, [*arguments, "name=bare", "track.wandb.mode=disabled"])
    experiment = build_experiment(config)
    return [
        DeviceGroup(experiment.setup, g) for g in choose_packing(experiment, local_resources()).groups
    ], config


def _deliver_all(round_index: int, done: Mapping[DeviceGroup, list[TrainingResult]]) -> None:
    """Every message that is wanted arrives."""
    import numpy as np

    from dfl_ray.network.traffic import TransferOutcomes, TransferRequests

    reports = [group.report(parts, 0.0) for group, parts in done.items()]
    wanted = TransferRequests.join([report.requests for report, _ in reports])
    for group in done:
        arrived = TransferOutcomes(wanted, np.ones(len(wanted), bool))
        group.exchange(round_index, arrived, *(payloads for _, payloads in reports))


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
        """Seconds of the next round; the slowest process counts, in the steps and in the evaluation."""
        for _ in range(3):
            self._barrier.wait(TIMEOUT_S)
        found = [self._results.get(timeout=TIMEOUT_S) for _ in self._workers]
        return max(steps for steps, _ in found) + max(evaluation for _, evaluation in found)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.terminate()
            worker.join()


class Paced:
    """A program that prints each of its rounds as JSON and waits for a line before the next.

    Args:
        command: Program and arguments; its first round begins at once.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._script = command[1]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by `close`
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        self._begun = True

    def row(self) -> dict[str, float]:
        """What it says of its next round.

        Raises:
            RuntimeError: It ended early; the message holds the end of what it said.
        """
        assert self._process.stdout is not None and self._process.stdin is not None
        if not self._begun:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        self._begun = False
        line = next((said for said in self._process.stdout if said.startswith('{"')), "")  # others are Ray's
        if not line:
            self._said.seek(0)
            raise RuntimeError(f"{self._script} ended early: {self._said.read()[-800:]}")
        return json.loads(line)

    def close(self) -> None:
        """Let it end, and end it if it does not."""
        try:
            self._process.communicate("\n", timeout=TIMEOUT_S)
        finally:
            self._process.kill()
            self._said.close()


def rounds_of_both(settings: Sequence[str], processes: int) -> Iterator[tuple[dict[str, float], float]]:
    """Each round's wall times in the driver, and the seconds of the same round in the bare loop."""
    rounds = int([s for s in settings if s.startswith("rounds=")][-1].partition("=")[2])
    driver, loop = paced_driver(settings), BareLoop(settings, processes)
    try:
        for _ in range(rounds):
            yield driver.row(), loop.round()
    finally:
        loop.close()
        driver.close()


def paced_driver(settings: Sequence[str]) -> Paced:
    """The whole driver, a round at a time."""
    return Paced([sys.executable, str(Path(__file__).with_name("timed_run.py")), "--paced", *settings])


def settings_of(devices: int, lone: bool, work: str, more: Sequence[str]) -> list[str]:
    """The configuration of one size."""
    rounds = min(30, max(9, 2400 // devices))
    base = overrides(devices, rounds, ()) if work == "light" else [*place(devices), f"rounds={rounds}"]
    cpus = usable_cpus()
    per_actor = 1 if lone else -(-devices // cpus)
    return [*base, f"runtime.devices_per_actor={per_actor}", *more]


def compare(devices: int, lone: bool, work: str, more: Sequence[str]) -> dict[str, Any]:
    """One size, both ways."""
    settings = settings_of(devices, lone, work, more)
    both = list(rounds_of_both(settings, min(usable_cpus(), devices)))
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
        print(json.dumps(with_origin({"sizes": rows})))


if __name__ == "__main__":
    main()
