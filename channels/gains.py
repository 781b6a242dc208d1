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
MISSED_SHARE = 0.01
STILL_PAIRS = 6e8
MOVED_PAIRS = 6e7
_FILTER_BINS = 65536
_NEPER_PER_DB = math.log(10.0) / 10.0


@dataclass(frozen=True)
class LargeScale:
    """A path-loss model with everything that does not depend on where the devices are.

    The compiled loops read the model from curves over ln(distance) with 16,384 points from the shortest
    distance to 200 km, linearly interpolated: exact to 1e-7 dB where the model is straight over
    lg(distance) and to 0.002 dB at its kinks.

    Attributes:
        model: The path-loss model.
        curves: (3, points) ln gain in LOS, ln gain in NLOS, and P_LOS.
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
    numbers = [
        first, (CURVE_POINTS - 1) / (last - first), *sigma, *model.decorrelation_m, settings.los_decorrelation_m,
        mode, antenna, settings.min_distance_m**2,
    ]  # fmt: skip
    return LargeScale(
        model=model,
        curves=np.stack([los, nlos, probability]),
        numbers=np.asarray(numbers, dtype=np.float64),
        keys=np.asarray([stream_key(seed, "shadowing"), stream_key(seed, "line-of-sight")], dtype=np.uint64),
    )


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
        radius_m: Up to which distance pairs were looked at; inf lists all pairs.
        min_gain: Lowest linear gain listed.
    """

    indptr: IntArray
    index: np.ndarray[tuple[int], np.dtype[np.int32]]
    out_gain: FloatArray
    in_gain: FloatArray
    radius_m: float
    min_gain: float = 0.0

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


def strong_gains(scale: LargeScale, positions_m: FloatArray, travelled_m: FloatArray, entries: int) -> NearGains:
    """The near list of the strongest pairs: those above a gain bound set for `entries` per device on average.

    Choosing by gain and not by distance matters: with drawn LOS states and shadowing, a few far links in
    sight carry most of the interference that a distance cut-off of equal size would miss.

    Args:
        scale: The tabulated model.
        positions_m: (N, 2) positions in m.
        travelled_m: (N,) ground covered in m.
        entries: Wanted mean length of a row.

    Returns:
        The list, with its gain bound and search radius. The search stops where at most `MISSED_SHARE` of
        the entries lie farther away, or where the number of pairs looked at reaches a budget
        (`STILL_PAIRS`, or `MOVED_PAIRS` once devices have moved, whose draws cost more).
    """
    from channels import kernels

    devices = positions_m.shape[0]
    distance_m, pairs_each = _distance_profile(positions_m)
    min_gain = _bound_for_entries(scale, distance_m, pairs_each, entries)
    strong = pairs_each * gain_reached(scale, distance_m, min_gain)
    beyond = strong[::-1].cumsum()[::-1]
    budget = (MOVED_PAIRS if travelled_m.any() else STILL_PAIRS) / devices * 2
    seen = pairs_each.cumsum()
    enough = (beyond <= MISSED_SHARE * entries) | (seen >= budget)
    radius_m = float(distance_m[int(np.argmax(enough))]) if enough.any() else float(distance_m[-1])
    pairs, gain = strong_pairs(scale, positions_m, travelled_m, min_gain, radius_m)
    indptr, index, value = kernels.symmetric_list(
        np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]), gain, devices
    )
    return NearGains(indptr, index, value, value, radius_m, min_gain)


def gain_reached(scale: LargeScale, distance_m: FloatArray, min_gain: float) -> FloatArray:
    """Probability, over LOS states and shadowing, that a link of a distance reaches a linear gain."""
    from scipy.special import ndtr

    reached = np.zeros(distance_m.shape)
    for weight, log_gain, sigma in _states(scale, distance_m):
        reached += weight * np.asarray(ndtr((log_gain - math.log(min_gain)) / max(sigma, 1e-12)))
    return reached


def weak_mean_gain(scale: LargeScale, distance_m: FloatArray, min_gain: float) -> FloatArray:
    """E[G·1(G < bound)]: mean gain over LOS states and shadowing of what stays below a bound.

    For a log-normal part with ln-mean m and ln-sigma s it is exp(m + s²/2)·Phi((ln bound - m - s²)/s).

    Args:
        scale: The tabulated model.
        distance_m: Distances in m, any shape.
        min_gain: The bound; inf gives the whole mean.

    Returns:
        Linear gain, in the shape of `distance_m`.
    """
    from scipy.special import ndtr

    mean = np.zeros(distance_m.shape)
    bound = math.log(min_gain) if math.isfinite(min_gain) else math.inf
    for weight, log_gain, sigma in _states(scale, distance_m):
        below = np.asarray(ndtr((bound - log_gain - sigma**2) / max(sigma, 1e-12)))
        mean += weight * np.exp(log_gain + sigma**2 / 2) * below
    return mean


