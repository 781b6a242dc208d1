"""How do planning time and memory grow, and what does the sparse interference cost in accuracy?

`python -m benchmarks.radio_scaling --json` plans one round of 10^3, 10^4 and 10^5 devices that have just moved: 20 kB
to the four nearest neighbours over links that a topology would take (mean SNR of 3 dB), d2d_outdoor, LOS drawn,
shadowing, Rayleigh fading, greedy_sinr, retries; each size in a process of its own after one small round that loads the
compiled code. Then it compares interference with the dense answer at 5,000 devices and draws airtime against the number
of links. `--surroundings` plans each size with walls, blockage, panel antennas, Doppler by velocity and a delay spread
too, right after the plain one, and compares nothing; `--everything` adds NR's rates and transport blocks, errors by
finite blocklength, and HARQ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.line_chart import Axis, save_chart
from benchmarks.result import with_origin
from channels.channel import Channel
from channels.estimate import estimate_round, nearest_transfers
from channels.gains import dense_gains, strong_gains
from channels.interference import build_far_field
from channels.largescale import build_large_scale
from channels.settings import RadioSettings
from channels.shadowing import build_sites
from channels.transfers import Transfers

DENSITY_M2 = 2e-4
SURROUNDINGS: dict[str, Any] = {
    "walls": "low_loss", "blockage": "others", "antenna": "panel", "antenna_panels": 3, "doppler": "velocity",
    "speed_mps": 0.0, "delay_spread_s": 1e-7,
}  # fmt: skip
"""What `--surroundings` switches on: three panels a device, indoors in 8 of 10 places, 100 ns."""
EVERYTHING: dict[str, Any] = {
    **SURROUNDINGS, "rate": "nr", "errors": "finite_blocklength", "harq": "incremental",
}  # fmt: skip
"""What `--everything` switches on."""
WALK_MPS, WALKED_S, LEAST_SNR_DB = 1.5, 2.0, 3.0


def _place(devices: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).random((devices, 2)) * np.sqrt(devices / DENSITY_M2)


def _walked(channel: Channel, seed: int = 0) -> None:
    """Let all devices walk in directions of their own for some seconds before the round."""
    angle = np.random.default_rng(seed).uniform(0.0, 2 * np.pi, channel.devices)
    step_m = WALK_MPS * WALKED_S * np.column_stack([np.cos(angle), np.sin(angle)])
    channel.clock_s += WALKED_S
    channel.move(channel.positions_m + step_m)


def _usable_transfers(channel: Channel, neighbours: int, payload_bytes: int) -> Transfers:
    """One message of each device to its nearest neighbours over links that `topology.min_snr_db` lets in use."""
    near = nearest_transfers(channel.positions_m, 16, payload_bytes)
    usable = channel.mean_snr_db(near.source, near.destination) >= LEAST_SNR_DB
    source, destination = near.source[usable], near.destination[usable]
    first = np.searchsorted(source, source)
    kept = np.arange(source.size) - first < neighbours
    return Transfers.build(source[kept], destination[kept], payload_bytes, message=source[kept])


def one_size(devices: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Let all devices walk and plan one round in this process; all that follows from positions is in the cpu time."""
    warnings.simplefilter("ignore", UserWarning)
    # A small round of the same kind loads the compiled code; loading is not planning.
    for dense in (5000, 10):
        small = _place(200)
        Channel(RadioSettings(dense_devices=dense, **settings), small, seed=0).plan_round(
            0, nearest_transfers(small, 2, 1000)
        )
    channel = Channel(RadioSettings(**settings), _place(devices), seed=1)
    transfers = _usable_transfers(channel, 4, 20_000)
    cpu_s = time.process_time()
    _walked(channel)
    estimate = estimate_round(channel, transfers)
    return {**estimate.as_dict(), "plan_cpu_s": time.process_time() - cpu_s}


def interference_error(devices: int = 5000, share: float = 0.05) -> dict[str, dict[str, float]]:
    """|error| in dB of the interference at every silent device against the dense sum, by kind of far field."""
    settings, place = RadioSettings(), _place(devices)
    scale = build_large_scale(settings, seed=3)
    sites = build_sites(scale, place)
    near = strong_gains(scale, sites, settings.near_neighbours)
    active = np.sort(np.random.default_rng(1).choice(devices, int(share * devices), replace=False))
    sent = np.zeros(devices)
    sent[active] = 0.2
    exact = sent @ dense_gains(scale, sites).matrix()
    rows = np.repeat(np.arange(devices), np.diff(near.indptr))
    listed = np.bincount(rows, weights=sent[near.index] * near.in_gain, minlength=devices)
    receivers = np.setdiff1d(np.arange(devices), active)
    result: dict[str, dict[str, float]] = {}
    for kind in ("none", "mean", "grid"):
        far = build_far_field(scale, sites, near, kind)
        total = listed + (0.0 if far is None else far.at_devices(active, sent[active]))
        error = np.abs(10 * np.log10(total / exact))[receivers]
        p50, p99, worst = np.percentile(error, [50, 99, 100]).tolist()
        result[kind] = {"p50_db": p50, "p99_db": p99, "max_db": worst}
    return result


