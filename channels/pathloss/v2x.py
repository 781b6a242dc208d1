"""3GPP TR 37.885 vehicle-to-vehicle models: urban grid and highway."""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray
from channels.pathloss.model import Geometry, PathLossModel

_SOURCE = "3GPP TR 37.885 V15.3.0, clause 6.2 (tables 6.2-1 and 6.2.1-1)"


def urban_los_db(point: Geometry) -> FloatArray:
    """Urban LOS: 38.77 + 16.7·lg d + 18.2·lg f."""
    return 38.77 + 16.7 * np.log10(point.distance_3d_m) + 18.2 * np.log10(point.carrier_ghz)


def urban_nlos_db(point: Geometry) -> FloatArray:
    """Urban NLOS: 36.85 + 30·lg d + 18.9·lg f; not a maximum with the LOS loss."""
    return 36.85 + 30 * np.log10(point.distance_3d_m) + 18.9 * np.log10(point.carrier_ghz)


def highway_los_db(point: Geometry) -> FloatArray:
    """Highway LOS: 32.4 + 20·lg d + 20·lg f."""
    return 32.4 + 20 * np.log10(point.distance_3d_m) + 20 * np.log10(point.carrier_ghz)


def highway_nlosv_db(point: Geometry) -> FloatArray:
    """Highway behind a vehicle (NLOSv): LOS + 5 + max(0, 15·lg d - 41) dB.

    Departure: the standard draws the blockage loss from a normal distribution with this mean and
    4 dB deviation; here its mean is the loss and the spread is left to the shadowing.
    """
    return highway_los_db(point) + 5.0 + np.maximum(0.0, 15 * np.log10(point.distance_3d_m) - 41.0)


def urban_probability(distance_m: FloatArray) -> FloatArray:
    """Urban: min(1, 1.05·exp(-0.0114·d))."""
    return np.minimum(1.0, 1.05 * np.exp(-0.0114 * distance_m))


def highway_probability(distance_m: FloatArray) -> FloatArray:
    """Highway: min(1, 2.1013e-6·d² - 0.002·d + 1.0193) up to 475 m, then max(0, 0.54 - 0.001·(d-475))."""
    near = np.minimum(1.0, 2.1013e-6 * distance_m**2 - 0.002 * distance_m + 1.0193)
    return np.where(distance_m <= 475.0, near, np.maximum(0.0, 0.54 - 0.001 * (distance_m - 475.0)))


V2X_URBAN = PathLossModel(
    name="v2x_urban",
    source=_SOURCE,
    los=urban_los_db,
    nlos=urban_nlos_db,
    los_probability=urban_probability,
    sigma_db=(3.0, 4.0),
    decorrelation_m=(10.0, 13.0),
    heights_m=(1.6, 1.6),
    distance_range_m=(1.0, 5000.0),
    carrier_range_hz=(0.5e9, 100e9),
)

V2X_HIGHWAY = PathLossModel(
    name="v2x_highway",
    source=_SOURCE,
    los=highway_los_db,
    nlos=highway_nlosv_db,
    los_probability=highway_probability,
    sigma_db=(3.0, 3.0),
    decorrelation_m=(10.0, 13.0),
    heights_m=(1.6, 1.6),
    distance_range_m=(1.0, 5000.0),
    carrier_range_hz=(0.5e9, 100e9),
)
