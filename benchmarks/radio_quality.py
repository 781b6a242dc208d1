"""How good are the schedulers? Against exact answers, and against each other.

`python -m benchmarks.radio_quality --json` prints, over random drops (500 m square, links of 2-65 m, path-loss
exponent 3.5, beta 5 dB, 0.1 W, noise 1e-12 W):

- span of greedy_sinr over the optimum by dynamic programming, and over tdma's, on 120 rounds of 10 links: five
  densities, three powers, each printed;
- transfers delivered before a deadline by greedy_sinr and by tdma, at 120 links;
- sum rate of fplinq's first slot over all 2^14 states;
- airtime and span of link scheduling over broadcast's, where every device sends to all neighbours;
- a table of all schedulers in one default radio, like for like (one transmission a transfer), with greedy_sinr and
  tdma also serving all receivers of a message at once, and the picture of their SINR distributions.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.line_chart import Axis, save_chart
from benchmarks.result import with_origin
from channels.adaptation import MAX_EFFICIENCY
from channels.channel import Channel
from channels.estimate import nearest_transfers
from channels.link import noise_power_dbm
from channels.scheduling import plan
from channels.scheduling.exact import best_sum_rate, shortest_span
from channels.settings import RadioSettings
from channels.tables import SCHEDULERS
from channels.transfers import Transfers

POWER_W, NOISE_W, BANDWIDTH_HZ = 0.1, 1e-12, 5e6
Gains = NDArray[np.float64]


def bipolar_gains(links: int, seed: int, side_m: float = 500.0) -> Gains:
    """(2n, 2n) gains of n links in the square; link i goes from device i to device i + n."""
    random = np.random.default_rng(seed)
    sender = random.random((links, 2)) * side_m
    length, angle = random.uniform(2, 65, links), random.uniform(0, 2 * np.pi, links)
    place = np.concatenate([sender, sender + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)])
    return _gains(place)


def _gains(place: Gains) -> Gains:
    apart = np.linalg.norm(place[:, None] - place, axis=2)
    np.fill_diagonal(apart, 1.0)
    return np.maximum(apart, 1.0) ** -3.5


def _link_table(name: str, gains: Gains, **options: Any) -> Any:
    links = gains.shape[0] // 2
    wanted = [(i, i + links, 1000) for i in range(links)]
    return plan(name, wanted, gains, POWER_W, NOISE_W, **options).table


def _slot_times(gains: Gains, power_w: float, noise_w: float, payload_bytes: NDArray[np.int64]) -> Gains:
    """(2^n,) time in s of a slot that holds the links of each bit mask; inf where one falls below 0 dB."""
    links = payload_bytes.size
    states = ((np.arange(1 << links)[:, None] >> np.arange(links)) & 1) > 0
    received = power_w * gains[:links, links:]
    own = np.diagonal(received)
    sinr = own / (states @ received - states * own + noise_w)
    rate = BANDWIDTH_HZ * np.minimum(np.log2(1 + sinr), MAX_EFFICIENCY)
    times = np.where(states, payload_bytes * 8 / rate, 0.0).max(axis=1)
    return np.where((states & (sinr < 1)).any(axis=1), np.inf, times)


def span_over_optimum(drops: int = 8, links: int = 10) -> dict[str, float]:
    """Span of greedy_sinr over the optimum and over tdma's: five densities, three powers, `drops` each.

    `gap_<side>m_<power>dbm` are the means over the drops of one density and power.
    """
    noise_w = 10 ** (float(noise_power_dbm(BANDWIDTH_HZ, 9.0)) / 10 - 3)
    ratios, serial, gaps = [], [], {}
    for side_m in (100.0, 150.0, 250.0, 400.0, 1000.0):
        for power_dbm in (10.0, 16.0, 23.0):
            for seed in range(drops):
                random = np.random.default_rng(seed)
                gains = bipolar_gains(links, seed, side_m) * 10**-3.85
                power_w, payload = 10 ** (power_dbm / 10 - 3), random.integers(5000, 50_000, links)
                wanted = [(i, i + links, int(payload[i])) for i in range(links)]
                ends = [
                    plan(
                        name, wanted, gains, power_w, noise_w, sinr_min_db=0.0, bandwidth_hz=BANDWIDTH_HZ
                    ).end_s
                    for name in ("greedy_sinr", "tdma")
                ]
                ratios.append(ends[0] / shortest_span(_slot_times(gains, power_w, noise_w, payload)))
                serial.append(ends[0] / ends[1])
            gaps[f"gap_{side_m:.0f}m_{power_dbm:.0f}dbm"] = float(np.mean(ratios[-drops:]))
    return {
        **gaps,
        "mean": float(np.mean(ratios)),
        "max": float(np.max(ratios)),
        "over_tdma_mean": float(np.mean(serial)),
        "over_tdma_max": float(np.max(serial)),
        "drops": len(ratios),
    }


def deadline(drops: int, devices: int = 120, deadline_s: float = 0.1) -> dict[str, float]:
    """Transfers delivered before a deadline of 100 ms: 120 devices in 700 m, 4 kB each, default radio."""
    counts: dict[str, list[int]] = {"greedy_sinr": [], "tdma": []}
    source = np.arange(devices)
    wanted = Transfers.build(source, (source + 1) % devices, 4000)
    for seed in range(drops):
        place = np.random.default_rng(seed).random((devices, 2)) * 700
        for name, delivered in counts.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                radio = RadioSettings(scheduler=name, deadline_s=deadline_s)
                delivered.append(int(Channel(radio, place, seed=seed).plan_round(0, wanted).delivered.sum()))
    fewer = np.subtract(counts["greedy_sinr"], counts["tdma"]).min()
    return {name: float(np.mean(got)) for name, got in counts.items()} | {"least_ahead": float(fewer)}


def sum_rate(drops: int, links: int = 14) -> dict[str, float]:
    """Sum rate of fplinq's first slot over the best of all on/off states."""
    shares = []
    for seed in range(drops):
        gains = bipolar_gains(links, 2000 + seed)
        table = _link_table("fplinq", gains, bandwidth_hz=1.0)
        best = best_sum_rate(POWER_W * gains[:links, links:], np.full(links, NOISE_W))
        sinr_db = table.loc[table["slot"] == 0, "sinr_db"]
        shares.append(np.log2(1 + 10 ** (sinr_db / 10)).sum() / best)
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
            links = plan(name, wanted, gains, POWER_W, NOISE_W, multicast=False)
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
    unicast = Transfers.build(wanted.source, wanted.destination, wanted.payload_bytes)
    for shown in (*SCHEDULERS, "tdma, multicast", "greedy_sinr, multicast"):
        name = shown.split(",")[0]
        asked = wanted if name != shown or name == "broadcast" else unicast
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            round_ = Channel(RadioSettings(scheduler=name), place, seed=0).plan_round(0, asked)
        sinr = round_.table["sinr_db"].to_numpy()
        sinr = sinr[np.isfinite(sinr)]
        rows[shown] = {
            "slots": int(round_.table["slot"].nunique()),
            "airtime_s": round_.airtime_s,
            "occupied_s": round_.occupied_s,
            "energy_j": float(round_.energy_j.sum()),
            "on_air_j": float(round_.energy_j.sum() - round_.idle_energy_j.sum()),
            "delivered_fraction": float(round_.delivered.mean()),
            "sinr_median_db": float(np.median(sinr)),
        }
        curves[shown] = (np.percentile(sinr, levels).tolist(), (levels / 100).tolist())
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
        "span_over_optimum": span_over_optimum(),
        "deadline": deadline(given.drops),
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
            f"{name:22s} {row['slots']:6d} {row['airtime_s']:10.3f} {row['occupied_s']:8.3f} {row['energy_j']:9.3f}"
            f" {row['delivered_fraction']:9.3f} {row['sinr_median_db']:8.1f}"
        )
    if given.json:
        print(json.dumps(with_origin(result, seeds=given.drops)))


if __name__ == "__main__":
    main()
