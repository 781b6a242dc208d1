"""The radio against independent values: closed forms, exact answers and sums by hand.

    python -m benchmarks.radio_checks            # about half a minute

Prints one Markdown row a check: what is checked, our value, the independent value, the difference. A value that is
measured over random draws is followed by the standard error of its difference.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import j0

from benchmarks.radio_quality import deadline, span_over_optimum
from channels.adaptation import rate_law
from channels.channel import Channel
from channels.decoding import RateRule
from channels.energy import DeviceClass, draw_classes
from channels.pathloss import path_loss_db
from channels.settings import RadioSettings
from channels.transfers import Transfers

CARRIER_HZ, LIGHT_MPS = 2e9, 299_792_458.0


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        what: What is checked.
        ours: Our value.
        other: The independent value.
        error: Standard error of the difference; 0 for a value without draws.
    """

    what: str
    ours: float
    other: float
    error: float = 0.0


def link(snr_db: float, devices: int = 2, **fields: object) -> Channel:
    """Devices on a line, neighbours at the given mean SNR: free space, no shadowing."""
    known = {"path_loss": "free_space", "shadowing": False, "line_of_sight": "always"} | fields
    settings = RadioSettings(**known)  # type: ignore[arg-type]
    probe = float(Channel(settings, [[0.0, 0.0], [100.0, 0.0]], seed=0).mean_snr_db(0, 1))
    apart = 100 * 10 ** ((probe - snr_db) / 20)
    return Channel(settings, np.stack([np.arange(devices) * apart, np.zeros(devices)], axis=1), seed=3)


def path_loss() -> Iterator[Check]:
    """TR 36.843 outdoor, 100 m at 2 GHz, written out."""
    sight = 22.7 * 2 + 27 + 20 * math.log10(2.0)
    breakpoint_m = 4 * 0.8**2 * CARRIER_HZ / 3e8
    if breakpoint_m < 100:
        sight = 40 * 2 + 7.56 - 34.6 * math.log10(0.8) + 2.7 * math.log10(2.0)
    yield Check("path loss in sight, 100 m, dB", float(path_loss_db("d2d_outdoor", 100, CARRIER_HZ)), sight)
    blocked = (
        (44.9 - 6.55 * math.log10(1.5)) * 2 + 5.83 * math.log10(1.5) + 14.78 + 34.97 * math.log10(2.0) - 5
    )
    ours = float(path_loss_db("d2d_outdoor", 100, CARRIER_HZ, los=False))
    yield Check("path loss out of sight, 100 m, dB", ours, blocked)


def rates() -> Iterator[Check]:
    """Best fixed rate and chance under Rayleigh fading at 10 dB."""
    best = optimize.minimize_scalar(
        lambda r: -r * math.exp(-(2**r - 1) / 10), bounds=(0, 6), method="bounded"
    )
    law = rate_law(RateRule("shannon", 1.0, 0.0, 1e-6, "rayleigh"))
    yield Check(
        "goodput of the chosen rate, 10 dB Rayleigh, bit/s/Hz", float(law.goodput(10.0)), -float(best.fun)
    )
    channel, rounds = link(10.0, max_attempts=1, scheduler="tdma", snr_gap_db=0.0), 4000
    got = [channel.plan_round(k, Transfers.build([0], [1], 1000)) for k in range(rounds)]
    rate = float(got[0].table["rate_bps"].iloc[0]) / 5e6
    chance = math.exp(-(2**rate - 1) / 10)
    error = math.sqrt(chance * (1 - chance) / rounds)
    yield Check("share decoded at that rate", float(np.mean([g.delivered[0] for g in got])), chance, error)


def relays() -> Iterator[Check]:
    """Two hops: P = p1·p2, and the second starts no earlier than the first ends."""
    channel, rounds = link(8.0, 3, max_attempts=1, scheduler="tdma"), 4000
    wanted = Transfers.build([0, 1], [1, 2], 1000, after=[-1, 0])
    plans = [channel.plan_round(k, wanted) for k in range(rounds)]
    got = np.array([p.delivered for p in plans])
    # The rate is the same on both hops; both decode with the chance of one.
    rate = float(plans[0].table["rate_bps"].iloc[0]) / 5e6
    both = math.exp(-2 * max(2**rate - 1, 0.0) * 10**0.3 / 10**0.8)
    error = math.sqrt(both * (1 - both) / rounds)
    yield Check("share of two hops delivered, p1·p2", float(got.all(axis=1).mean()), both, error)
    early = 0
    for plan in plans:
        second = plan.table[plan.table["transfer"] == 1]
        early += int((second["start_s"] < np.nan_to_num(plan.finished_s[0], nan=math.inf)).sum())
    yield Check("second hops sent before or without the first", early, 0)


