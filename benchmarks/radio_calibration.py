"""Large-scale calibration of TR 38.901: geometry of terminals in a hexagonal network, beside 3GPP's own results.

    python -m benchmarks.radio_calibration

prints the table of docs/radio.md#calibration, in seconds. Path loss, lines of sight and the pattern of an element are
the radio's own (`channels.pathloss`, `channels.antennas`); the network is that of the report's table 7.8-1: 19 sites of
three sectors, 10 vertical elements half a wavelength apart tilted down by 12 degrees, terminals 80 % indoors on floors
1 to 8, isotropic. Geometry is the strongest sector's power over that of all others, without noise, so that losses of
walls, which are alike towards all sectors, do not enter; shadowing indoors spreads by 7 dB (O2I of table 7.5-6).
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass

import numpy as np

from benchmarks.result import with_origin
from channels.antennas import PANEL_GAIN_DBI, panel_db
from channels.arrays import BoolArray, FloatArray
from channels.pathloss import get_model, los_probability, path_loss_db

PERCENTILES = np.arange(5, 100, 5)
GEOMETRY_DB: dict[tuple[str, int], tuple[float, ...]] = {
    ("umi", 6): (-1.7, -0.5, 0.4, 1.2, 2.1, 3, 4, 5, 6.1, 7.3, 8.6, 9.9, 11.4, 13, 14.9, 17, 19.4, 22.1, 24.9),
    ("umi", 30): (
        -1.6, -0.4, 0.4, 1.3, 2.2, 3.1, 4.1, 5.2, 6.3, 7.5, 8.8, 10.2, 11.7, 13.3, 15.1, 17.2, 19.6, 22.2, 24.9),
    ("uma", 6): (-1, 0.1, 1.1, 2, 2.9, 3.9, 5, 6, 7.2, 8.6, 9.9, 11.3, 12.9, 14.7, 16.5, 18.6, 20.9, 23.4, 25.6),
    ("uma", 30): (-1, 0.2, 1.1, 2, 3, 4, 5, 6.1, 7.3, 8.6, 9.9, 11.3, 13, 14.7, 16.5, 18.6, 20.9, 23.4, 25.6),
}  # fmt: skip
"""(model, carrier in GHz) -> the 5th to 95th percentile in dB: the mean of the companies' results in 3GPP R1-165974, as
QuaDRiGa's `calib_3GPP_ref_data.m` holds them."""
INDOOR_SIGMA_DB, INDOORS, TILT_DEG, ELEMENTS = 7.0, 0.8, 12.0, 10


@dataclass(frozen=True)
class Layout:
    """Where base stations and terminals are.

    Attributes:
        spacing_m: Distance of neighbouring sites in m.
        nearest_m: Least ground distance of a terminal and the site in m.
    """

    spacing_m: float
    nearest_m: float

    def sites_m(self) -> FloatArray:
        """(19, 2) positions of the sites in m: one, and two rings of a hexagonal grid around it."""
        steps = [(a, b) for a in range(-2, 3) for b in range(-2, 3) if abs(a + b) <= 2]
        grid = np.array(steps, dtype=np.float64)
        return self.spacing_m * (grid @ np.array([[1.0, 0.0], [0.5, math.sqrt(3.0) / 2]]))

    def terminals_m(self, count: int, random: np.random.Generator) -> FloatArray:
        """(count, 2) uniform positions in the middle site's hexagon, as far from it as they have to be."""
        found: FloatArray = np.zeros((0, 2))
        while found.shape[0] < count:
            place = random.uniform(-self.spacing_m, self.spacing_m, (4 * count, 2))
            own = np.hypot(*place.T)
            apart = np.hypot(*(place[:, None] - self.sites_m()).transpose(2, 0, 1))
            inside = (own >= self.nearest_m) & (own <= apart.min(axis=1) + 1e-9)
            found = np.concatenate([found, place[inside]])
        return found[:count]


LAYOUTS = {"umi": Layout(200.0, 10.0), "uma": Layout(500.0, 35.0)}


