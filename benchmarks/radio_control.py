"""What does knowledge cost a scheduler? Control charged against control for nothing, at 10, 100 and 1,000 devices.

`python -m benchmarks.radio_control --json` plans one round of 20 kB to each of the three nearest devices, at 200
devices per km² of the default radio, under `radio.control` free and charged, and prints for each scheduler the bytes,
airtime, time and joules of beacons, reports and grants beside those of the messages. The picture shows the time that
control takes over the time of the round without.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.line_chart import Axis, save_chart
from benchmarks.result import with_origin
from channels.channel import Channel
from channels.estimate import nearest_transfers
from channels.settings import RadioSettings
from channels.transfers import RoundPlan

SIZES = (10, 100, 1000)
NAMES = ("greedy_sinr", "tdma", "local_greedy", "csma")
PER_KM2 = 200.0


def compare(name: str, devices: int, seed: int) -> dict[str, float]:
    """One round with control and without.

    Args:
        name: The scheduler.
        devices: Number of devices.
        seed: Seed of the placement and of the radio.

    Returns:
        Figures of control, of the messages under it, and of the round without.
    """
    side_m = 1000 * (devices / PER_KM2) ** 0.5
    place = np.random.default_rng(seed).random((devices, 2)) * side_m
    wanted = nearest_transfers(place, neighbours=3, payload_bytes=20_000)
    # The idle slot of 802.11a, which the others do not use.
    radio = RadioSettings(scheduler=name, control="charged", slot_s=9e-6)
    plans: dict[str, RoundPlan] = {}
    for control in ("charged", "free"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            plans[control] = Channel(replace(radio, control=control), place, seed=seed).plan_round(0, wanted)
    charged, free = plans["charged"], plans["free"]
    cost = charged.control
    assert cost is not None
    sent = charged.table.drop_duplicates("transmission")["payload_bytes"].sum()
    return {
        "discovery_bytes": cost.discovery.sent_bytes,
        "report_bytes": cost.reports.sent_bytes,
        "grant_bytes": cost.grants.sent_bytes,
        "byte_share": cost.sent_bytes / (cost.sent_bytes + float(sent)),
        "airtime_share": cost.airtime_s / (cost.airtime_s + charged.airtime_s),
        "control_s": cost.span_s,
        "round_s": charged.end_s,
        "free_round_s": free.end_s,
        "control_energy_j": float(cost.energy_j.sum()),
        "energy_share": float(cost.energy_j.sum() / charged.radio_energy_j.sum()),
        "delivered_fraction": float(charged.delivered.mean()),
    }


def table(seeds: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Scheduler -> number of devices -> means over seeds."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name in NAMES:
        for devices in SIZES:
            found = [compare(name, devices, seed) for seed in seeds]
            mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
            rows.setdefault(name, {})[str(devices)] = mean
            told = mean["discovery_bytes"] + mean["report_bytes"] + mean["grant_bytes"]
            print(
                f"{name:14s} {devices:5d} {told / devices:8.0f} B/device  bytes {mean['byte_share']:.4f}"
                f"  airtime {mean['airtime_share']:.4f}  control {mean['control_s']:.4f} s"
                f"  round {mean['round_s']:.3f} s, free {mean['free_round_s']:.3f} s"
                f"  energy {mean['energy_share']:.4f}",
                flush=True,
            )
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="placements of each size")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/radio_control.svg"))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    rows = table(range(given.seeds))
    shares = {
        name: (
            [float(n) for n in by_size],
            [100 * r["control_s"] / r["free_round_s"] for r in by_size.values()],
        )
        for name, by_size in rows.items()
    }
    save_chart(
        given.picture,
        "Control, by devices (200 per km²)",
        Axis("devices", 10, 1000, log=True),
        Axis("time of control, % of the round", 0.02, 50, log=True),
        shares,
        {name: [float("nan")] * len(SIZES) for name in shares},
    )
    if given.json:
        result: dict[str, Any] = {"per_km2": PER_KM2, "schedulers": rows}
        print(json.dumps(with_origin(result, seeds=given.seeds)))


if __name__ == "__main__":
    main()
