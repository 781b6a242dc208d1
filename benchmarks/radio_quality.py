"""How good are the schedulers? Against exact answers, and against each other.

`python -m benchmarks.radio_quality --json` prints, over random drops (500 m square, links of 2-65 m, path-loss
exponent 3.5, beta 5 dB, 0.1 W, noise 1e-12 W):

- one-slot capacity of greedy_sinr over the exact maximum (HiGHS) at 120 links;
- slots of greedy_sinr over the fractional covering bound (HiGHS, column generation) at 40 links;
- sum rate of fplinq's first slot over all 2^14 states;
- airtime and span of link scheduling over broadcast's, where every device sends to all neighbours;
- a table of all schedulers in one default radio, and the picture of their SINR distributions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.line_chart import Axis, save_chart
from channels.channel import Channel
from channels.estimate import nearest_transfers
from channels.pathloss import ValidityWarning
from channels.scheduling import plan
from channels.scheduling.exact import best_sum_rate, fractional_slots, largest_feasible_set
from channels.settings import RadioSettings
from channels.tables import SCHEDULERS

POWER_W, NOISE_W, BETA_DB = 0.1, 1e-12, 5.0
Gains = NDArray[np.float64]


@contextmanager
def quiet_solver() -> Iterator[None]:
    """Keep HiGHS's debugging lines, written below Python, off the terminal."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def bipolar_gains(links: int, seed: int) -> Gains:
    """(2n, 2n) gains of n links in the square; link i goes from device i to device i + n."""
    random = np.random.default_rng(seed)
    sender = random.random((links, 2)) * 500
    length, angle = random.uniform(2, 65, links), random.uniform(0, 2 * np.pi, links)
    place = np.concatenate([sender, sender + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)])
    return _gains(place)


def _gains(place: Gains) -> Gains:
    apart = np.linalg.norm(place[:, None] - place, axis=2)
    np.fill_diagonal(apart, 1.0)
    return np.maximum(apart, 1.0) ** -3.5


def _affectances(gains: Gains) -> Gains:
    links, beta = gains.shape[0] // 2, 10 ** (BETA_DB / 10)
    received = POWER_W * gains[:links, links:]
    ratio = beta * received / (np.diagonal(received) - beta * NOISE_W)
    np.fill_diagonal(ratio, 0.0)
    return ratio


def _link_table(name: str, gains: Gains, **options: Any) -> Any:
    links = gains.shape[0] // 2
    wanted = [(i, i + links, 1000) for i in range(links)]
    return plan(name, wanted, gains, POWER_W, NOISE_W, **options).table


def capacity(drops: int, links: int = 120) -> dict[str, float]:
    """Links in greedy_sinr's first slot over the exact maximum."""
    shares, proven = [], 0
    for seed in range(drops):
        gains = bipolar_gains(links, seed)
        with quiet_solver():
            best = largest_feasible_set(_affectances(gains))
        proven += best.optimal
        first = (_link_table("greedy_sinr", gains, sinr_min_db=BETA_DB)["slot"] == 0).sum()
        shares.append(first / best.bound)
    return {
        "mean": float(np.mean(shares)),
        "min": float(np.min(shares)),
        "proven_optimal": proven,
        "drops": drops,
    }


def slots(drops: int, links: int = 40) -> dict[str, float]:
    """Slots of greedy_sinr over the fractional covering bound."""
    ratios = []
    for seed in range(drops):
        gains = bipolar_gains(links, 1000 + seed)
        used = _link_table("greedy_sinr", gains, sinr_min_db=BETA_DB)["slot"].nunique()
        with quiet_solver():
            bound = fractional_slots(_affectances(gains), time_limit_s=20.0)
        ratios.append(used / bound)
    return {"mean": float(np.mean(ratios)), "max": float(np.max(ratios)), "drops": drops}