def _states(scale: LargeScale, distance_m: FloatArray) -> list[tuple[FloatArray, FloatArray, float]]:
    """Probability, ln gain without shadowing, and ln-sigma of the two states at some distances."""
    shortest_m = math.sqrt(scale.numbers[9])
    position = (np.log(np.maximum(distance_m, shortest_m)) - scale.numbers[0]) * scale.numbers[1]
    grid = np.arange(scale.curves.shape[1])
    los, nlos, probability = (np.interp(position, grid, scale.curves[row]) for row in range(3))
    antenna = float(scale.numbers[8])
    return [
        (probability, los + antenna, float(scale.numbers[2])),
        (1 - probability, nlos + antenna, float(scale.numbers[3])),
    ]


def _distance_profile(positions_m: FloatArray, *, sample: int = 64, bins: int = 600) -> tuple[FloatArray, FloatArray]:
    """Distances (upper bin edges, in m) and the mean number of other devices of a device per bin.

    From an even sample of the devices, so that clustered placements are seen as they are.
    """
    devices = positions_m.shape[0]
    chosen = np.unique(np.linspace(0, devices - 1, min(sample, devices)).astype(np.int64))
    longest = float(np.hypot(*np.ptp(positions_m, axis=0))) + 1.0
    edges = np.concatenate(([0.0], np.geomspace(1.0, max(longest, 2.0), bins)))
    count = np.zeros(bins)
    for device in chosen:
        apart = np.hypot(*(positions_m - positions_m[device]).T)
        count += np.histogram(apart, edges)[0]
    count[0] -= chosen.size
    return edges[1:], count / chosen.size


def _bound_for_entries(scale: LargeScale, distance_m: FloatArray, pairs_each: FloatArray, entries: int) -> float:
    low, high = -120.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        expected = float((pairs_each * gain_reached(scale, distance_m, math.exp(middle))).sum())
        low, high = (middle, high) if expected > entries else (low, middle)
    return math.exp(high)


def strong_pairs(
    scale: LargeScale, positions_m: FloatArray, travelled_m: FloatArray, min_gain: float, radius_m: float
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int32]], FloatArray]:
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
    cell_m = max(reach_m / 4, float(max(np.ptp(x), np.ptp(y))) / 2000)
    cells = kernels.cell_lists(x, y, cell_m)
    filters = _weak_filters(scale, min_gain, reach_m)
    distance_m, pairs_each = _distance_profile(positions_m)
    reached = pairs_each * gain_reached(scale, distance_m, min_gain) * (distance_m <= 1.1 * reach_m)
    capacity = int(0.6 * reached.sum() * x.shape[0]) + 4096
    while True:
        first, second, gain, found = kernels.strong_pairs(
            x, y, travelled_m, reach_m, min_gain, cell_m, *cells, capacity, not travelled_m.any(), *filters,
            scale.curves, scale.numbers, scale.keys,
        )  # fmt: skip
        if found <= capacity:
            return np.stack([first[:found], second[:found]], axis=1), gain[:found].copy()
        capacity = int(found)


def _weak_filters(scale: LargeScale, min_gain: float, reach_m: float) -> tuple[float, FloatArray, FloatArray]:
    """Bounds per bin of squared distance that spare most pairs the full evaluation.

    Both curves fall with distance in every model (the loss curves by their formulas, P_LOS likewise), so the
    values at a bin's near edge bound the bin; a little slack covers the interpolation.
    """
    from scipy.special import ndtr

    per_m2 = _FILTER_BINS / reach_m**2
    near_m = np.sqrt(np.arange(_FILTER_BINS + 1) / per_m2)
    (los, _, _), (_, log_gain, sigma) = _states(scale, near_m)
    slack = 1e-3
    needed = (math.log(min_gain) - log_gain - slack) / max(sigma, 1e-12)
    return per_m2, np.minimum(los + slack * los, 1.0), np.asarray(ndtr(needed)) - 1e-12


def qualifying_radius_m(scale: LargeScale, min_gain: float, share: float = 0.01) -> float:
    """Distance beyond which at most `share` of links reach a gain, by P_LOS and shadowing.

    Args:
        scale: The tabulated model.
        min_gain: Linear gain.
        share: Share of links that may be missed at the radius itself.

    Returns:
        Radius in m.
    """
    distance_m = np.exp(scale.numbers[0] + np.arange(scale.curves.shape[1]) / scale.numbers[1])
    reached = np.flatnonzero(gain_reached(scale, distance_m, min_gain) >= share)
    return float(distance_m[min(int(reached[-1]) + 1 if reached.size else 0, distance_m.size - 1)])


def _axes(positions_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.ascontiguousarray(positions_m[:, 0]), np.ascontiguousarray(positions_m[:, 1])
