"""`warehouse`: indoor factory, line of sight (3GPP TR 38.901 v16, table 7.2-4)."""

import numpy as np

from channels.pathloss.model import Geometry, PathLossModel, always_los


def warehouse(*, clutter_db: float = 0.0) -> PathLossModel:
    """PL = 31.84 + 21.5 lg d + 19 lg f, d in metres and f in GHz.

    Args:
        clutter_db: Further loss of every link, dB.
    """

    def loss_db(point: Geometry) -> np.ndarray:
        return 31.84 + clutter_db + 21.5 * np.log10(point.distance_3d_m) + 19.0 * np.log10(point.carrier_ghz)

    return PathLossModel(
        name="warehouse",
        source="3GPP TR 38.901 v16, table 7.2-4",
        los=loss_db,
        nlos=loss_db,
        los_probability=always_los,
        sigma_db=(4.3, 4.3),
        decorrelation_m=(10.0, 10.0),
        heights_m=(1.5, 1.5),
        distance_range_m=(1.0, 600.0),
        carrier_range_hz=(0.5e9, 100e9),
    )
