"""The radio's numbers beside those that standards, papers and other simulators' tests print.

    python -m benchmarks.radio_against

prints the table of docs/radio.md#checked-against, in seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from benchmarks import sidelink_mode4
from channels.blocklength import error_probability, rate_at
from channels.nr import schemes, transport_block_bits
from channels.pathloss import los_probability, path_loss_db
from channels.settings import RadioSettings

NS3, LENA = "ns-3", "5G-LENA"
"""Their tests `three-gpp-propagation-loss-model-test-suite.cc` and `nr-test-l2sm-eesm.cc`."""
NS3_LOSSES: dict[tuple[str, bool], dict[float, float]] = {
    ("rma", True): {10: 77.3784, 100: 87.2965, 1000: 108.5577, 10_000: 140.3896},
    ("rma", False): {10: 77.3784, 100: 95.7718, 1000: 133.5223, 5000: 160.5169},
    ("uma", True): {10: 72.9380, 100: 86.2362, 1000: 109.7252, 5000: 137.6794},
    ("uma", False): {10: 82.5131, 100: 106.1356, 1000: 144.7641, 5000: 172.0753},
    ("umi", True): {10: 69.8591, 100: 88.4122},
    ("inh", True): {1: 50.8072, 10: 63.7630, 50: 75.7750, 100: 80.9802},
    ("inh", False): {1: 50.8072, 10: 73.1894, 50: 99.7824, 100: 111.3062},
    ("v2x_urban", True): {10: 68.1913, 100: 84.8913, 1000: 101.5913},
    ("v2x_urban", False): {10: 80.0605, 100: 110.0605, 1000: 140.0605},
    ("v2x_highway", True): {10: 66.3794, 100: 86.3794, 1000: 106.3794},
}
"""(model, line of sight) -> ground distance in m -> loss in dB at 5 GHz, with the heights of the standard."""
MODE_4 = "model of C-V2X mode 4 (Gonzalez-Martín et al. 2019)"
INDOOR_HEIGHTS_M = (3.0, 1.5)


@dataclass(frozen=True)
class Against:
    """One number of another source and ours.

    Attributes:
        source: Where theirs is printed.
        condition: What it is the value of.
        theirs: Their value.
        ours: Our value.
    """

    source: str
    condition: str
    theirs: float
    ours: float


def losses() -> Iterator[Against]:
    """Path losses."""
    for (model, los), row in NS3_LOSSES.items():
        sight = "in sight" if los else "out of sight"
        heights = INDOOR_HEIGHTS_M if model == "inh" else (None, None)
        more: dict[str, Any] = {"blocked": "building"} if model == "v2x_urban" else {}
        for distance_m, loss_db in row.items():
            ours = path_loss_db(
                model, distance_m, 5e9, los=los, tx_height_m=heights[0], rx_height_m=heights[1], **more
            )
            yield Against(NS3, f"{model} {sight}, {distance_m:,.0f} m, 5 GHz, dB", loss_db, float(ours))


def links() -> Iterator[Against]:
    """Rates, transport blocks and errors."""
    paper = "Polyanskiy, Poor, Verdú 2010, normal approximation"
    yield Against(paper, "bit a use, 0 dB, n = 500, eps 1e-3", 0.836, float(rate_at(1.0, 500, 1e-3)))
    clause = "TS 38.214, clause 5.1.3.2 by hand"
    for blocks, index, bits in ((25, 0, 928), (25, 10, 5120), (25, 28, 21504)):
        order, rate = schemes("qam64")[index]
        ours = transport_block_bits(156 * blocks, order, rate)
        yield Against(clause, f"transport block, MCS {index}, {blocks} blocks, bit", bits, ours)
    probability = float(los_probability("rma", 1010.0))
    yield Against("TR 38.901, table 7.4.2-1", "rma in sight at 1,010 m", np.exp(-1.0), probability)


def codes() -> Iterator[Against]:
    """SINR of a block-error rate: LDPC codes at link level, and the normal approximation with the default gap."""
    for index, bits, rows in (
        (14, 6272, {9.5: 0.0237, 9.0: 0.9990}),
        (18, 3104, {13.0: 0.023, 12.0: 0.7567}),
    ):
        order, rate = schemes("qam64")[index]
        carried = order * rate
        for snr_db, errors in rows.items():
            ours = optimize.brentq(
                lambda at, n=bits / carried, r=carried, e=errors: (
                    float(error_probability(10 ** ((at - RadioSettings().snr_gap_db) / 10), r, n)) - e
                ),
                -10.0, 30.0,
            )  # fmt: skip
            yield Against(
                LENA, f"SINR of {errors:.2g} block errors, MCS {index}, {bits:,} bit, dB", snr_db, float(ours)
            )


def sidelink() -> Iterator[Against]:
    """What 100 vehicles a km with 20 packets a second each lose, on four sub-channels (`benchmarks.sidelink_mode4`)."""
    road = sidelink_mode4.Road(0.1, 20, 20, 4)
    theirs, ours = sidelink_mode4.modelled(road), sidelink_mode4.scheduled(road, periods=60, skipped=40)
    yield Against(MODE_4, "half duplex, % of packets", 100 * theirs[:, 0].mean(), 100 * ours[:, 0].mean())
    for distance_m in (100, 200, 300):
        place = sidelink_mode4.DISTANCES_M.tolist().index(distance_m)
        shares = (100 * float(each[place, 3]) for each in (theirs, ours))
        yield Against(MODE_4, f"collisions at {distance_m} m, % of packets", *shares)
    condition = f"collisions, mean of {theirs.shape[0]} distances from 20 to 500 m, % of packets"
    yield Against(MODE_4, condition, 100 * theirs[:, 3].mean(), 100 * ours[:, 3].mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; there is nothing to choose."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    print("| source | condition | theirs | ours | difference |")
    print("|---|---|---|---|---|")
    for part in (losses, links, codes, sidelink):
        for row in part():
            numbers = f"{row.theirs:.7g} | {row.ours:.7g} | {row.ours - row.theirs:+.2g}"
            print(f"| {row.source} | {row.condition} | {numbers} |")


if __name__ == "__main__":
    main()
