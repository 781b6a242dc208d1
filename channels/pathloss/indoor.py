"""3GPP TR 38.901 indoor office (InH, open office)."""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray
from channels.pathloss.model import Geometry, PathLossModel


def inh_los_db(point: Geometry) -> FloatArray:
    """InH LOS: 32.4 + 17.3·lg d3 + 20·lg f, for d3 from 1 to 150 m.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 38.901, table 7.4.1-1.
    """
    return 32.4 + 17.3 * np.log10(point.distance_3d_m) + 20 * np.log10(point.carrier_ghz)


def inh_nlos_db(point: Geometry) -> FloatArray:
    """InH NLOS: max(LOS, 17.3 + 38.3·lg d3 + 24.9·lg f), for d3 from 1 to 150 m.

    Args:
        point: Distances in m, carrier in GHz and heights in m; see `Geometry`.

    Returns:
        Loss in dB, in the broadcast shape of the point's arrays.

    Source:
        3GPP TR 38.901, table 7.4.1-1.
    """
    blocked = 17.3 + 38.3 * np.log10(point.distance_3d_m) + 24.9 * np.log10(point.carrier_ghz)
    return np.maximum(inh_los_db(point), blocked)


def inh_probability(distance_m: FloatArray) -> FloatArray:
    """Open office: 1 up to 5 m, exp(-(d-5)/70.8) up to 49 m, then 0.54·exp(-(d-49)/211.7).

    Args:
        distance_m: Ground distance in m, >= 0, any shape.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.

    Source:
        3GPP TR 38.901, table 7.4.2-1.
    """
    mid = np.exp(-(np.maximum(distance_m, 5.0) - 5.0) / 70.8)
    return np.where(distance_m <= 49.0, mid, 0.54 * np.exp(-(np.maximum(distance_m, 49.0) - 49.0) / 211.7))


INH = PathLossModel(
    name="inh",
    source="3GPP TR 38.901 V16.1.0, tables 7.4.1-1, 7.4.2-1 (InH open office) and 7.5-6",
    los=inh_los_db,
    nlos=inh_nlos_db,
    los_probability=inh_probability,
    sigma_db=(3.0, 8.03),
    decorrelation_m=(10.0, 6.0),
    heights_m=(3.0, 1.0),
    distance_range_m=(1.0, 150.0),
    carrier_range_hz=(0.5e9, 100e9),
    range_is_3d=True,
)
