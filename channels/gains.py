"""Mean gains of pairs of devices: path loss, line-of-sight state and shadowing, and near lists of them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np

from channels.arrays import FloatArray, IntArray, KeyArray
from channels.draws import stream_key
from channels.pathloss import ValidityWarning, get_model, path_loss_db
from channels.pathloss.basic import log_distance_model
from channels.pathloss.model import PathLossModel
from channels.settings import RadioSettings

CURVE_POINTS = 16384
LONGEST_M = 200e3
_NEPER_PER_DB = math.log(10.0) / 10.0


@dataclass(frozen=True)
class LargeScale:
    """A path-loss model with everything that does not depend on where the devices are.

    The compiled loops read the model from curves over ln(distance) with 16,384 points from the shortest
    distance to 200 km, linearly interpolated: exact to 1e-7 dB where the model is straight over
    lg(distance) and to 0.002 dB at its kinks.

    Attributes:
        model: The path-loss model.
        curves: (4, points) ln gain in LOS, ln gain in NLOS, P_LOS, and the mean linear gain over LOS
            states and shadowing, with its factor exp((sigma·ln10/10)²/2), antenna gains included.
        numbers: (10,) ln of the first distance, points per unit of ln(distance), shadowing sigma in ln
            gain (LOS, NLOS), decorrelation distances in m (LOS, NLOS, LOS state), LOS mode (0 drawn, 1
            always, -1 never), ln antenna gain, shortest distance squared in m².
        keys: (2,) random streams of shadowing and LOS state.
    """

    model: PathLossModel
    curves: FloatArray
    numbers: FloatArray
    keys: KeyArray


def settings_model(settings: RadioSettings) -> PathLossModel:
    """The path-loss model of the settings, with their shadowing overrides.

    Args:
        settings: Radio settings.

    Returns:
        The model; sigma 0 where shadowing is off.
    """
    model = get_model(settings.path_loss)
    if settings.path_loss == "log_distance":
        model = log_distance_model(settings.path_loss_exponent, settings.path_loss_reference_m)
    sigma = settings.shadowing_sigma_db
    lag = settings.shadowing_decorrelation_m
    return replace(
        model,
        sigma_db=(0.0, 0.0)
        if not settings.shadowing
        else model.sigma_db
        if sigma is None
        else (sigma, sigma),
        decorrelation_m=model.decorrelation_m if lag is None else (lag, lag),
    )


def build_large_scale(settings: RadioSettings, *, seed: int) -> LargeScale:
    """Tabulate the settings' path-loss model.

    Args:
        settings: Radio settings.
        seed: The experiment's seed; it keys shadowing and LOS states.

    Returns:
        The tabulated model.
    """
    model = settings_model(settings)
    first, last = math.log(settings.min_distance_m), math.log(LONGEST_M)
    distance_m = np.exp(np.linspace(first, last, CURVE_POINTS))
    heights = (settings.tx_height_m, settings.rx_height_m)
    with warnings.catch_warnings():
        # The table reaches beyond every model's range; the channel warns about the links it really uses.
        warnings.simplefilter("ignore", ValidityWarning)
        los, nlos = (
            -_NEPER_PER_DB
            * path_loss_db(model, distance_m, settings.carrier_hz, los=state, tx_height_m=heights[0], rx_height_m=heights[1])
            for state in (True, False)
        )  # fmt: skip
    drawn = model.los_probability(distance_m)
    mode = {"draw": 0.0, "always": 1.0, "never": -1.0}[settings.line_of_sight]
    probability = drawn if mode == 0.0 else np.full_like(drawn, float(mode > 0))
    sigma = _NEPER_PER_DB * np.asarray(model.sigma_db)
    antenna = _NEPER_PER_DB * settings.antenna_gain_db
    mean = probability * np.exp(los + sigma[0] ** 2 / 2) + (1 - probability) * np.exp(
        nlos + sigma[1] ** 2 / 2
    )
    numbers = [
        first, (CURVE_POINTS - 1) / (last - first), *sigma, *model.decorrelation_m, settings.los_decorrelation_m,
        mode, antenna, settings.min_distance_m**2,
    ]  # fmt: skip
    return LargeScale(
        model=model,
        curves=np.stack([los, nlos, probability, mean * math.exp(antenna)]),
        numbers=np.asarray(numbers, dtype=np.float64),
        keys=np.asarray([stream_key(seed, "shadowing"), stream_key(seed, "line-of-sight")], dtype=np.uint64),
    )


def mean_gain(scale: LargeScale, distance_m: FloatArray) -> FloatArray:
    """Mean linear gain at a distance, over LOS states and shadowing.

    Args:
        scale: The tabulated model.
        distance_m: Distances in m, any shape.

    Returns:
        Linear gain, in the same shape.
    """
    shortest_m = math.sqrt(scale.numbers[9])
    position = (np.log(np.maximum(distance_m, shortest_m)) - scale.numbers[0]) * scale.numbers[1]
    return np.interp(position, np.arange(scale.curves.shape[1]), scale.curves[3])


def pair_gains(
    scale: LargeScale, positions_m: FloatArray, travelled_m: FloatArray, first: IntArray, second: IntArray
) -> FloatArray:
    """Linear gains of pairs of devices, without fading; symmetric.

    Args:
        scale: The tabulated model.
        positions_m: (N, 2) positions in m.
        travelled_m: (N,) ground each device has covered so far in m.
        first: (pairs,) device indices.
        second: (pairs,) device indices.

    Returns:
        (pairs,) linear gains.
    """
    from channels import kernels

    x, y = _axes(positions_m)
    return kernels.pair_gains(
        np.ascontiguousarray(first), np.ascontiguousarray(second), x, y, travelled_m, scale.curves, scale.numbers,
        scale.keys,
    )  # fmt: skip


@dataclass(frozen=True)
class NearGains:
    """Gains between each device and the devices near it, row by row.

    Attributes:
        indptr: (N + 1,) start of each device's row.
        index: (entries,) int32 other device.
        out_gain: (entries,) linear gain from the row's device to the other.
        in_gain: (entries,) linear gain from the other to the row's device; the same array where gains are
            reciprocal.
        radius_m: Up to which distance all devices are listed; inf lists all pairs.
    """

    indptr: IntArray
    index: np.ndarray[tuple[int], np.dtype[np.int32]]
    out_gain: FloatArray
    in_gain: FloatArray
    radius_m: float

    @property
    def devices(self) -> int:
        """Number of devices N."""
        return self.indptr.shape[0] - 1

    @property
    def complete(self) -> bool:
        """Whether all pairs are listed."""
        return math.isinf(self.radius_m)

    def matrix(self) -> FloatArray:
        """(N, N) gains from row to column; only for complete lists.

        Raises:
            ValueError: If the list is not complete.
        """
        if not self.complete:
            raise ValueError(
                "a near list with a cut-off has no gain matrix; use fewer devices or greedy_sinr"
            )
        return self.out_gain.reshape(self.devices, self.devices)


def matrix_gains(gains: FloatArray) -> NearGains:
    """A complete near list from an (N, N) matrix of linear gains, gains[i, j] from i to j."""
    n = gains.shape[0]
    clean = gains.astype(np.float64, copy=True)
    np.fill_diagonal(clean, 0.0)
    back = clean.T
    flat = np.ascontiguousarray(clean).reshape(-1)
    return NearGains(
        indptr=np.arange(n + 1, dtype=np.int64) * n,
        index=np.tile(np.arange(n, dtype=np.int32), n),
        out_gain=flat,
        in_gain=flat if np.array_equal(clean, back) else np.ascontiguousarray(back).reshape(-1),
        radius_m=math.inf,
    )


def dense_gains(scale: LargeScale, positions_m: FloatArray, travelled_m: FloatArray) -> NearGains:
    """The complete near list of N devices: N² entries, for up to some 5,000 devices.

    Args:
        scale: The tabulated model.
        positions_m: (N, 2) positions in m.
        travelled_m: (N,) ground covered in m.

    Returns:
        The list.
    """
    from channels import kernels

    n = positions_m.shape[0]
    x, y = _axes(positions_m)
    gain = kernels.dense_list(x, y, travelled_m, scale.curves, scale.numbers, scale.keys)
    index = np.tile(np.arange(n, dtype=np.int32), n)
    return NearGains(np.arange(n + 1, dtype=np.int64) * n, index, gain, gain, math.inf)


def nearby_gains(
    scale: LargeScale, positions_m: FloatArray, travelled_m: FloatArray, neighbours: int
) -> NearGains:
    """The near list within the radius that holds about `neighbours` devices on average.

    Args:
        scale: The tabulated model.
        positions_m: (N, 2) positions in m.
        travelled_m: (N,) ground covered in m.
        neighbours: Wanted mean number of devices in a row; clustered devices make the radius shrink until
            the mean is at most this.

    Returns:
        The list and its radius.
    """
    from channels import kernels

    x, y = _axes(positions_m)
    area_m2 = max(float(np.ptp(x)), 1.0) * max(float(np.ptp(y)), 1.0)
    radius_m = math.sqrt(area_m2 * neighbours / (math.pi * x.shape[0]))
    while True:
        cells = kernels.cell_lists(x, y, radius_m)
        counts = kernels.near_counts(x, y, radius_m, *cells)
        if counts.mean() <= 1.05 * neighbours:
            break
        radius_m *= 0.85
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    index, gain = kernels.near_list(
        x, y, travelled_m, radius_m, *cells, indptr, scale.curves, scale.numbers, scale.keys
    )  # fmt: skip
    return NearGains(indptr, index, gain, gain, radius_m)


def strong_pairs(
    scale: LargeScale, positions_m: FloatArray, travelled_m: FloatArray, min_gain: float, radius_m: float
) -> tuple[IntArray, FloatArray]:
    """All pairs within a radius whose gain reaches a bound, found cell by cell.

    Args:
        scale: The tabulated model.
        positions_m: (N, 2) positions in m.
        travelled_m: (N,) ground covered in m.
        min_gain: Lowest linear gain kept.
        radius_m: Longest distance looked at; inf looks at all pairs.

    Returns:
        (E, 2) pairs i < j and (E,) linear gains, in an order that depends on positions only.
    """
    from channels import kernels

    x, y = _axes(positions_m)
    reach_m = min(radius_m, float(np.hypot(np.ptp(x), np.ptp(y))) + 1.0)
    cells = kernels.cell_lists(x, y, reach_m)
    capacity = 16 * x.shape[0] + 1024
    while True:
        first, second, gain, found = kernels.strong_pairs(
            x, y, travelled_m, reach_m, min_gain, *cells, capacity, scale.curves, scale.numbers, scale.keys
        )  # fmt: skip
        if found <= capacity:
            return np.stack([first[:found], second[:found]], axis=1), gain[:found].copy()
        capacity = int(found)


def qualifying_radius_m(scale: LargeScale, min_gain: float, share: float = 0.01) -> float:
    """Distance beyond which at most `share` of links reach a gain, by P_LOS and shadowing.

    Args:
        scale: The tabulated model.
        min_gain: Linear gain.
        share: Share of links that may be missed at the radius itself.

    Returns:
        Radius in m.
    """
    from scipy.special import ndtr

    wanted = math.log(min_gain) - scale.numbers[8]
    chance = np.zeros(scale.curves.shape[1])
    for state, weight in ((0, scale.curves[2]), (1, 1 - scale.curves[2])):
        sigma = max(float(scale.numbers[2 + state]), 1e-9)
        chance += weight * np.asarray(ndtr((scale.curves[state] - wanted) / sigma))
    reached = np.flatnonzero(chance >= share)
    last = int(reached[-1]) if reached.size else 0
    return math.exp(scale.numbers[0] + (last + 1) / scale.numbers[1])


def _axes(positions_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.ascontiguousarray(positions_m[:, 0]), np.ascontiguousarray(positions_m[:, 1])
