"""A state that the disk must give back in every round, against the same state in memory.

Two processes hold the same devices, one with its state in memory, one with its state in a file
(`runtime.state_memory_mb`) and inside a control group whose memory holds the process at its largest, its budget and
`--beside-mb` more: what the file cache cannot keep is read from the disk in every round, and written to it. They train
and exchange in turns, a round each; the losses must be equal bit for bit. Printed are the quotient of the rounds' times
and the bytes of a round that the disk gave and took, as the kernel counts them for the process; these say whether the
state was cold.

Needs Linux, root and the memory controller of control groups (version 1 or 2); elsewhere the script says so and skips.

    python benchmarks/cold_state.py [--devices 600] [--rounds 5] [--part 0.1] [--json] [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.namespaces import Unsupported
from benchmarks.result import with_origin

if TYPE_CHECKING:
    from dfl_ray.devices.group import DeviceGroup
    from dfl_ray.simulation.experiment import Experiment

ROOT = Path("/sys/fs/cgroup")
WAIT_S = 600.0


@dataclass(frozen=True)
class Cage:
    """A control group with a limit of memory.

    Attributes:
        folder: Its folder.
        limit: Name of the file that takes the limit.
    """

    folder: Path
    limit: str

    def own_bytes(self) -> int:
        """Bytes of the processes inside that lie in no file."""
        words = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return int(words.get("total_rss") or words["anon"])

    def hold(self, limit: int) -> None:
        """Let the processes inside and their files' cache have so many bytes.

        Args:
            limit: Bytes.
        """
        (self.folder / self.limit).write_text(str(limit))


@contextmanager
def cage() -> Iterator[Cage]:
    """Make a control group, and take it away in the end.

    Yields:
        The group, without a limit yet.

    Raises:
        Unsupported: None can be made here.
    """
    first = (ROOT / "memory", "memory.limit_in_bytes"), (ROOT, "memory.max")
    for parent, limit in first:
        folder = parent / f"dfl-ray-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            if (folder / limit).exists():
                break
            folder.rmdir()
    else:
        raise Unsupported(
            "no control group for memory can be made here (root and the memory controller are needed)"
        )
    try:
        yield Cage(folder, limit)
    finally:
        for _ in range(50):
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


def make_experiment(words: Sequence[str]) -> Experiment:
    """A run in one process, built and not started.

    Args:
        words: Its settings.
    """
    from dfl_ray.config.load import load_config
    from dfl_ray.simulation.experiment import build_experiment

    return build_experiment(load_config(None, [*words, "runtime.backend=local"]))


def make_group(experiment: Experiment, part: float | None) -> tuple[DeviceGroup, int]:
    """All devices of a run as one group.

    Args:
        experiment: The run.
        part: Share of the state that may stay in memory; None keeps all of it there.

    Returns:
        The group, and the bytes of its budget.
    """
    from dfl_ray.devices.group import DeviceGroup
    from dfl_ray.methods.spec import method_spec
    from dfl_ray.packing.actors import device_state_mb

    config, setup, held = experiment.config, experiment.setup, experiment.setup.held
    if part is None:
        return DeviceGroup(setup, sorted(held)), 0
    adapters = sum(map(len, held.values())) if method_spec(config.method).per_task else len(held)
    budget_mb = part * device_state_mb(experiment.layout.size, adapters)
    runtime = config.runtime.model_copy(update={"state_memory_mb": budget_mb})
    filed = replace(setup, config=config.model_copy(update={"runtime": runtime}))
    return DeviceGroup(filed, sorted(held)), int(budget_mb * 2**20)


def one_round(group: DeviceGroup, round_index: int) -> tuple[float, Any]:
    """Train and exchange once, every message delivered.

    Args:
        group: All devices.
        round_index: Number of the round, from 1 on.

    Returns:
        Seconds, and the (devices,) losses.
    """
    import numpy as np

    from dfl_ray.network.traffic import TransferOutcomes

    began = time.perf_counter()
    report, leaving = group.train(round_index)
    arrived = TransferOutcomes(report.requests, np.ones(len(report.requests), bool))
    group.exchange(round_index, arrived, leaving)
    return time.perf_counter() - began, report.loss


def disk_bytes() -> tuple[int, int]:
    """Bytes that disks gave this process and took from it, so far."""
    words = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(words["read_bytes"]), int(words["write_bytes"])


def side(words: Sequence[str], part: float | None, folder: Path | None, pipe: Any) -> None:
    """One process: makes its group, says so, and plays a round whenever it is told to.

    Args:
        words: Settings of the run.
        part: See `make_group`.
        folder: Control group that it enters first; None = none.
        pipe: Takes the number of a round, None to end; gives seconds, losses and bytes read and written.
    """
    if folder is not None:
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    group, budget = make_group(make_experiment(words), part)
    pipe.send(budget)
    while (round_index := pipe.recv()) is not None:
        before = disk_bytes()
        seconds, losses = one_round(group, round_index)
        pipe.send((seconds, losses, *(b - a for a, b in zip(before, disk_bytes(), strict=True))))


def compare(devices: int, rounds: int, part: float, beside_mb: float, more: Sequence[str]) -> dict[str, Any]:
    """Both sides in turns.

    Args:
        devices: Devices.
        rounds: Rounds; the first, in which the group has no limit yet, is left out.
        part: Share of the state that may be mapped.
        beside_mb: Memory for the file cache beside process and budget, units of 2^20 bytes.
        more: Settings for both.

    Returns:
        Figures by name.

    Raises:
        Unsupported: No control groups here.
        RuntimeError: The two have not learnt the same.
    """
    from benchmarks.scaling import overrides

    words = [*overrides(devices, rounds, ()), *more]
    spawn = get_context("spawn")
    with cage() as held:
        pipes, ends = zip(*(spawn.Pipe() for _ in range(2)), strict=True)
        sides = [
            spawn.Process(target=side, args=(words, None, None, ends[0]), daemon=True),
            spawn.Process(target=side, args=(words, part, held.folder, ends[1]), daemon=True),
        ]
        try:
            for process, end in zip(sides, ends, strict=True):
                process.start()
                end.close()  # so that a side's end is seen
            budget = [_answer(p) for p in pipes][1]
            return {
                "devices": devices,
                "budget_mb": budget / 2**20,
                **_turns(pipes, rounds, held, budget, beside_mb),
            }
        finally:
            for pipe in pipes:
                with suppress(OSError):
                    pipe.send(None)
            for process in sides:
                process.join(30)
                process.kill()


def _turns(pipes: Sequence[Any], rounds: int, held: Cage, budget: int, beside_mb: float) -> dict[str, Any]:
    """Play the rounds, the limit set behind the first."""
    import numpy as np

    quotients, read, written, limit, own = [], [], [], 0, 0
    for round_index in range(1, rounds + 1):
        found = []
        for pipe in pipes:
            pipe.send(round_index)
            began = time.monotonic()
            while round_index == 1 and not pipe.poll(0.02) and time.monotonic() < began + WAIT_S:
                own = max(own, held.own_bytes())
            found.append(_answer(pipe))
        if not np.array_equal(found[0][1], found[1][1], equal_nan=True):
            raise RuntimeError(f"round {round_index}: the state in the file gives other losses")
        if round_index == 1:
            limit = own + budget + int(beside_mb * 2**20)
            held.hold(limit)
            continue
        quotients.append(found[1][0] / found[0][0])
        read.append(found[1][2])
        written.append(found[1][3])
    return {
        "limit_mb": limit / 2**20, "rounds": len(quotients), "times": statistics.median(quotients),
        "quotients": quotients, "read_mb": statistics.median(read) / 2**20,
        "written_mb": statistics.median(written) / 2**20,
    }  # fmt: skip


def _answer(pipe: Any) -> Any:
    if not pipe.poll(WAIT_S):
        raise RuntimeError(f"a side has not answered for {WAIT_S:.0f} s")
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError(
            "a side has ended: look above; the group's limit may be too small (--beside-mb)"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 also where the machine has no control groups, which is then said."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5, help="the first is left out")
    parser.add_argument("--part", type=float, default=0.1, help="share of the state that may be mapped")
    parser.add_argument("--beside-mb", type=float, default=32.0, help="file cache beside process and budget")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value settings for both sides")
    o = parser.parse_args(arguments)
    try:
        found = compare(o.devices, o.rounds, o.part, o.beside_mb, o.overrides)
    except Unsupported as reason:
        print(f"Skipped: {reason}.")
        return 0
    each = ", ".join(f"{q:.2f}" for q in found["quotients"])
    print(
        f"{found['devices']} devices, budget {found['budget_mb']:.0f} MB, group of {found['limit_mb']:.0f} MB: a round "
        f"takes {found['times']:.2f} times that of memory ({each}); the disk gave {found['read_mb']:.0f} MB and "
        f"took {found['written_mb']:.0f} MB a round"
    )
    if o.json:
        print(json.dumps(with_origin(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
