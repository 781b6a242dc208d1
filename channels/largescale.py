"""A path-loss model with its line-of-sight states and shadowing, tabulated over distance."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace

import numpy as np

from channels.arrays import FloatArray
from channels.checks import require_range
from channels.heights import HEIGHTS_M, height_pairs, pair_shares
from channels.pathloss import ValidityWarning, get_model, path_loss_db
from channels.pathloss.model import PathLossModel
from channels.settings import RadioSettings
from channels.surroundings import Surroundings, surroundings_of

CURVE_POINTS = 16384
LONGEST_M = 200e3
FARTHEST_M = 20e6
_NEPER_PER_DB = math.log(10.0) / 10.0


@dataclass(frozen=True)
class LargeScale:
    """A path-loss model with everything that does not depend on where the devices are.

    The compiled loops read the model from curves over ln(distance) with 16,384 points from the shortest
    distance to 200 km and equally dense ones from there to 20,000 km, half-way round the Earth, linearly interpolated:
    exact to 1e-7 dB where the model is straight over lg(distance) and to 0.002 dB at its kinks. Longer distances count
    as 20,000 km.

    Attributes:
        model: The path-loss model.
        curves: (3·pairs, points) ln gain in LOS, ln gain in NLOS, and P_LOS, for each pair of heights.
        numbers: (10,) ln of the first distance, points per unit of ln(distance), shadowing sigma in ln
            gain (LOS, NLOS), decorrelation distances in m (LOS, NLOS, LOS state), LOS mode (0 drawn, 1
            always, -1 never), ln antenna gain, shortest distance squared in m².
        seed: The experiment's seed; it keys shadowing and LOS states.
        around: What surrounds the devices; None where nothing does.
        offsets_ln: (offsets,) equally likely ln gains of pairs by what surrounds them.
        shares: (pairs,) chance of each pair of heights; one where all devices have one height.
    """

    model: PathLossModel
    curves: FloatArray
    numbers: FloatArray
    seed: int
    around: Surroundings | None = None
    offsets_ln: FloatArray = field(default_factory=lambda: np.zeros(1))
    shares: FloatArray = field(default_factory=lambda: np.ones(1))


def settings_model(settings: RadioSettings) -> PathLossModel:
    """The path-loss model of the settings, with their shadowing overrides.

    Args:
        settings: Radio settings.

    Returns:
        The model; sigma 0 where shadowing is off.
    """
    model = get_model(settings.path_loss, settings.all_path_loss_options())
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

    Raises:
        ValueError: If the shortest distance is beyond half of the table.
    """
    require_range("min_distance_m", settings.min_distance_m, 0.0, LONGEST_M / 2)
    model = settings_model(settings)
    first, last = math.log(settings.min_distance_m), math.log(LONGEST_M)
    step = (last - first) / (CURVE_POINTS - 1)
    more = np.arange(1, math.ceil(math.log(FARTHEST_M / LONGEST_M) / step) + 1)
    distance_m = np.exp(np.append(np.linspace(first, last, CURVE_POINTS), last + step * more))

    mode = {"draw": 0.0, "always": 1.0, "never": -1.0}[settings.line_of_sight]
    heights = _heights(settings)
    curves = np.concatenate([_curves(settings, model, distance_m, mode, *pair) for pair in heights])
    sigma = _NEPER_PER_DB * np.asarray(model.sigma_db)
    around = surroundings_of(settings, seed)
    numbers = [
        first,
        (CURVE_POINTS - 1) / (last - first),
        *sigma,
        *model.decorrelation_m,
        settings.los_decorrelation_m,
        mode,
        _NEPER_PER_DB * settings.antenna_gain_db + (around.boresight_ln if around else 0.0),
        settings.min_distance_m**2,
    ]
    return LargeScale(
        model=model,
        curves=curves,
        numbers=np.asarray(numbers, dtype=np.float64),
        seed=seed,
        around=around,
        offsets_ln=around.pair_offsets() if around else np.zeros(1),
        shares=pair_shares(settings.indoor_share) if len(heights) > 1 else np.ones(1),
    )