def fading_in_time() -> Iterator[Check]:
    """Correlation of the power at a lag against Clarke's J0 squared; 15 m/s at 2 GHz, 4,000 links."""
    from channels import fading_kernels
    from channels.slot_fading import SlotFading

    first, second = np.arange(4000), np.arange(4000) + 4000
    doppler = 15.0 * CARRIER_HZ / LIGHT_MPS
    law = SlotFading(doppler_hz=doppler, kind=1, key=11).law(1)

    def power(time_s: float) -> np.ndarray:
        at = np.full(4000, time_s)
        return fading_kernels.fading_factors(first, second, at, *law)

    for lag_s in (1e-3, 5e-3, 20e-3):
        pairs = [(power(k * 0.5), power(k * 0.5 + lag_s)) for k in range(6)]
        ours = float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))
        error = 1 / math.sqrt(4000 * 6)
        yield Check(
            f"correlation of fading after {lag_s * 1e3:g} ms",
            ours,
            float(j0(2 * np.pi * doppler * lag_s) ** 2),
            error,
        )


def shadowing() -> Iterator[Check]:
    """Correlation of shadowing over shifts of either end against exp(-(|da| + |db|)/13 m); 20,000 links."""
    random, count = np.random.default_rng(6), 20_000
    settings = RadioSettings(line_of_sight="never", path_loss="log_distance", shadowing_sigma_db=7.0,
                             shadowing_decorrelation_m=13.0, dense_devices=1)  # fmt: skip

    def step(length_m: float) -> np.ndarray:
        angle = random.random(count) * 2 * np.pi
        return length_m * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    one = random.random((count, 2)) * 200e3
    other, number = one + step(150.0), np.arange(count)
    for da, db in ((1.0, 0.0), (5.0, 5.0), (13.0, 0.0)):
        place = np.concatenate([one, other, one + step(da), other + step(db)])
        channel = Channel(settings, place, seed=4)
        before = channel.mean_snr_db(number, number + count)
        after = channel.mean_snr_db(number + 2 * count, number + 3 * count)
        law, ours = math.exp(-(da + db) / 13.0), float(np.corrcoef(before, after)[0, 1])
        yield Check(
            f"correlation of shadowing, ends moved {da:g} m and {db:g} m", ours, law, 1 / math.sqrt(count)
        )
    channel.move(place + 70.0)
    channel.move(place)
    back = float(np.abs(channel.mean_snr_db(number, number + count) - before).max())
    yield Check("change after a walk away and back, dB", back, 0.0)


def energy() -> Iterator[Check]:
    """Every second of three devices by hand, and a battery that ends a transmission."""
    powers = {"listen_power_w": 0.03, "idle_power_w": 0.01, "receive_power_w": 0.2, "fading": "none"}
    done = link(20.0, 3, **powers).plan_round(0, Transfers.build([0], [1], 10_000), ready_s=[2.0, 0.0, 5.0])
    on_air, sending = (
        float(done.table["end_s"].iloc[0] - done.table["start_s"].iloc[0]),
        10**-0.7 / 0.35 + 0.1,
    )
    rest = 3.0 - on_air
    by_hand = 2 * 0.01 + on_air * sending + rest * 0.01 + 2 * 0.03 + on_air * 0.2 + rest * 0.01 + 5 * 0.01
    yield Check("energy of a round of three devices, J", float(done.energy_j.sum()), by_hand)
    place = np.random.default_rng(0).random((12, 2)) * 250
    classes = draw_classes([DeviceClass(battery_j=0.02)], 12, seed=0)
    channel, source = Channel(RadioSettings(), place, seed=1, device_classes=classes), np.arange(12)
    wanted = Transfers.build(source, (source + 1) % 12, 20_000)
    spent = sum(channel.plan_round(k, wanted, compute_energy_j=np.full(12, 1e-3)).energy_j for k in range(40))
    yield Check("most a battery of 0.02 J gives in 40 rounds, J", float(np.max(spent)), 0.02)


def schedules() -> Iterator[Check]:
    """Spans against dynamic programming, deadlines against tdma."""
    spans = span_over_optimum()
    yield Check("span of greedy_sinr over the optimum, mean of 120 rounds of 10 links", spans["mean"], 1.0)
    yield Check("span of greedy_sinr over the optimum, worst of them", spans["max"], 1.0)
    late = deadline(10)
    what = "delivered in 100 ms of 120, greedy_sinr against tdma (bound), mean of 10"
    yield Check(what, late["greedy_sinr"], late["tdma"])


def main() -> None:
    """Run the checks from the command line."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    warnings.simplefilter("ignore", UserWarning)
    print("| check | ours | independent | difference |\n|---|---|---|---|")
    for group in (path_loss, rates, relays, fading_in_time, shadowing, energy, schedules):
        for check in group():
            error = f" (± {check.error:.1g})" if check.error else ""
            print(
                f"| {check.what} | {check.ours:.6g} | {check.other:.6g} | {check.ours - check.other:.2g}{error} |"
            )


if __name__ == "__main__":
    main()
