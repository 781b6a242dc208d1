"""3GPP TR 37.885 vehicle-to-vehicle models: urban grid and highway."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from channels.arrays import FloatArray
from channels.pathloss.model import Geometry, PathLossModel
from channels.registry import check_option_values

_ROOF_M = 1.6
_SOURCE = "3GPP TR 37.885 V15.3.0, clause 6.2 (tables 6.2-1 and 6.2.1-1)"


def urban_los_db(point: Geometry) -> FloatArray:
    """Urban LOS: 38.77 + 16.7·lg d3 + 18.2·lg f.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 37.885, clause 6.2.
    """
    return 38.77 + 16.7 * np.log10(point.distance_3d_m) + 18.2 * np.log10(point.carrier_ghz)


def urban_nlos_db(point: Geometry) -> FloatArray:
    """Urban NLOS, ends on different streets: 36.85 + 30·lg d3 + 18.9·lg f; not a maximum with the LOS loss.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 37.885, clause 6.2.
    """
    return 36.85 + 30 * np.log10(point.distance_3d_m) + 18.9 * np.log10(point.carrier_ghz)


def blockage_db(point: Geometry) -> FloatArray:
    """Mean loss in dB behind a vehicle whose roof is `_ROOF_M` (1.6 m) high.

    Both antennas above the roof: 0. Both below: 9 + max(0, 15·lg d3 - 41). Otherwise, as for the model's antennas at
    the height of the roof: 5 + max(0, 15·lg d3 - 41).

    Args:
        point: Distances in m and antenna heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the shape of the point's distances.

    Departures: the standard draws the blocker's height from the scenario's vehicles (1.6 m, lorries 3 m); here it is a
    car or van. It draws the loss from a distribution with this mean and 4 dB (both below: 4.5 dB) deviation, not below
    0; here its mean is the loss, and the spread joins the shadowing where the model's `spread` is set.

    Source:
        3GPP TR 37.885, clause 6.2.1.
    """
    heights = (point.tx_height_m, point.rx_height_m)
    if min(heights) > _ROOF_M:
        return np.zeros_like(point.distance_3d_m)
    least_db = 9.0 if max(heights) < _ROOF_M else 5.0
    return least_db + np.maximum(0.0, 15 * np.log10(point.distance_3d_m) - 41.0)


def urban_nlosv_db(point: Geometry) -> FloatArray:
    """Urban behind a vehicle (NLOSv): LOS + `blockage_db`.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 37.885, clause 6.2.
    """
    return urban_los_db(point) + blockage_db(point)


def highway_los_db(point: Geometry) -> FloatArray:
    """Highway LOS: 32.4 + 20·lg d3 + 20·lg f.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 37.885, clause 6.2.
    """
    return 32.4 + 20 * np.log10(point.distance_3d_m) + 20 * np.log10(point.carrier_ghz)


def highway_nlosv_db(point: Geometry) -> FloatArray:
    """Highway behind a vehicle (NLOSv): LOS + `blockage_db`.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 37.885, clause 6.2.
    """
    return highway_los_db(point) + blockage_db(point)


def urban_probability(distance_m: FloatArray) -> FloatArray:
    """Urban, ends on one street: min(1, 1.05·exp(-0.0114·d)); NLOSv otherwise.

    Args:
        distance_m: Ground distance in m, >= 0, any shape.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.

    Source:
        3GPP TR 37.885, clause 6.2.
    """
    return np.minimum(1.0, 1.05 * np.exp(-0.0114 * distance_m))


def highway_probability(distance_m: FloatArray) -> FloatArray:
    """Highway: min(1, 2.1013e-6·d² - 0.002·d + 1.0193) up to 475 m, then max(0, 0.54 - 0.001·(d-475)).

    Args:
        distance_m: Ground distance in m, >= 0, any shape.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.

    Source:
        3GPP TR 37.885, clause 6.2.
    """
    near = np.minimum(1.0, 2.1013e-6 * distance_m**2 - 0.002 * distance_m + 1.0193)
    return np.where(distance_m <= 475.0, near, np.maximum(0.0, 0.54 - 0.001 * (distance_m - 475.0)))


def _nlosv_sigma_db(spread: bool) -> float:
    """Shadowing behind a vehicle: 3 dB, with the blockage's own 4 dB as independent parts of one normal value."""
    return math.hypot(3.0, 4.0) if spread else 3.0


def v2x_urban_model(
    blocked: Literal["vehicle", "building"] = "vehicle", spread: bool = False
) -> PathLossModel:
    """Make the urban model.

    The clause's probability law splits the links of one street into LOS and NLOSv, a vehicle in the way; NLOS,
    a building in the way, is for ends on different streets, which follows from a street map and not from a draw.

    Args:
        blocked: What is in the way of a link out of sight: ``vehicle`` (NLOSv: LOS loss plus the blockage) or
            ``building`` (NLOS), for devices of which those out of sight are on other streets.
        spread: Whether the loss behind a vehicle spreads by 4 dB about its mean, beside the shadowing: 5 dB together.

    Returns:
        The model. Departure: the blockage of the standard is not below 0 dB, the normal value of the spread may be.

    Raises:
        ValueError: If something else is in the way, or no vehicle whose loss could spread.
    """
    check_option_values(
        "path-loss model 'v2x_urban'", v2x_urban_model, {"blocked": blocked, "spread": spread}
    )
    vehicle = blocked == "vehicle"
    if spread and not vehicle:
        raise ValueError(
            "spread is true with blocked 'building'; expected blocked 'vehicle', whose loss spreads"
        )
    return PathLossModel(
        name="v2x_urban",
        source=_SOURCE,
        los=urban_los_db,
        nlos=urban_nlosv_db if vehicle else urban_nlos_db,
        los_probability=urban_probability,
        sigma_db=(3.0, _nlosv_sigma_db(spread) if vehicle else 4.0),
        decorrelation_m=(10.0, 13.0),
        heights_m=(1.6, 1.6),
        distance_range_m=(1.0, 5000.0),
        carrier_range_hz=(0.5e9, 100e9),
    )


def v2x_highway_model(spread: bool = False) -> PathLossModel:
    """Make the highway model.

    Args:
        spread: As in `v2x_urban_model`.

    Returns:
        The model.
    """
    return PathLossModel(
        name="v2x_highway",
        source=_SOURCE,
        los=highway_los_db,
        nlos=highway_nlosv_db,
        los_probability=highway_probability,
        sigma_db=(3.0, _nlosv_sigma_db(spread)),
        decorrelation_m=(10.0, 13.0),
        heights_m=(1.6, 1.6),
        distance_range_m=(1.0, 5000.0),
        carrier_range_hz=(0.5e9, 100e9),
    )