def _heights(settings: RadioSettings) -> list[tuple[float | None, float | None]]:
    """Heights of base and terminal of each pair of heights, in m; None for the model's own."""
    if settings.device_heights == "fixed":
        return [(settings.tx_height_m, settings.rx_height_m)]
    return [(float(HEIGHTS_M[high]), float(HEIGHTS_M[low])) for high, low in height_pairs()]


def _curves(
    settings: RadioSettings, model: PathLossModel, distance_m: FloatArray, mode: float,
    tx_height_m: float | None, rx_height_m: float | None,
) -> FloatArray:  # fmt: skip
    """(3, points) ln gain in LOS, ln gain in NLOS, and P_LOS of one pair of heights."""

    def log_gain(state: bool) -> FloatArray:
        heights = {"tx_height_m": tx_height_m, "rx_height_m": rx_height_m}
        loss_db = path_loss_db(model, distance_m, settings.carrier_hz, los=state, **heights)
        return -_NEPER_PER_DB * loss_db

    with warnings.catch_warnings():
        # The table reaches beyond every model's range; the channel warns about the links it really uses.
        warnings.simplefilter("ignore", ValidityWarning)
        los, nlos = log_gain(True), log_gain(False)
    drawn = model.sight(distance_m, rx_height_m)
    return np.stack([los, nlos, drawn if mode == 0.0 else np.full_like(drawn, float(mode > 0))])


def gain_reached(scale: LargeScale, distance_m: FloatArray, min_gain: float) -> FloatArray:
    """Probability, over LOS states and shadowing, that a link of a distance reaches a gain.

    P_LOS·Phi((m_LOS - ln g)/s_LOS) + (1 - P_LOS)·Phi((m_NLOS - ln g)/s_NLOS), with m and s the mean and deviation
    of the ln gain in each state.

    Args:
        scale: The tabulated model.
        distance_m: Ground distances in m, any shape; those below the shortest count as it.
        min_gain: Linear gain g, > 0.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.
    """
    from scipy.special import ndtr

    reached = np.zeros(distance_m.shape)
    for weight, log_gain, sigma in state_gains(scale, distance_m):
        for offset in _offsets(scale):
            above: FloatArray = (log_gain + offset - math.log(min_gain)) / max(sigma, 1e-12)
            reached += weight * np.asarray(ndtr(above)) / scale.offsets_ln.size
    return reached


def _offsets(scale: LargeScale) -> list[float]:
    return [float(one) for one in scale.offsets_ln]


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
    for weight, log_gain, sigma in state_gains(scale, distance_m):
        for offset in _offsets(scale):
            below: FloatArray = np.asarray(ndtr((bound - log_gain - offset - sigma**2) / max(sigma, 1e-12)))
            mean += weight * np.exp(log_gain + offset + sigma**2 / 2) * below / scale.offsets_ln.size
    return mean


def state_gains(scale: LargeScale, distance_m: FloatArray) -> list[tuple[FloatArray, FloatArray, float]]:
    """The states of a link at some distances, from the tabulated curves.

    Args:
        scale: The tabulated model.
        distance_m: Ground distances in m, any shape; those below the shortest count as it.

    Returns:
        For LOS and then NLOS of each pair of heights: its probability and the ln of its linear gain without shadowing,
        both in the shape of `distance_m`, and the standard deviation of the ln gain.
    """
    shortest_m = math.sqrt(scale.numbers[9])
    position: FloatArray = (np.log(np.maximum(distance_m, shortest_m)) - scale.numbers[0]) * scale.numbers[1]
    grid: FloatArray = np.arange(scale.curves.shape[1], dtype=np.float64)

    def curve(row: int) -> FloatArray:
        return np.asarray(np.interp(position, grid, scale.curves[row]), dtype=np.float64)

    antenna, states = float(scale.numbers[8]), list[tuple[FloatArray, FloatArray, float]]()
    for pair, share in enumerate(scale.shares.tolist()):
        los, nlos, probability = curve(3 * pair), curve(3 * pair + 1), curve(3 * pair + 2)
        states.append((share * probability, los + antenna, float(scale.numbers[2])))
        states.append((share * (1 - probability), nlos + antenna, float(scale.numbers[3])))
    return states
