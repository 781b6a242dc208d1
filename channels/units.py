"""Decibels, watts and physical constants.

Every function takes and returns arrays of any shape, broadcasting like NumPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray

SPEED_OF_LIGHT_M_S = 3.0e8
"""Propagation speed as the 3GPP channel models round it (TR 38.901 clause 7.4.1), in m/s."""

EXACT_SPEED_OF_LIGHT_M_S = 299_792_458.0
"""Speed of light in m/s, for physics outside the 3GPP breakpoint formulas (Doppler, free space)."""

THERMAL_NOISE_DBM_HZ = -174.0
"""Thermal noise density at 290 K, in dBm/Hz."""

BITS_PER_BYTE = 8


def db_to_linear(value_db: ArrayLike) -> FloatArray:
    """Power ratio from decibels: 10^(x/10).

    Args:
        value_db: Decibels, any shape.

    Returns:
        Ratio, >= 0, in the shape of `value_db`.
    """
    return np.power(10.0, np.asarray(value_db, dtype=np.float64) / 10.0)


def linear_to_db(value_linear: ArrayLike) -> FloatArray:
    """Decibels from a power ratio: 10·lg x.

    Args:
        value_linear: Ratio, >= 0, any shape.

    Returns:
        Decibels; -inf at 0, without a warning, in the shape of `value_linear`.
    """
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(np.asarray(value_linear, dtype=np.float64))


def dbm_to_watt(power_dbm: ArrayLike) -> FloatArray:
    """Watts from dBm: 10^((x - 30)/10).

    Args:
        power_dbm: Power in dBm, any shape.

    Returns:
        Power in W, in the shape of `power_dbm`.
    """
    return db_to_linear(np.asarray(power_dbm, dtype=np.float64) - 30.0)
