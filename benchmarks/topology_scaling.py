"""How long do the links, clusters, gateways and mixing weights of many devices take, and how much memory?

`python -m benchmarks.topology_scaling --json` places 10^3, 10^4 and 10^5 devices with two of six tasks each, 9025 m^2 a
device, in the default radio, and times what a run does with them before its first round: all links that the radio can
serve (`candidate links`), what each costs, the graph `clustered` with its defaults (task trees, wider gaps, cluster
labels, gateways), and the Metropolis-Hastings weights of every task. Each size has a process of its own, in which a
small network has loaded the compiled code before. Wall and CPU seconds; the peak of memory is the whole process's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.result import with_origin
from benchmarks.scaling import DENSITY_M
from channels.channel import Channel
from dfl_ray.config.load import load_config
from dfl_ray.config.radio import radio_settings
from dfl_ray.network.deployment import dealt_tasks, graph_on, placed
from topology import Topology, mixing

TASKS = 6
STEPS = ("candidate links", "graph", "weights")


def one_size(devices: int, words: list[str]) -> dict[str, Any]:
    """Build everything for this many devices in this process.

    Args:
        devices: Number of devices.
        words: Overrides of the configuration.

    Returns:
        Column -> value, for each of `STEPS` its wall and CPU seconds.
    """
    built(300, words, {})
    spent: dict[str, list[float]] = {}
    links, made = built(devices, words, spent)
    return {
        "devices": devices, "candidates": links, "links": len(made.edges), "relayed": len(made.relayed),
        "parts": int(made.components.max()) + 1, "over_bound": int((made.degree > 6).sum()),
        "airtime_s_per_mb": float(made.airtime_s_per_mb.sum()), "seconds": spent,
        "wall_s": sum(wall for wall, _ in spent.values()), "cpu_s": sum(cpu for _, cpu in spent.values()),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }  # fmt: skip


def built(devices: int, words: list[str], spent: dict[str, list[float]]) -> tuple[int, Topology]:
    """Build a network, and note for each step its wall and CPU seconds; returns the number of candidates too."""
    side_m = DENSITY_M * devices**0.5
    config = load_config(None, [f"devices.count={devices}", f"devices.area_m=[{side_m},{side_m}]", *words])
    positions_m, mixture = placed(config), dealt_tasks(config, TASKS)
    channel = Channel(radio_settings(config.radio), positions_m, seed=config.seed)
    with timed(spent, STEPS[0]):
        links = channel.candidate_links(config.topology.min_snr_db)
    with timed(spent, STEPS[1]):
        made = graph_on(config.topology, config.seed, channel, positions_m, mixture, links)
    with timed(spent, STEPS[2]):
        for task in range(TASKS):
            holders = made.holders(task)
            mixing.metropolis_hastings(np.searchsorted(holders, made.task_edges(task)), len(holders))
    return len(links[0]), made


@contextmanager
def timed(spent: dict[str, list[float]], step: str) -> Iterator[None]:
    """Note the wall and CPU seconds of what is done inside."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    spent[step] = [time.perf_counter() - wall_s, time.process_time() - cpu_s]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of devices, with commas")
    parser.add_argument("--one", type=int, help="build this one size in this process and print JSON only")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("words", nargs="*", help="key=value for every size, e.g. topology.min_gap=0")
    given = parser.parse_intermixed_args()
    if given.one:
        print(json.dumps(one_size(given.one, given.words)))
        return
    print(
        "devices candidates   links  relayed  parts  over bound   "
        + "  ".join(STEPS)
        + "  wall s  cpu s  peak GB"
    )
    rows: list[dict[str, Any]] = []
    for size in given.sizes.split(","):
        command = [sys.executable, "-m", "benchmarks.topology_scaling", "--one", size, *given.words]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(line(rows[-1]), flush=True)
    if given.json:
        print(json.dumps(with_origin({"words": given.words, "sizes": rows})))


def line(row: dict[str, Any]) -> str:
    """One size as a line of the table; steps in wall seconds."""
    steps = "  ".join(f"{row['seconds'][step][0]:{len(step)}.2f}" for step in STEPS)
    return (
        f"{row['devices']:7d} {row['candidates']:10d} {row['links']:7d}  {row['relayed']:7d}  {row['parts']:5d}"
        f"  {row['over_bound']:10d}   {steps}  {row['wall_s']:6.2f}  {row['cpu_s']:5.2f}"
        f"  {row['peak_bytes'] / 1e9:7.2f}"
    )


if __name__ == "__main__":
    main()
