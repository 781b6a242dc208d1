"""Antenna patterns over azimuth.

`panel` is the element of TR 38.901: A(phi) = -min(12·(phi/65°)², 30) dB about its boresight, 8 dBi there. A device has
`panels` of them, evenly spaced round a keyed heading of its own, and uses the one that faces the other end; what others
send reaches it through the same. `isotropic` has 0 dBi everywhere.

Departures: links are level, so that the vertical pattern is at its maximum (theta = 90°); no array gain is steered,
`antenna_gain_db` adds what beams would give.

Source:
    3GPP TR 38.901 V16.1.0, table 7.3-1 (written from memory: phi_3dB = 65°, A_max = 30 dB, G_E,max = 8 dBi).
"""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray

ANTENNAS: tuple[str, ...] = ("isotropic", "panel")
"""Names of antenna patterns."""

PANEL_GAIN_DBI = 8.0
BEAM_DEG = 65.0
MOST_DB = 30.0


def panel_db(off_boresight_deg: FloatArray, panels: int = 1) -> FloatArray:
    """Gain of the nearest of some panels below that at its boresight.

    Args:
        off_boresight_deg: Azimuth from the first panel's boresight in degrees, any shape.
        panels: Number of panels, evenly spaced, >= 1.

    Returns:
        Gain in dB, from -30 to 0 (32.5° off: -3), in the shape of `off_boresight_deg`.
    """
    apart = 360.0 / panels
    off = (np.asarray(off_boresight_deg) + apart / 2) % apart - apart / 2
    return -np.minimum(12.0 * (off / BEAM_DEG) ** 2, MOST_DB)
