"""3GPP TR 36.843 device-to-device model, outdoor to outdoor: the project's default."""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray
from channels.pathloss.model import Geometry, PathLossModel, breakpoint_m, free_space_db

# The model's 1.5 m antennas have an effective height of 0.8 m.
_GROUND_CLUTTER_M = 0.7


def d2d_los_db(point: Geometry) -> FloatArray:
    """LOS: max(free space, B1), B1 = 22.7·lg d + 27 + 20·lg f up to d_BP = 4·h'²·f/c.

    Beyond d_BP, B1 = 40·lg d + 7.56 - 17.3·(lg h'_tx + lg h'_rx) + 2.7·lg f, with effective heights
    h' = h - 0.7 m (0.8 m for the model's 1.5 m antennas, whence 34.6·lg h').
    """
    tx_m, rx_m = point.tx_height_m - _GROUND_CLUTTER_M, point.rx_height_m - _GROUND_CLUTTER_M
    lg_d, lg_f = np.log10(point.distance_3d_m), np.log10(point.carrier_ghz)
    near = 22.7 * lg_d + 27.0 + 20 * lg_f
    far = 40 * lg_d + 7.56 - 17.3 * (np.log10(tx_m) + np.log10(rx_m)) + 2.7 * lg_f
    bent = np.where(point.distance_3d_m <= breakpoint_m(point, tx_m, rx_m), near, far)
    return np.maximum(free_space_db(point), bent)


def d2d_nlos_db(point: Geometry) -> FloatArray:
    """NLOS: max(free space, (44.9 - 6.55·lg h)·lg d + 5.83·lg h + X - 5).

    X = 16.33 + 26.16·lg f below 1.5 GHz, 14.78 + 34.97·lg f from 1.5 to 2 GHz, 18.38 + 23·lg f above.
    Two different heights enter by their geometric mean, which keeps the loss reciprocal.
    """
    lg_h = 0.5 * (np.log10(point.tx_height_m) + np.log10(point.rx_height_m))
    carrier, lg_f = point.carrier_ghz, np.log10(point.carrier_ghz)
    above = np.where(carrier <= 2.0, 14.78 + 34.97 * lg_f, 18.38 + 23 * lg_f)
    offset = np.where(carrier < 1.5, 16.33 + 26.16 * lg_f, above)
    blocked = (44.9 - 6.55 * lg_h) * np.log10(point.distance_3d_m) + 5.83 * lg_h + offset - 5.0
    return np.maximum(free_space_db(point), blocked)


def d2d_probability(distance_m: FloatArray) -> FloatArray:
    """Outdoor D2D: min(18/d, 1)·(1 - exp(-d/36)) + exp(-d/36).

    Args:
        distance_m: Ground distance in m, >= 0, any shape.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.

    Source:
        3GPP TR 36.843, annex A.2.1.2.
    """
    blocked = np.exp(-distance_m / 36.0)
    return 18.0 / np.maximum(distance_m, 18.0) * (1.0 - blocked) + blocked


D2D_OUTDOOR = PathLossModel(
    name="d2d_outdoor",
    source="3GPP TR 36.843 V12.0.1, annex A.2.1.2 (outdoor to outdoor, on WINNER+ B1)",
    los=d2d_los_db,
    nlos=d2d_nlos_db,
    los_probability=d2d_probability,
    sigma_db=(7.0, 7.0),
    decorrelation_m=(10.0, 13.0),
    heights_m=(1.5, 1.5),
    distance_range_m=(3.0, 5000.0),
    carrier_range_hz=(0.7e9, 6e9),
    tx_height_range_m=(0.71, 10.0),
    rx_height_range_m=(0.71, 10.0),
)