def sum_rate(drops: int, links: int = 14) -> dict[str, float]:
    """Sum rate of fplinq's first slot over the best of all on/off states."""
    shares = []
    for seed in range(drops):
        gains = bipolar_gains(links, 2000 + seed)
        table = _link_table("fplinq", gains, bandwidth_hz=1.0)
        best = best_sum_rate(POWER_W * gains[:links, links:], np.full(links, NOISE_W))
        shares.append(table.loc[table["slot"] == 0, "rate_bps"].sum() / best)
    return {"mean": float(np.mean(shares)), "min": float(np.min(shares)), "drops": drops}


def broadcast(drops: int, devices: int = 40, reach_m: float = 100.0) -> dict[str, float]:
    """Airtime and span of link schedules over broadcast's; above 1 broadcast is cheaper."""
    airtime, span = [], []
    for seed in range(drops):
        place = np.random.default_rng(seed).random((devices, 2)) * 500
        apart = np.linalg.norm(place[:, None] - place, axis=2)
        np.fill_diagonal(apart, np.inf)
        wanted = [(i, np.flatnonzero(apart[i] < reach_m), 1000) for i in range(devices)]
        wanted = [entry for entry in wanted if entry[1].size]
        gains = _gains(place)
        once = plan("broadcast", wanted, gains, POWER_W, NOISE_W)
        for name in ("greedy_sinr", "coloring", "tdma"):
            links = plan(name, wanted, gains, POWER_W, NOISE_W)
            airtime.append(links.airtime_s / once.airtime_s)
            span.append(links.end_s / once.end_s)
    return {
        "airtime_ratio_mean": float(np.mean(airtime)),
        "airtime_ratio_min": float(np.min(airtime)),
        "span_ratio_mean": float(np.mean(span)),
        "span_ratio_min": float(np.min(span)),
        "drops": drops,
    }


def compare_schedulers(picture: Path | None, devices: int = 60) -> dict[str, dict[str, float]]:
    """All schedulers on one default radio: 60 devices in 500 m, each sending 20 kB to its three nearest."""
    place = np.random.default_rng(0).random((devices, 2)) * 500
    wanted = nearest_transfers(place, 3, 20_000)
    rows: dict[str, dict[str, float]] = {}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    levels = np.linspace(0.5, 99.5, 100)
    for name in SCHEDULERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ValidityWarning)
            round_ = Channel(RadioSettings(scheduler=name), place, seed=0).plan_round(0, wanted)
        sinr = round_.table["sinr_db"].to_numpy()
        rows[name] = {
            "slots": int(round_.table["slot"].nunique()),
            "airtime_s": round_.airtime_s,
            "occupied_s": round_.occupied_s,
            "energy_j": float(round_.energy_j.sum()),
            "delivered_fraction": float(round_.delivered.mean()),
            "sinr_median_db": float(np.median(sinr)),
        }
        curves[name] = (np.percentile(sinr, levels).tolist(), (levels / 100).tolist())
    if picture is not None:
        title = "SINR of every transmission by scheduler (60 devices, Rayleigh)"
        save_chart(
            picture, title, Axis("SINR (dB)", -20, 60), Axis("share of transmissions below", 0, 1), curves
        )
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drops", type=int, default=20, help="random drops per question")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/radio_sinr.svg"))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    result: dict[str, Any] = {
        "one_slot_capacity": capacity(given.drops),
        "slots_over_lp": slots(given.drops),
        "fplinq_sum_rate": sum_rate(given.drops),
        "broadcast": broadcast(given.drops),
    }
    for question, numbers in result.items():
        shown = "  ".join(f"{key} {value:.3f}" for key, value in numbers.items())
        print(f"{question:20s} {shown}", flush=True)
    result["schedulers"] = compare_schedulers(given.picture)
    print("\nscheduler           slots  airtime s   span s  energy J delivered  SINR dB")
    for name, row in result["schedulers"].items():
        print(
            f"{name:18s} {row['slots']:6d} {row['airtime_s']:10.3f} {row['occupied_s']:8.3f} {row['energy_j']:9.3f}"
            f" {row['delivered_fraction']:9.3f} {row['sinr_median_db']:8.1f}"
        )
    if given.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
