"""How does the cost of a round grow with the number of devices?

`python benchmarks/scaling.py --devices 10,100,1000,10000 --json` trains the embedded model in every device in every
round, through the real driver with Ray actors, and prints start-up, where a round's time goes, bytes through the
object store, memory per actor and per device, and the time of one device's step. Any `key=value` holds for all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.result import with_origin
from benchmarks.timed_run import PARTS, measure

DENSITY_M = 95.0
"""Side of the square each device gets to itself: the area grows with the devices, so that the radio stays alike."""


def place(devices: int) -> list[str]:
    """That many devices, each with the same room and enough rows to train on."""
    side = DENSITY_M * devices**0.5
    return [
        f"devices.count={devices}", f"devices.area_m=[{side:.0f},{side:.0f}]",
        f"tasks.train_rows={max(2000, devices)}",
    ]  # fmt: skip


def overrides(devices: int, rounds: int, more: Sequence[str]) -> list[str]:
    """The configuration of one size."""
    return [
        *place(devices), f"rounds={rounds}", "method.local_steps=5", "method.batch_rows=8",
        "method.exchange_every=1", "evaluate.rows_per_task=2", "evaluate.rules=[likelihood]",
        f"evaluate.every={rounds}", "checkpoint.every=0", *more,
    ]  # fmt: skip


def figures(found: Mapping[str, Any], bare_mb: float) -> dict[str, Any]:
    """What one size is reported with.

    Args:
        found: What `timed_run` measured.
        bare_mb: Private memory an actor has before it hosts anybody: the smallest run's least actor.
    """
    private = found["actor_private_mb"]
    grown = max(0.0, sum(private) - bare_mb * len(private))
    return {**found, "device_mb": grown / found["devices"]}


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table."""
    head = ["devices", "actors", "start s", "first s", "round s", *[f"{p} s" for p in PARTS], "overhead",
            "ms a step", "store MB", "MB an actor", "MB a device", "peak MB"]  # fmt: skip
    out = ["  ".join(f"{h:>11}" for h in head)]
    for r in rows:
        cells = [
            f"{r['devices']}", f"{r['actors']}", f"{sum(r['start_up_s'].values()):.1f}", f"{r['first_round_s']:.1f}",
            f"{sorted(r['round_s'])[len(r['round_s']) // 2]:.2f}", *[f"{r['median_s'][p]:.2f}" for p in PARTS],
            f"{r['overhead_fraction']:.3f}", f"{1e3 * r['device_step_s']:.2f}",
            f"{r['object_store_bytes'] / 2**20:.2f}", f"{max(r['actor_private_mb']):.0f}", f"{r['device_mb']:.2f}",
            f"{r['peak_mb']:.0f}",
        ]  # fmt: skip
        out.append("  ".join(f"{c:>11}" for c in cells))
    return out


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Where a round's seconds go over the number of devices, as an SVG file; both scales logarithmic."""
    from benchmarks.line_chart import Axis, save_chart

    sizes = [float(r["devices"]) for r in rows]
    lines = {p: (sizes, [float(r["median_s"][p]) for r in rows]) for p in PARTS if p != "evaluate"}
    every = [s for _, values in lines.values() for s in values if s > 0]
    x = Axis("devices", min(sizes), max(sizes) * 1.001, log=True)
    y = Axis("seconds of a round", min(every) / 1.5, max(every) * 1.5, log=True)
    save_chart(path, "Where a round's time goes", x, y, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", default="10,100,1000", help="sizes, comma-separated")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each run")
    parser.add_argument("--chart", type=Path, help="SVG file for the parts of a round over the devices")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value settings for all runs")
    chosen = parser.parse_args(arguments)
    script = str(Path(__file__).with_name("timed_run.py"))
    rows: list[dict[str, Any]] = []
    for devices in (int(n) for n in chosen.devices.split(",")):
        found = measure([sys.executable, script, *overrides(devices, chosen.rounds, chosen.overrides)])
        rows.append(found)
    bare = min(min(r["actor_private_mb"]) for r in rows)
    rows = [figures(r, bare) for r in rows]
    print("\n".join(lines(rows)))
    if chosen.chart:
        draw(chosen.chart, rows)
    if chosen.json:
        print(json.dumps(with_origin({"bare_actor_mb": bare, "sizes": rows})))


if __name__ == "__main__":
    main()
