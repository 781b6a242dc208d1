"""Is a run on 1, 2 and 3 nodes what `dfl-ray plan --nodes` says: speed-up, bytes that cross, waiting for the slowest?

Each node is a network namespace of this machine with a link of its own (`tc`) and a quota of CPU time; all of
them run on one and the same CPU, each on its share of it, so that nodes do not get faster or slower by their number.
The quotas are the driver's and the actors', not those of Ray's services; they hold from the end of the first round on,
and so do the figures. The last run has one node that is slower than the others. Needs Linux, root, iproute2 and
control groups; says so otherwise.

One figure of the forecast is taken from the run on one node: how fast its CPU trains, since a plan knows no machine.

    python -m benchmarks.cluster [--share 0.3] [--slow 0.5] [--link 100:2] [--json] [key=value ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.namespaces import (
    PORT,
    SUBNET,
    TOKEN,
    CpuShares,
    Unsupported,
    end_processes,
    link_queue,
    namespaces,
    processes,
    start_nodes,
    wire_bytes,
)
from dfl_ray.errors import InputError
from dfl_ray.simulation.node_estimate import read_link

WORK = (
    "devices.count=60", "devices.partition={type: one_each}", "rounds=5", "method.local_steps=20",
    "method.batch_rows=8", "method.exchange_every=1", "evaluate.every=5", "evaluate.rows_per_task=2",
    "evaluate.rules=[oracle]", "checkpoint.every=0", "track.wandb.mode=disabled", "runtime.report=false",
)  # fmt: skip
CPU = 0
"""The CPU that all nodes share."""
LONGEST_S = 900.0


@dataclass(frozen=True)
class Setting:
    """A cluster to run on.

    Attributes:
        name: What the table calls it.
        shares: For each node its share of the CPU.
    """

    name: str
    shares: tuple[float, ...]


def settings(share: float, slow: float) -> list[Setting]:
    """One, two and three equal nodes, and three of which the last is slower."""
    even = [Setting(f"{n} node{'s' if n > 1 else ''}", (share,) * n) for n in (1, 2, 3)]
    return [*even, Setting(f"3, one at {slow:g}", (share, share, share * slow))]


def measured(setting: Setting, link: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    """Run on such a cluster.

    Args:
        setting: The nodes.
        link: The queue of their links.
        words: Settings of the run.

    Returns:
        Means over the rounds after the first two: `train_s`, `straggler_s`, `round_s` (without evaluation); `wire_mb`,
        what the nodes sent in one of them; and `crossing_bytes` of the whole run.

    Raises:
        Unsupported: The machine cannot.
        RuntimeError: The run failed.
    """
    from dfl_ray.records import load_run

    with tempfile.TemporaryDirectory(prefix="dfl") as folder, contextlib.ExitStack() as held:
        names = held.enter_context(namespaces(len(setting.shares), link))
        shares = CpuShares(names)
        held.callback(shares.close)
        for name in names:  # a group can be taken away when its processes have ended
            held.callback(end_processes, name)
        held.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {CPU})
        start_nodes(names, f"{folder}/ray")
        command = [
            "ip", "netns", "exec", names[0], *TOKEN, sys.executable, "-m", "dfl_ray", "run",
            *words, "name=cluster", f"runtime.runs_dir={folder}/runs", f"runtime.address={SUBNET}.1:{PORT}", "--json",
        ]  # fmt: skip
        with open(f"{folder}/said", "w+") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, text=True)
            _until_a_round_is_over(process, Path(folder))
            for name, share in zip(names, setting.shares, strict=True):
                shares.limit(name, _of_the_run(name), share)
            before = wire_bytes(names)
            code = process.wait(LONGEST_S)
            wire = wire_bytes(names) - before
            if code:
                raise RuntimeError(f"the run ended with {code}: {_end_of(said)}")
        rounds = load_run(Path(folder) / "runs" / "cluster").rounds
        later = rounds[rounds["round"] > 2]
        return {
            "train_s": float(later["train_wall_s"].mean()),
            "straggler_s": float(later["straggler_wall_s"].fillna(0.0).mean()),
            "round_s": float((later["wall_s"] - later["evaluate_wall_s"].fillna(0.0)).mean()),
            "wire_mb": wire / 1e6 / (len(rounds) - 1),
            "crossing_bytes": float(rounds["node_crossing_bytes"].sum()),
        }


def _of_the_run(name: str) -> list[int]:
    """Processes of a node that are the run's: its actors and its driver, not Ray's services."""
    import psutil

    found = []
    for pid in processes(name):
        with contextlib.suppress(psutil.Error):
            title = " ".join(psutil.Process(pid).cmdline())
            if title.startswith(("ray::DeviceActor", "ray::ChannelActor")) or "-m dfl_ray run" in title:
                found.append(pid)
    return found


def _end_of(said: Any) -> str:
    said.seek(0)
    return str(said.read())[-1500:]


def _until_a_round_is_over(process: subprocess.Popen[str], folder: Path) -> None:
    from dfl_ray.records import load_run

    deadline = time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(InputError):  # there is no folder yet
            if len(load_run(folder / "runs" / "cluster").rounds):
                return
        time.sleep(0.2)


def forecasts(
    wanted: Sequence[Setting], link: str, words: Sequence[str], train_s: float
) -> list[dict[str, Any]]:
    """What `dfl-ray plan --nodes` says of such clusters, its rate of training set so that the first trains that long.

    Args:
        wanted: The clusters.
        link: `MBIT:MS`.
        words: Settings of the run.
        train_s: Training of a round on the first of them, in s.
    """
    from dfl_ray.config.load import load_config
    from dfl_ray.simulation.dry_run import dry_run
    from dfl_ray.simulation.node_estimate import Machines, node_figures

    found = dry_run(load_config(None, list(words)), timed=True)
    clusters = [Machines.of(",".join(f"1@{share:.6f}" for share in s.shares), link) for s in wanted]
    rate = node_figures(found, clusters[0], 1.0)[-1]["train_s"] / train_s
    return [node_figures(found, cluster, rate)[-1] for cluster in clusters]


def compare(
    found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Set each figure beside its forecast; speed-up is over the first setting, waiting a share of training."""
    rows = []
    for one, other in zip(found, expected, strict=True):
        rows.append(
            {
                "speed_up": found[0]["round_s"] / one["round_s"],
                "planned_speed_up": expected[0]["round_s"] / other["round_s"],
                "crossing_bytes": one["crossing_bytes"],
                "planned_crossing_bytes": other["crossing_bytes"],
                "straggler_fraction": one["straggler_s"] / one["train_s"],
                "planned_straggler_fraction": other["straggler_s"] / other["train_s"],
            }
        )
    return rows


