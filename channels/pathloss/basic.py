"""Path-loss models with no environment: free space and log-distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from channels.arrays import FloatArray
from channels.pathloss.model import (
    FREE_SPACE_CONSTANT_DB,
    Geometry,
    PathLossModel,
    always_los,
    free_space_db,
)
from channels.registry import Within, check_option_values

FREE_SPACE = PathLossModel(
    name="free_space",
    source="Friis (1946), between isotropic antennas; far field only",
    los=free_space_db,
    nlos=free_space_db,
    los_probability=always_los,
    sigma_db=(0.0, 0.0),
    decorrelation_m=(10.0, 10.0),
    heights_m=(1.5, 1.5),
    distance_range_m=(0.0, np.inf),
    carrier_range_hz=(0.0, np.inf),
)


@dataclass(frozen=True)
class _LogDistanceCurve:
    exponent: float
    reference_m: float
    reference_loss_db: float | None

    def __call__(self, point: Geometry) -> FloatArray:
        start_db: FloatArray | float
        if self.reference_loss_db is None:
            start_db = (
                FREE_SPACE_CONSTANT_DB
                + 20 * np.log10(self.reference_m)
                + 20 * np.log10(point.carrier_ghz * 1e9)
            )
        else:
            start_db = self.reference_loss_db
        return start_db + 10 * self.exponent * np.log10(point.distance_3d_m / self.reference_m)


def log_distance_model(
    exponent: Annotated[float, Within(gt=0, le=20)] = 3.5,
    reference_m: Annotated[float, Within(ge=1e-6, le=1e6)] = 1.0,
    reference_loss_db: Annotated[float | None, Within(ge=-300, le=300)] = None,
    sigma_db: Annotated[float, Within(ge=0, le=50)] = 0.0,
    decorrelation_m: Annotated[float, Within(ge=1e-6, le=1e9)] = 10.0,
) -> PathLossModel:
    """Make a log-distance model PL(d) = PL(d0) + 10·alpha·lg(d/d0).

    Args:
        exponent: Path-loss exponent alpha (2 in free space, 3-4 in cities).
        reference_m: Reference distance d0 in m.
        reference_loss_db: PL(d0) in dB; None takes free space at d0.
        sigma_db: Shadowing standard deviation in dB.
        decorrelation_m: Shadowing decorrelation distance in m.

    Returns:
        The model; its loss does not depend on line of sight.

    Raises:
        ValueError: If a value is out of range.

    Source:
        Rappaport, Wireless Communications, 2nd ed., section 4.9.1.
    """
    given = {"exponent": exponent, "reference_m": reference_m, "reference_loss_db": reference_loss_db,
             "sigma_db": sigma_db, "decorrelation_m": decorrelation_m}  # fmt: skip
    check_option_values("path-loss model 'log_distance'", log_distance_model, given)
    curve = _LogDistanceCurve(exponent, reference_m, reference_loss_db)
    return PathLossModel(
        name="log_distance",
        source="Rappaport, Wireless Communications, 2nd ed., section 4.9.1",
        los=curve,
        nlos=curve,
        los_probability=always_los,
        sigma_db=(sigma_db, sigma_db),
        decorrelation_m=(decorrelation_m, decorrelation_m),
        heights_m=(1.5, 1.5),
        distance_range_m=(reference_m, np.inf),
        carrier_range_hz=(0.0, np.inf),
    )
