"""One link: noise, SINR, rate and the chance that a packet is lost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray, IntArray
from channels.checks import require_positive
from channels.registry import unknown_name
from channels.units import THERMAL_NOISE_DBM_HZ, db_to_linear

CQI_THRESHOLDS_DB: tuple[float, ...] = (
    -6.936, -5.147, -3.180, -1.253, 0.761, 2.699, 4.694, 6.525, 8.573, 10.366, 12.289, 14.173, 15.888, 17.814,
    19.829,
)  # fmt: skip
"""SINR in dB from which each of the 15 CQI modes decodes (LTE link level, AWGN, 10 % block errors)."""

CQI_EFFICIENCIES: tuple[float, ...] = (
    0.1523, 0.2344, 0.3770, 0.6016, 0.8770, 1.1758, 1.4766, 1.9141, 2.4063, 2.7305, 3.3223, 3.9023, 4.5234,
    5.1152, 5.5547,
)  # fmt: skip
"""Spectral efficiency of each CQI mode in bit/s/Hz (3GPP TS 36.213 table 7.2.3-1)."""


@dataclass(frozen=True)
class Modes:
    """Modulation and coding schemes to choose from, slowest first.

    Attributes:
        thresholds_db: SINR in dB from which each decodes.
        efficiencies: Rate of each over the bandwidth in bit/s/Hz.
        carried: Bits of each in a channel use; more than its efficiency where a part of the band carries no data.
    """

    thresholds_db: tuple[float, ...]
    efficiencies: tuple[float, ...]
    carried: tuple[float, ...]


MODE_SLACK = 1 + 1e-10
"""An SINR equal to a mode's threshold, but for rounding, has that mode and not the one below."""

CQI_MODES = Modes(CQI_THRESHOLDS_DB, CQI_EFFICIENCIES, CQI_EFFICIENCIES)
"""The modes of `cqi`."""

RATES: tuple[str, ...] = ("shannon", "cqi", "nr")
"""How rates follow from SINR; `nr` takes its modes from `channels.nr`."""

ERROR_MODELS: tuple[str, ...] = ("outage", "chen", "finite_blocklength", "none")
"""Names of what a transmission comes to at an SINR; see `channels.scheduling.levels.decoded_rows`."""

CHEN_WATERFALL_DB = 0.023
"""Waterfall threshold m of the packet-error model in dB (Chen et al., arXiv 1909.07972)."""


def noise_power_dbm(bandwidth_hz: ArrayLike, noise_figure_db: ArrayLike) -> FloatArray:
    """Receiver noise power N = -174 + 10·lg B + NF.

    Args:
        bandwidth_hz: Bandwidth B in Hz, > 0, any shape.
        noise_figure_db: Receiver noise figure NF in dB; broadcasts.

    Returns:
        Noise power in dBm (1 MHz and NF 9 dB give -105.00).

    Raises:
        ValueError: If a bandwidth is not positive.
    """
    bandwidth = np.asarray(bandwidth_hz, dtype=np.float64)
    if np.any(~(bandwidth > 0)):
        raise ValueError(f"bandwidth_hz holds {float(np.min(bandwidth))!r}; expected values > 0")
    return THERMAL_NOISE_DBM_HZ + 10 * np.log10(bandwidth) + np.asarray(noise_figure_db, dtype=np.float64)


