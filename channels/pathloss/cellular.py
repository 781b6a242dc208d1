"""3GPP TR 38.901 outdoor models: UMi street canyon and UMa.

Departure: the environment's height h_E is 1 m for every terminal. The standard draws it for terminals from 13 m on
under UMa, where another value bends the loss in sight beyond some hundred metres to kilometres.
"""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray
from channels.pathloss.model import Geometry, PathLossModel, breakpoint_m

_SOURCE = "3GPP TR 38.901 V16.1.0, tables 7.4.1-1 and 7.4.2-1, 7.5-6 for the decorrelation distance"


def _dual_slope_db(point: Geometry, near_db: float, near_slope: float, far_bend: float) -> FloatArray:
    """LOS loss with a slope of 40 beyond the breakpoint; h_E = 1 m (h_UT below 13 m)."""
    turn_m = breakpoint_m(point, point.tx_height_m - 1.0, point.rx_height_m - 1.0)
    lg_d, lg_f = np.log10(point.distance_3d_m), np.log10(point.carrier_ghz)
    near = near_db + near_slope * lg_d + 20 * lg_f
    rise_m = point.tx_height_m - point.rx_height_m
    far = near_db + 40 * lg_d + 20 * lg_f - far_bend * np.log10(turn_m**2 + rise_m**2)
    return np.where(point.distance_m <= turn_m, near, far)


def umi_los_db(point: Geometry) -> FloatArray:
    """UMi LOS: 32.4 + 21·lg d3 + 20·lg f; beyond d_BP 32.4 + 40·lg d3 + 20·lg f - 9.5·lg(d_BP² + dh²).

    Ground distances from 10 m to 5 km, a base station 10 m and terminals 1.5 to 22.5 m high.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 38.901, table 7.4.1-1.
    """
    return _dual_slope_db(point, 32.4, 21.0, 9.5)


def umi_nlos_db(point: Geometry) -> FloatArray:
    """UMi NLOS: max(LOS, 22.4 + 35.3·lg d3 + 21.3·lg f - 0.3·(h_UT - 1.5)).

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 38.901, table 7.4.1-1.
    """
    blocked = 22.4 + 35.3 * np.log10(point.distance_3d_m) + 21.3 * np.log10(point.carrier_ghz)
    return np.maximum(umi_los_db(point), blocked - 0.3 * (point.rx_height_m - 1.5))


def uma_los_db(point: Geometry) -> FloatArray:
    """UMa LOS: 28 + 22·lg d3 + 20·lg f; beyond d_BP 28 + 40·lg d3 + 20·lg f - 9·lg(d_BP² + dh²).

    Ground distances from 10 m to 5 km, a base station 25 m and terminals 1.5 to 22.5 m high.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 38.901, table 7.4.1-1.
    """
    return _dual_slope_db(point, 28.0, 22.0, 9.0)


def uma_nlos_db(point: Geometry) -> FloatArray:
    """UMa NLOS: max(LOS, 13.54 + 39.08·lg d3 + 20·lg f - 0.6·(h_UT - 1.5)).

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 38.901, table 7.4.1-1.
    """
    blocked = 13.54 + 39.08 * np.log10(point.distance_3d_m) + 20 * np.log10(point.carrier_ghz)
    return np.maximum(uma_los_db(point), blocked - 0.6 * (point.rx_height_m - 1.5))


def _street_probability(distance_m: FloatArray, decay_m: float) -> FloatArray:
    far_m = np.maximum(distance_m, 18.0)
    return 18.0 / far_m + np.exp(-far_m / decay_m) * (1.0 - 18.0 / far_m)


def umi_probability(distance_m: FloatArray) -> FloatArray:
    """UMi: 18/d + exp(-d/36)·(1 - 18/d), 1 up to 18 m.

    Args:
        distance_m: Ground distance in m, >= 0, any shape.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.

    Source:
        3GPP TR 38.901, table 7.4.2-1.
    """
    return _street_probability(distance_m, 36.0)


def uma_probability(distance_m: FloatArray, rx_height_m: float = 1.5) -> FloatArray:
    """UMa: (18/d + exp(-d/63)·(1 - 18/d))·(1 + C'·5/4·(d/100)³·exp(-d/150)), 1 up to 18 m.

    C' is 0 for terminals up to 13 m high, ((h_UT - 13)/10)^1.5 above.

    Args:
        distance_m: Ground distance in m, >= 0, any shape.
        rx_height_m: Height h_UT of the terminal in m, up to 23.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.

    Source:
        3GPP TR 38.901, table 7.4.2-1; the height's part as ns-3's `ThreeGppUmaChannelConditionModel` has it.
    """
    street = _street_probability(distance_m, 63.0)
    if rx_height_m <= 13.0:
        return street
    far_m = np.maximum(distance_m, 18.0)
    bend = 1.25 * (far_m / 100.0) ** 3 * np.exp(-far_m / 150.0) * ((rx_height_m - 13.0) / 10.0) ** 1.5
    return np.where(distance_m <= 18.0, 1.0, np.minimum(street * (1.0 + bend), 1.0))


UMI = PathLossModel(
    name="umi",
    source=_SOURCE,
    los=umi_los_db,
    nlos=umi_nlos_db,
    los_probability=umi_probability,
    sigma_db=(4.0, 7.82),
    decorrelation_m=(10.0, 13.0),
    heights_m=(10.0, 1.5),
    distance_range_m=(10.0, 5000.0),
    carrier_range_hz=(0.5e9, 100e9),
    tx_height_range_m=(10.0, 10.0),
    rx_height_range_m=(1.5, 22.5),
)

UMA = PathLossModel(
    name="uma",
    source=_SOURCE,
    los=uma_los_db,
    nlos=uma_nlos_db,
    los_probability=uma_probability,
    sigma_db=(4.0, 6.0),
    decorrelation_m=(37.0, 50.0),
    heights_m=(25.0, 1.5),
    distance_range_m=(10.0, 5000.0),
    carrier_range_hz=(0.5e9, 100e9),
    tx_height_range_m=(25.0, 25.0),
    rx_height_range_m=(1.5, 22.5),
    tall_probability=uma_probability,
)