def lines(
    all_settings: Sequence[Setting], found: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The table: measured / planned."""
    heads = ("round s", "train s", "wire MB", "speed-up", "bytes crossing", "waiting / training")
    out = [f"{'':14}" + "".join(f"{h:>24}" for h in heads)]
    for setting, one, row in zip(all_settings, found, rows, strict=True):
        cells = [
            f"{one['round_s']:.2f}", f"{one['train_s']:.2f}", f"{one['wire_mb']:.2f}",
            *(f"{row[k]:{form}} / {row[f'planned_{k}']:{form}}"
              for k, form in (("speed_up", ".2f"), ("crossing_bytes", ",.0f"), ("straggler_fraction", ".3f"))),
        ]  # fmt: skip
        out.append(f"{setting.name:14}" + "".join(f"{c:>24}" for c in cells))
    return out


def main() -> int:
    """Measure and print; 0 also where the machine cannot, which is then said."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=0.3, help="share of the CPU that a node has")
    parser.add_argument("--slow", type=float, default=0.5, help="speed of the slower node, of the others'")
    parser.add_argument("--link", default="100:2", help="MBIT:MS of each node's link")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("words", nargs="*", help="overrides of the configuration")
    options = parser.parse_args()
    try:
        rate, delay = read_link(options.link)
    except InputError as error:
        parser.error(str(error))
    words, wanted = [*WORK, *options.words], settings(options.share, options.slow)
    try:
        queue, delay_ms = link_queue(rate, delay)
        link = f"{rate:g}:{delay_ms:g}"
        print(f"links of {rate:g} Mbit/s and {delay_ms:g} ms, by `{' '.join(queue)}`", flush=True)
        found = [measured(s, queue, words) for s in wanted]
    except Unsupported as reason:
        print(f"skipped: {reason}")
        return 0
    # As the command would be, in a process of its own.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        expected = apart.submit(forecasts, wanted, link, words, found[0]["train_s"]).result()
    rows = compare(found, expected)
    print("\n".join(lines(wanted, found, rows)))
    if options.json:
        from benchmarks.result import with_origin

        named = [{"setting": s.name, **f, **r} for s, f, r in zip(wanted, found, rows, strict=True)]
        told = {"rows": named, "forecast": expected}
        print(json.dumps(with_origin(told)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
