"""Half-duplex losses and collisions of `sidelink_mode2` beside the analytical models of C-V2X mode 4.

    python -m benchmarks.sidelink_mode4

prints the table of docs/radio.md#checked-against, in a minute or two. On a road with a vehicle
every 1/beta metres, each sends a packet every 1/lambda seconds that takes one of the sub-channels; they see each other
by the path loss of WINNER+ B1 in sight at 5.91 GHz and 3 dB of shadowing. The models' equations are written down anew;
of the two models of collisions it is the one without the second stage by mean RSSI, which NR does not have. What is
decoded is a step here, at 7 dB, where the paper reads block error rates from curves.

Source:
    Gonzalez-Martín, Sepulcre, Molina-Masegosa and Gozalvez, Analytical Models of the Performance of C-V2X Mode 4
    Vehicular Communications (IEEE Trans. Vehicular Technology 68(2), 2019). Equations have the paper's numbers, as the
    comments of the authors' program (github.com/msepulcre/C-V2X) give them; the paper itself was not at hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from channels.arrays import FloatArray
from channels.scheduling import plan

SENSED_DBM, SIGMA_DB, NEEDED_DB = -90.5, 3.0, 7.0
NOISE_DBM = float(-95 - 10 * np.log10(5))
ROAD_M = 3000
DISTANCES_M = np.array([20, 50, 100, 150, 200, 250, 300, 400, 500])
_FADES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


@dataclass(frozen=True)
class Road:
    """Traffic and radio of a road.

    Attributes:
        beta: Vehicles a metre.
        rate_hz: Packets a second of each, lambda.
        power_dbm: Transmit power in dBm.
        subchannels: Sub-channels.
    """

    beta: float
    rate_hz: int
    power_dbm: float
    subchannels: int


ROADS = (
    Road(0.1, 10, 20, 4), Road(0.2, 10, 20, 4), Road(0.1, 20, 20, 4), Road(0.3, 10, 20, 4), Road(0.3, 10, 23, 4),
    Road(0.2, 10, 20, 2), Road(0.2, 20, 20, 4), Road(0.3, 20, 20, 4),
)  # fmt: skip
"""In the order of the share of resources that the models take as busy; the last has none left, so that thresholds rise.
"""


def loss_db(distance_m: ArrayLike) -> FloatArray:
    """Path loss in dB of WINNER+ B1 in sight, not below that of free space; antennas 1.5 m high, any shape."""
    d, ghz = np.maximum(np.abs(np.asarray(distance_m, dtype=np.float64)), 3.0), 5.91
    near = 22.7 * np.log10(d) + 27 + 20 * np.log10(ghz)
    far = 40 * np.log10(d) + 7.56 - 34.6 * np.log10(1.5) + 2.7 * np.log10(ghz)
    free = 20 * np.log10(d) + 46.4 + 20 * np.log10(ghz / 5)
    return np.maximum(np.where(d < 4 * 1.5**2 * ghz * 1e9 / 3e8, near, far), free)


def sensed(distance_m: ArrayLike, power_dbm: float, threshold_dbm: float = SENSED_DBM) -> FloatArray:
    """Chance that the received power reaches a threshold (eq. 11), any shape."""
    return np.asarray(ndtr((power_dbm - loss_db(distance_m) - threshold_dbm) / SIGMA_DB))


def lost_beside(distance_m: float, interference_dbm: ArrayLike, power_dbm: float) -> FloatArray:
    """Chance that a packet above the sensed power is lost (eq. 13 and 17).

    Args:
        distance_m: Distance to the sender in m.
        interference_dbm: Mean power of an interferer in dBm, any shape; -inf for none.
        power_dbm: Transmit power in dBm.

    Returns:
        Probabilities in the shape of `interference_dbm`.
    """
    mean_dbm = float(power_dbm - loss_db(distance_m))
    level = 10 ** ((np.asarray(interference_dbm)[..., None] + SIGMA_DB * _FADES) / 10) + 10 ** (
        NOISE_DBM / 10
    )
    unsensed = float(ndtr((SENSED_DBM - mean_dbm) / SIGMA_DB))
    below = ndtr((NEEDED_DB + 10 * np.log10(level) - mean_dbm) / SIGMA_DB)
    return np.maximum(below - unsensed, 0) @ (_WEIGHTS / _WEIGHTS.sum()) / (1 - unsensed)


def choice(road: Road) -> tuple[float, FloatArray, float]:
    """What a choice of resources comes to.

    Args:
        road: The road.

    Returns:
        The threshold in dBm after it was raised, the chance that two vehicles of which neither knows of the other take
        one resource, by their distance in whole m (eq. 23 and 26), and the share of resources that are excluded.
    """
    resources, threshold_dbm = road.subchannels * 1000 / road.rate_hz, SENSED_DBM
    while True:
        heard = sensed(np.arange(-1500, 1501), road.power_dbm, threshold_dbm)
        around = road.beta * float(heard.sum())
        half = around / 2
        taken = np.maximum(1 - np.arange(1, int(half) + 1) / (resources - half), 0)
        excluded = half + float(taken.sum())  # eq. 29
        if resources - excluded >= 0.2 * resources:
            break
        threshold_dbm += 3
    overlap = np.correlate(heard, heard, "full")[heard.size - 1 :]  # eq. 30.2
    apart = excluded**2 / resources
    common = overlap / overlap[0] * (road.beta * excluded * overlap[0] / around - apart) + apart  # eq. 30
    both_free = resources - 2 * excluded + common  # eq. 27
    return threshold_dbm, both_free / (resources - excluded) ** 2, excluded / resources


def modelled(road: Road) -> FloatArray:
    """(distances, 4) shares of packets lost by half duplex, low power, propagation and collision (eq. 6).

    Args:
        road: The road.
    """
    threshold_dbm, same_place, _busy = choice(road)
    steps = np.arange(1, round(1000 * road.beta) + 1) / road.beta
    to_receiver, out = np.concatenate([-steps[::-1], steps]), list[FloatArray]()
    for distance_m in DISTANCES_M.tolist():
        to_sender = to_receiver + distance_m
        unaware = 1 - (1 - 1 / road.rate_hz) * sensed(to_sender, road.power_dbm, threshold_dbm)  # eq. 24
        same = unaware * np.interp(np.abs(to_sender), np.arange(same_place.size), same_place)
        same[np.abs(to_sender) < 1e-9] = 0.0  # the sender itself
        weak = 1 - float(sensed(distance_m, road.power_dbm))  # eq. 10
        alone = float(lost_beside(distance_m, -np.inf, road.power_dbm))
        beside = lost_beside(distance_m, road.power_dbm - loss_db(to_receiver), road.power_dbm)
        spoilt = np.maximum((beside - alone) / (1 - alone), 0)  # eq. 18
        collided = 1 - float(np.prod(1 - same * spoilt))  # eq. 14 and 15
        shares = np.array([road.rate_hz / 1000, weak, alone, collided])  # eq. 7
        out.append(shares * np.cumprod(np.concatenate([[1.0], 1 - shares[:3]]), dtype=np.float64))
    return np.array(out)


@lru_cache(maxsize=16)
def scheduled(road: Road, periods: int = 100, skipped: int = 40, seed: int = 0) -> FloatArray:
    """The same shares of the packets that the scheduler places, among the vehicles of a ring road of `ROAD_M`.

    Args:
        road: The road.
        periods: Packets of each vehicle.
        skipped: The first of them, which are not counted.
        seed: Seed of shadowing and of the scheduler.

    Returns:
        (distances, 4) shares.
    """
    vehicles, period = round(road.beta * ROAD_M), round(1000 / road.rate_hz)
    place = np.arange(vehicles) / road.beta
    apart = np.abs(place[:, None] - place)
    shadow_db = np.triu(np.random.default_rng(seed).normal(size=apart.shape) * SIGMA_DB, 1)
    received_dbm = road.power_dbm - loss_db(np.minimum(apart, ROAD_M - apart)) - shadow_db - shadow_db.T
    np.fill_diagonal(received_dbm, -np.inf)
    table = plan(
        "sidelink_mode2", [(i, (i + 1) % vehicles, 10**9) for i in range(vehicles)],
        10 ** ((received_dbm - road.power_dbm) / 10), 10 ** (road.power_dbm / 10 - 3), 1e-13 * road.subchannels,
        subchannels=road.subchannels, slot_s=1e-3, max_slots=periods * period, max_attempts=10**9, sinr_min_db=-30.0,
        seed=seed, scheduler_options={
            "period_s": period / 1000, "sense_dbm": SENSED_DBM, "losses": 0, "sensing_s": 1.0,
        },
    ).table  # fmt: skip
    counted = table[table["slot"] >= skipped * period]
    counts = np.zeros((DISTANCES_M.size, 4))
    for _, rows in counted.groupby("slot"):
        counts += _fates(
            road, received_dbm, rows["source"].to_numpy(np.int64), rows["subchannel"].to_numpy(np.int64)
        )
    return counts / (2 * len(counted))


def _fates(road: Road, received_dbm: FloatArray, who: np.ndarray, band: np.ndarray) -> FloatArray:
    """(distances, 4) packets of one slot lost by each cause, at the receivers ahead and behind."""
    vehicles = received_dbm.shape[0]
    power_mw = 10 ** (received_dbm / 10)
    level_mw = np.zeros((road.subchannels, vehicles))
    np.add.at(level_mw, band, power_mw[who])
    sending = np.isin(np.arange(vehicles), who)
    hops, counts = np.rint(DISTANCES_M * road.beta).astype(np.int64), np.zeros((DISTANCES_M.size, 4))
    for side in (hops, -hops):
        to = (who[:, None] + side) % vehicles
        signal_dbm = received_dbm[who[:, None], to]
        other_mw = level_mw[band[:, None], to] - power_mw[who[:, None], to]
        sinr_db = signal_dbm - 10 * np.log10(np.maximum(other_mw, 0) + 10 ** (NOISE_DBM / 10))
        weak, alone = signal_dbm < SENSED_DBM, signal_dbm - NOISE_DBM < NEEDED_DB
        causes = np.stack([sending[to], weak, alone, sinr_db < NEEDED_DB], -1)
        counts += (causes & (np.cumsum(causes, axis=-1) == 1)).sum(axis=0)
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; there is nothing to choose."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    at = [int(np.flatnonzero(d == DISTANCES_M)[0]) for d in (100, 200, 300, 400)]
    print("| vehicles a km | Hz | dBm | sub-channels | busy | half duplex | collision at 100 m | 200 m | 300 m | 400 m"
          " | mean difference | largest |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for road in ROADS:
        theirs, ours = 100 * modelled(road), 100 * scheduled(road)
        off = np.abs(ours - theirs)[:, 3]
        pairs = [f"{theirs[k, 3]:.1f} / {ours[k, 3]:.1f}" for k in at]
        duplex = f"{theirs[:, 0].mean():.1f} / {ours[:, 0].mean():.1f}"
        first = f"| {1000 * road.beta:.0f} | {road.rate_hz} | {road.power_dbm:.0f} | {road.subchannels}"
        print(
            f"{first} | {choice(road)[2]:.2f} | {duplex} | {' | '.join(pairs)} | {off.mean():.1f} | {off.max():.1f} |"
        )


if __name__ == "__main__":
    main()