def airtime_curve(picture: Path | None, devices: int = 120) -> dict[str, dict[str, list[float]]]:
    """Airtime and span of one round against the number of links, by scheduler."""
    warnings.simplefilter("ignore", UserWarning)
    place = np.random.default_rng(0).random((devices, 2)) * 700
    curves: dict[str, dict[str, list[float]]] = {}
    for name in ("tdma", "coloring", "greedy_sinr", "broadcast"):
        curve: dict[str, list[float]] = {"links": [], "airtime_s": [], "occupied_s": []}
        for neighbours in range(1, 9):
            transfers = nearest_transfers(place, neighbours, 20_000)
            round_ = Channel(RadioSettings(scheduler=name), place, seed=0).plan_round(0, transfers)
            curve["links"].append(len(transfers))
            curve["airtime_s"].append(round_.airtime_s)
            curve["occupied_s"].append(round_.occupied_s)
        curves[name] = curve
    if picture is not None:
        kinds = (("airtime", "airtime_s"), ("span", "occupied_s"))
        series = {
            f"{name}: {kind}": (curve["links"], curve[key])
            for kind, key in kinds
            for name, curve in curves.items()
        }
        top = max(max(curve["airtime_s"]) for curve in curves.values())
        title = "Airtime and span of one round against links (120 devices, 20 kB)"
        axes = Axis("links", 0, 1000), Axis("seconds", 0.1, 1.1 * top, log=True)
        save_chart(picture, title, *axes, series)
    return curves


def _all_sizes(sizes: list[str], option: str) -> list[dict[str, Any]]:
    """One row a size, printed as it comes; with an option a second one, and processor time over the plain one's."""
    rows: list[dict[str, Any]] = []
    print("devices transfers   wall s    cpu s  memory MB  slots delivered")
    for size in sizes:
        for with_ in ("", option)[: 1 + bool(option)]:
            command = [sys.executable, "-m", "benchmarks.radio_scaling", "--one", size]
            command += [with_] * bool(with_)
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row: dict[str, Any] = {**json.loads(answer.splitlines()[-1]), "option": with_}
            rows.append(row)
            ratio = f"  {row['plan_cpu_s'] / rows[-2]['plan_cpu_s']:.2f} times" if with_ else ""
            print(
                f"{row['devices']:7d} {row['transfers']:9d} {row['plan_wall_s']:8.2f} {row['plan_cpu_s']:8.2f}"
                f" {row['peak_memory_bytes'] / 1e6:10.0f} {row['slots']:6d} {row['delivered_fraction']:9.3f}{ratio}",
                flush=True,
            )
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of devices, with commas")
    parser.add_argument("--one", type=int, help="plan this one size in this process and print JSON only")
    parser.add_argument(
        "--surroundings", action="store_true", help="each size with surroundings and motion too"
    )
    parser.add_argument(
        "--everything", action="store_true", help="as --surroundings, with NR's rates, short codes and HARQ"
    )
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/radio_airtime.svg"))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    if given.one:
        settings = EVERYTHING if given.everything else SURROUNDINGS if given.surroundings else {}
        print(json.dumps(one_size(given.one, settings)))
        return
    option = "--everything" if given.everything else "--surroundings" if given.surroundings else ""
    sizes = _all_sizes(given.sizes.split(","), option)
    if option:
        if given.json:
            print(json.dumps(with_origin({"sizes": sizes})))
        return
    errors = interference_error()
    print(
        f"\n{'far field':10s} {'p50 dB':>8s} {'p99 dB':>8s} {'max dB':>8s}   (interference at 5,000 devices)"
    )
    for kind, row in errors.items():
        print(f"{kind:10s} {row['p50_db']:8.4f} {row['p99_db']:8.4f} {row['max_db']:8.3f}")
    curves = airtime_curve(given.picture)
    if given.json:
        print(json.dumps(with_origin({"sizes": sizes, "interference_error": errors, "airtime": curves})))


if __name__ == "__main__":
    main()
