"""3GPP TR 38.901 rural macro: RMa."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np

from channels.arrays import FloatArray
from channels.checks import require_range
from channels.pathloss.model import Geometry, PathLossModel
from channels.registry import Within
from channels.units import SPEED_OF_LIGHT_M_S

_SOURCE = "3GPP TR 38.901 V16.1.0, tables 7.4.1-1 and 7.4.2-1, 7.5-6 for the decorrelation distance"


def rma_breakpoint_m(point: Geometry) -> FloatArray:
    """Breakpoint 2·pi·h_BS·h_UT·f/c, with c = 3e8 m/s; other than that of UMi and UMa, with the heights as they are.

    Args:
        point: Its carrier and heights are used.

    Returns:
        Distance in m, in the shape of the point's carrier.

    Source:
        3GPP TR 38.901, table 7.4.1-1, note 5.
    """
    return 2 * np.pi * point.tx_height_m * point.rx_height_m * point.carrier_ghz * 1e9 / SPEED_OF_LIGHT_M_S


def rma_los_db(point: Geometry, building_height_m: float = 5.0) -> FloatArray:
    """RMa LOS, with the mean height h of buildings.

    20·lg(40·pi·d3·f/3) + min(0.03·h^1.72, 10)·lg d3 - min(0.044·h^1.72, 14.77) + 0.002·lg(h)·d3 up to the breakpoint,
    beyond it the loss at the breakpoint + 40·lg(d3/d_BP). Ground distances from 10 m to 10 km.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.
        building_height_m: h in m, 5 to 50.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 38.901, table 7.4.1-1.
    """
    rise = building_height_m**1.72

    def near(distance_m: FloatArray) -> FloatArray:
        lg_d = np.log10(distance_m)
        free = 20 * np.log10(40 * np.pi * distance_m * point.carrier_ghz / 3)
        bend = min(0.03 * rise, 10.0) * lg_d - min(0.044 * rise, 14.77)
        return free + bend + 0.002 * np.log10(building_height_m) * distance_m

    turn_m = rma_breakpoint_m(point)
    far = near(turn_m) + 40 * np.log10(point.distance_3d_m / turn_m)
    return np.where(point.distance_m <= turn_m, near(point.distance_3d_m), far)


def rma_nlos_db(point: Geometry, building_height_m: float = 5.0, street_width_m: float = 20.0) -> FloatArray:
    """RMa NLOS, with the mean height h of buildings and width W of streets.

    max(LOS, 161.04 - 7.1·lg W + 7.5·lg h - (24.37 - 3.7·(h/h_BS)²)·lg h_BS + (43.42 - 3.1·lg h_BS)·(lg d3 - 3)
    + 20·lg f - (3.2·lg(11.75·h_UT)² - 4.97)), with lg(x)² the square of the logarithm. Ground distances to 5 km.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.
        building_height_m: h in m, 5 to 50.
        street_width_m: W in m, 5 to 50.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 38.901, table 7.4.1-1.
    """
    lg_mast = np.log10(point.tx_height_m)
    blocked = (
        161.04
        - 7.1 * np.log10(street_width_m)
        + 7.5 * np.log10(building_height_m)
        - (24.37 - 3.7 * (building_height_m / point.tx_height_m) ** 2) * lg_mast
        + (43.42 - 3.1 * lg_mast) * (np.log10(point.distance_3d_m) - 3)
        + 20 * np.log10(point.carrier_ghz)
        - (3.2 * np.log10(11.75 * point.rx_height_m) ** 2 - 4.97)
    )
    return np.maximum(rma_los_db(point, building_height_m), blocked)


def rma_probability(distance_m: FloatArray) -> FloatArray:
    """RMa: 1 up to 10 m, then exp(-(d - 10)/1000).

    Args:
        distance_m: Ground distance in m, >= 0, any shape.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.

    Source:
        3GPP TR 38.901, table 7.4.2-1.
    """
    return np.exp(-np.maximum(distance_m - 10.0, 0.0) / 1000.0)


def rma_model(
    building_height_m: Annotated[float, Within(ge=5.0, le=50.0)] = 5.0,
    street_width_m: Annotated[float, Within(ge=5.0, le=50.0)] = 20.0,
) -> PathLossModel:
    """Make the rural model: a base station 35 m and a terminal 1.5 m high unless the radio sets other heights.

    Args:
        building_height_m: Mean height of buildings in m.
        street_width_m: Mean width of streets in m.

    Returns:
        The model. Departure: the shadowing in sight is 4 dB at all distances; beyond the breakpoint (2.2 km at 2 GHz)
        the standard has 6 dB.

    Raises:
        ValueError: If a size is out of range.
    """
    require_range("building_height_m", building_height_m, 5.0, 50.0)
    require_range("street_width_m", street_width_m, 5.0, 50.0)
    return PathLossModel(
        name="rma",
        source=_SOURCE,
        los=partial(rma_los_db, building_height_m=building_height_m),
        nlos=partial(rma_nlos_db, building_height_m=building_height_m, street_width_m=street_width_m),
        los_probability=rma_probability,
        sigma_db=(4.0, 8.0),
        decorrelation_m=(37.0, 120.0),
        heights_m=(35.0, 1.5),
        distance_range_m=(10.0, 5000.0),
        carrier_range_hz=(0.5e9, 30e9),
        tx_height_range_m=(10.0, 150.0),
        rx_height_range_m=(1.0, 10.0),
    )