def sector_gain_db(azimuth_deg: FloatArray, zenith_deg: FloatArray) -> FloatArray:
    """Gain of a sector's column of elements towards a direction.

    Args:
        azimuth_deg: Azimuth off the sector's boresight in degrees.
        zenith_deg: Zenith angle in degrees, 90 at the horizon; broadcasts.

    Returns:
        Gain in dBi: the element's (table 7.3-1) plus |sum over m of exp(j·pi·m·(cos(zenith) - cos(tilt)))|²/10.
    """
    vertical = np.minimum(12 * ((zenith_deg - 90) / 65) ** 2, 30)
    element = PANEL_GAIN_DBI - np.minimum(vertical - panel_db(azimuth_deg), 30)
    phase = math.pi * (np.cos(np.deg2rad(zenith_deg)) - math.cos(math.radians(90 + TILT_DEG)))
    column = np.exp(1j * phase[..., None] * np.arange(ELEMENTS)).sum(axis=-1)
    return element + 10 * np.log10(np.maximum(np.abs(column) ** 2 / ELEMENTS, 1e-12))


def heights_m(indoors: BoolArray, random: np.random.Generator) -> FloatArray:
    """Heights of terminals in m: 1.5 outdoors, 3·(n - 1) + 1.5 on floor n of 1 to N, N of 4 to 8, indoors."""
    floors = random.integers(4, 9, indoors.size)
    floor = random.integers(1, floors + 1)
    return np.where(indoors, 3.0 * (floor - 1) + 1.5, 1.5)


def geometry_db(model: str, carrier_ghz: float, *, terminals: int = 6000, seed: int = 0) -> FloatArray:
    """(terminals,) geometry in dB of terminals of the middle site.

    Args:
        model: `umi` or `uma`.
        carrier_ghz: Carrier in GHz.
        terminals: Their number.
        seed: Of positions, floors, lines of sight and shadowing.
    """
    random, layout, law = np.random.default_rng(seed), LAYOUTS[model], get_model(model)
    sites, place = layout.sites_m(), layout.terminals_m(terminals, random)
    indoors = random.random(terminals) < INDOORS
    height = heights_m(indoors, random)
    way = place[:, None] - sites
    distance = np.maximum(np.hypot(way[..., 0], way[..., 1]), 1.0)
    depth = np.where(indoors, 25 * random.random((2, terminals)).min(axis=0), 0.0)
    outside = np.maximum(distance - depth[:, None], 0.0)
    loss = np.empty(distance.shape)
    for level in np.unique(height):
        here = height == level
        los = random.random((int(here.sum()), len(sites))) < los_probability(
            model, outside[here], float(level)
        )
        sigma = np.where(indoors[here, None], INDOOR_SIGMA_DB, np.where(los, *law.sigma_db))
        loss[here] = path_loss_db(model, distance[here], carrier_ghz * 1e9, los=los, rx_height_m=float(level))
        loss[here] += sigma * random.normal(size=los.shape)
    bearing = np.degrees(np.arctan2(way[..., 1], way[..., 0]))[..., None] - np.array([30.0, 150.0, 270.0])
    zenith = 90 + np.degrees(np.arctan2(law.heights_m[0] - height[:, None], distance))
    power = 10 ** ((sector_gain_db(bearing, zenith[..., None]) - loss[..., None]) / 10)
    strongest, total = power.max(axis=(1, 2)), power.sum(axis=(1, 2))
    return 10 * np.log10(strongest / (total - strongest))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--terminals", type=int, default=20_000, help="terminals of each network")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    shown = [0, 2, 4, 9, 14, 16, 18]
    print(
        "| model | carrier |" + "".join(f" {p} % |" for p in PERCENTILES[shown]) + " largest difference dB |"
    )
    print("|---|---|" + "---|" * (len(shown) + 1))
    for (model, carrier_ghz), theirs in GEOMETRY_DB.items():
        ours = np.percentile(geometry_db(model, carrier_ghz, terminals=given.terminals), PERCENTILES)
        found[f"{model} {carrier_ghz} GHz"] = {"theirs": list(theirs), "ours": ours.tolist()}
        cells = "".join(f" {ours[k]:.1f} ({theirs[k]:.1f}) |" for k in shown)
        print(f"| `{model}` | {carrier_ghz} GHz |{cells} {np.abs(ours - theirs).max():.1f} |")
    if given.json:
        print(json.dumps(with_origin(found)))


if __name__ == "__main__":
    main()