def sinr_linear(gains: ArrayLike, power_w: ArrayLike, active: ArrayLike, noise_w: ArrayLike) -> FloatArray:
    """SINR of links on one channel: P_i·G_ii / (sum over other active j of P_j·G_ji + N).

    Args:
        gains: (links, links) linear power gains, gains[i, j] from transmitter i to receiver j.
        power_w: Transmit power of each transmitter in W, scalar or (links,).
        active: (links,) booleans: which transmitters are on. Leading axes evaluate many sets at once.
        noise_w: Noise power at each receiver in W, scalar or (links,).

    Returns:
        (..., links) linear SINR; 0 for links that are off.

    Raises:
        ValueError: If gains are not square or negative, or the number of flags differs.
    """
    gain = np.asarray(gains, dtype=np.float64)
    on = np.asarray(active, dtype=bool)
    if gain.ndim != 2 or gain.shape[0] != gain.shape[1]:
        raise ValueError(f"gains have shape {gain.shape}; expected a square (links, links) matrix")
    if on.shape[-1:] != gain.shape[:1]:
        raise ValueError(f"active has shape {on.shape}; expected its last axis to be {gain.shape[0]} links")
    if np.any(gain < 0):
        raise ValueError("gains hold negative values; expected linear power gains >= 0, not dB")
    sent_w = np.where(on, np.asarray(power_w, dtype=np.float64), 0.0)
    own_w = sent_w * np.diagonal(gain)
    # The diagonal is left out before summing: subtracting it afterwards would lose weak interferers.
    cross = gain.copy()
    np.fill_diagonal(cross, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = own_w / (sent_w @ cross + np.asarray(noise_w, dtype=np.float64))
    return np.where(own_w > 0, ratio, 0.0)


def shannon_rate_bps(sinr_linear: ArrayLike, bandwidth_hz: ArrayLike, gap_db: ArrayLike = 0.0) -> FloatArray:
    """Rate B·lb(1 + SINR/gap).

    Args:
        sinr_linear: Linear SINR, >= 0, any shape.
        bandwidth_hz: Bandwidth in Hz; broadcasts.
        gap_db: SNR gap to capacity in dB, >= 0 (3 dB is a good code); broadcasts.

    Returns:
        Rate in bit/s.

    Raises:
        ValueError: If an SINR is negative (a value in dB was probably passed).
    """
    sinr = np.asarray(sinr_linear, dtype=np.float64)
    if np.any(sinr < 0):
        raise ValueError(f"sinr_linear holds {float(np.min(sinr))!r}; expected linear values >= 0, not dB")
    return np.asarray(bandwidth_hz, dtype=np.float64) * np.log2(1.0 + sinr / db_to_linear(gap_db))


def cqi_efficiency(sinr_db: ArrayLike, modes: Modes = CQI_MODES) -> FloatArray:
    """Spectral efficiency of the best mode that decodes at this SINR.

    Args:
        sinr_db: SINR in dB, any shape.
        modes: The modes.

    Returns:
        Efficiency in bit/s/Hz; of the CQI modes 0 below -6.936 dB, 0.1523 to 5.5547 above.

    Source:
        Efficiencies: 3GPP TS 36.213 table 7.2.3-1. Thresholds: LTE link level, AWGN.
    """
    sinr = np.asarray(sinr_db, dtype=np.float64)
    mode = np.searchsorted(np.asarray(modes.thresholds_db), sinr, side="right")
    return np.concatenate(([0.0], modes.efficiencies))[mode]


def rate_bps(
    kind: str, sinr_linear: ArrayLike, bandwidth_hz: float, gap_db: float = 0.0, modes: Modes = CQI_MODES
) -> FloatArray:
    """Rate by name: `shannon` (with the gap), or that of the best mode.

    Args:
        kind: One of `RATES`.
        sinr_linear: Linear SINR, >= 0, any shape.
        bandwidth_hz: Bandwidth in Hz, > 0.
        gap_db: SNR gap in dB, used by `shannon`.
        modes: The modes of the others.

    Returns:
        Rate in bit/s; 0 below the lowest mode.

    Raises:
        ValueError: For an unknown kind.
    """
    if kind == "shannon":
        return shannon_rate_bps(sinr_linear, bandwidth_hz, gap_db)
    if kind in RATES:
        with np.errstate(divide="ignore"):
            sinr_db = 10 * np.log10(np.asarray(sinr_linear, dtype=np.float64))
        return bandwidth_hz * cqi_efficiency(sinr_db, modes)
    raise unknown_name("rate", kind, RATES)


def sinr_for_rate(
    kind: str, rate: ArrayLike, bandwidth_hz: float, gap_db: float = 0.0, modes: Modes = CQI_MODES
) -> FloatArray:
    """Lowest linear SINR that carries a rate: the inverse of `rate_bps`.

    Args:
        kind: One of `RATES`.
        rate: Rate in bit/s, >= 0, any shape.
        bandwidth_hz: Bandwidth in Hz, > 0.
        gap_db: SNR gap in dB, used by `shannon`.
        modes: The modes of the others.

    Returns:
        Linear SINR; inf where there is no mode that fast.

    Raises:
        ValueError: For an unknown kind.
    """
    efficiency = np.asarray(rate, dtype=np.float64) / bandwidth_hz
    if kind == "shannon":
        return db_to_linear(gap_db) * (np.exp2(efficiency) - 1.0)
    if kind in RATES:
        return np.concatenate((db_to_linear(modes.thresholds_db), [np.inf]))[mode_of(efficiency, modes)]
    raise unknown_name("rate", kind, RATES)


def mode_of(efficiency: FloatArray, modes: Modes) -> IntArray:
    """Slowest mode with at least an efficiency; a rate equal to a mode's, but for rounding, is that mode's.

    Args:
        efficiency: Rate over the bandwidth in bit/s/Hz, any shape.
        modes: The modes.

    Returns:
        Indices, in the shape of `efficiency`; the number of modes where none is that fast.
    """
    return np.searchsorted(np.asarray(modes.efficiencies), efficiency * (1 - 1e-12), side="left")


def lowest_rate_bps(
    kind: str, sinr_min_linear: float, bandwidth_hz: float, gap_db: float = 0.0, modes: Modes = CQI_MODES
) -> float:
    """Rate of a transmission that is not decoded: the lowest one a sender would use.

    A sender whose SINR falls below the decoding threshold can only try the rate of the threshold
    itself; below the lowest mode that is the lowest mode.

    Args:
        kind: One of `RATES`.
        sinr_min_linear: Decoding threshold, linear, >= 0; 0 stands for the lowest mode's threshold.
        bandwidth_hz: Bandwidth in Hz, > 0.
        gap_db: SNR gap in dB.
        modes: The modes; also where the rate is `shannon`.

    Returns:
        Rate in bit/s, > 0.
    """
    floor = max(sinr_min_linear, float(db_to_linear(modes.thresholds_db[0])))
    slack = 1.0 if kind == "shannon" else MODE_SLACK
    return float(rate_bps(kind, floor * slack, bandwidth_hz, gap_db, modes))


def packet_success_probability(sinr_linear: ArrayLike, waterfall_db: float = CHEN_WATERFALL_DB) -> FloatArray:
    """Chance that a packet is decoded at a known SINR: exp(-m/SINR).

    Args:
        sinr_linear: Linear SINR in the slot, fading included, >= 0, any shape.
        waterfall_db: Waterfall threshold m in dB.

    Returns:
        Probability in [0, 1].

    Source:
        Chen et al., arXiv 1909.07972, eq. (3), before the mean over the fading is taken.
    """
    sinr = np.asarray(sinr_linear, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.exp(-float(db_to_linear(waterfall_db)) / sinr)


def packet_error_probability(
    mean_sinr_linear: ArrayLike, waterfall_db: float = CHEN_WATERFALL_DB
) -> FloatArray:
    """Packet error rate under Rayleigh fading: 1 - 2·sqrt(m/g)·K1(2·sqrt(m/g)).

    It is 1 - E_h[exp(-m·(I + B·N0)/(P·h))] with h exponential and g the mean SINR.

    Args:
        mean_sinr_linear: Mean linear SINR g = P·E[h]/(I + B·N0), >= 0, any shape.
        waterfall_db: Waterfall threshold m in dB.

    Returns:
        Probability in [0, 1]; 1 at g = 0.

    Source:
        Chen et al., arXiv 1909.07972, eq. (3).
    """
    from scipy.special import k1

    mean = np.asarray(mean_sinr_linear, dtype=np.float64)
    with np.errstate(divide="ignore"):
        root = np.sqrt(float(db_to_linear(waterfall_db)) / mean)
    # K1 underflows to 0 at large arguments while the product with inf would be nan.
    safe = np.minimum(root, 350.0)
    return 1.0 - 2.0 * safe * np.asarray(k1(2.0 * safe))


def check_rate_names(rate: str, errors: str, gap_db: float) -> None:
    """Refuse unknown rate and error model names and an SNR gap below 0 dB.

    Args:
        rate: One of `RATES`.
        errors: `outage`, `chen`, `finite_blocklength` or `none`.
        gap_db: SNR gap in dB, >= 0.

    Raises:
        ValueError: If one is out of range.
    """
    if rate not in RATES:
        raise unknown_name("rate", rate, RATES)
    if errors not in ERROR_MODELS:
        raise unknown_name("errors", errors, ERROR_MODELS)
    if not math.isfinite(gap_db):
        raise ValueError(f"snr_gap_db is {gap_db!r}; expected a finite number >= 0")
    require_positive("snr_gap_db", gap_db, zero_allowed=True)
