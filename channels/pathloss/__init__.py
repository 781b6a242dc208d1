"""Named path-loss models and their line-of-sight probabilities.

A new model is one file with a `PathLossModel` and one line in `channels.tables.PATH_LOSS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import FloatArray
from channels.pathloss.model import Geometry, PathLossModel
from channels.registry import ask, check_options
from channels.tables import PATH_LOSS


class ValidityWarning(UserWarning):
    """A path-loss model was asked for a point outside the range its standard gives."""


def get_model(model: str | PathLossModel, options: Mapping[str, object] | None = None) -> PathLossModel:
    """Look a path-loss model up.

    Args:
        model: A name in `channels.tables.PATH_LOSS`, or a model, which is returned as it is.
        options: Options of a model that has some.

    Returns:
        The model.

    Raises:
        ValueError: If no model has this name, an option is not known to it or out of its range, or what an installed
            package has under this name is no model.
    """
    found = model if isinstance(model, PathLossModel) else PATH_LOSS[model]
    if isinstance(found, PathLossModel):
        if options:
            raise ValueError(f"path-loss model {found.name!r} takes no parameters; got {sorted(options)}")
        return found
    what = f"path-loss model {model!r}"
    if callable(found):
        check_options(what, found, (), options or {})
        found = ask(what, found, **(options or {}))
    if not isinstance(found, PathLossModel):
        raise ValueError(f"{what} is {type(found).__name__}; expected channels.pathloss.model.PathLossModel")
    return found


def path_loss_db(
    model: str | PathLossModel,
    distance_m: ArrayLike,
    carrier_hz: ArrayLike,
    *,
    los: ArrayLike = True,
    tx_height_m: float | None = None,
    rx_height_m: float | None = None,
    **parameters: float | None,
) -> FloatArray:
    """Path loss in dB, without shadowing and fading.

    Args:
        model: A name in `channels.tables.PATH_LOSS`, or a model.
        distance_m: Ground (2-D) distance in m, > 0, any shape.
        carrier_hz: Carrier frequency in Hz, > 0; broadcasts.
        los: Whether the link is in line of sight; broadcasts.
        tx_height_m: Transmitter (base station) height in m; None takes the model's own.
        rx_height_m: Receiver (terminal) height in m; None takes the model's own.
        **parameters: Options of a model that has some: `exponent`, `reference_m`, `reference_loss_db`,
            `sigma_db`, `decorrelation_m` of `log_distance`.

    Returns:
        Loss in dB, in the broadcast shape of the inputs.

    Raises:
        ValueError: For an unknown model, a distance or carrier that is not positive, heights a model
            cannot take, parameters given to a model that has none, or a model whose loss is no finite number.

    Warns:
        ValidityWarning: Outside the model's range; Python's default filter shows it once per caller.
    """
    chosen = get_model(model, parameters)
    point = _geometry(chosen, distance_m, carrier_hz, tx_height_m, rx_height_m)
    _warn_outside(chosen, point)
    return chosen.loss_db(point, np.asarray(los, dtype=bool))


def los_probability(
    model: str | PathLossModel, distance_m: ArrayLike, rx_height_m: float | None = None
) -> FloatArray:
    """Probability that a link of this ground distance is in line of sight.

    Args:
        model: A name in `channels.tables.PATH_LOSS`, or a model.
        distance_m: Ground distance in m, >= 0, any shape.
        rx_height_m: Height of the receiver (terminal) in m; None takes the model's own.

    Returns:
        Probability in [0, 1], in the shape of `distance_m`.

    Raises:
        ValueError: For an unknown model or a negative distance.
    """
    distance = np.asarray(distance_m, dtype=np.float64)
    if np.any(~(distance >= 0)):
        raise ValueError(f"distance_m holds {np.min(distance)!r}; expected distances >= 0 m")
    return get_model(model).sight(distance, rx_height_m)


def _geometry(
    model: PathLossModel,
    distance_m: ArrayLike,
    carrier_hz: ArrayLike,
    tx_height_m: float | None,
    rx_height_m: float | None,
) -> Geometry:
    distance, carrier = np.asarray(distance_m, dtype=np.float64), np.asarray(carrier_hz, dtype=np.float64)
    for name, values in (("distance_m", distance), ("carrier_hz", carrier)):
        if np.any(~(values > 0)):
            raise ValueError(f"{name} holds {float(np.min(values))!r}; path loss is defined for values > 0")
    tx = model.heights_m[0] if tx_height_m is None else float(tx_height_m)
    rx = model.heights_m[1] if rx_height_m is None else float(rx_height_m)
    lowest_m = {"umi": 1.0, "uma": 1.0, "d2d_outdoor": 0.7}.get(model.name, 0.0)
    if model.name in ("umi", "uma", "d2d_outdoor") and min(tx, rx) <= lowest_m:
        raise ValueError(
            f"antenna heights {tx} m and {rx} m: {model.name} subtracts a clutter height of {lowest_m} m,"
            " so both must be above it"
        )
    return Geometry(distance, np.hypot(distance, tx - rx), carrier / 1e9, tx, rx)


def _warn_outside(model: PathLossModel, point: Geometry) -> None:
    distance = point.distance_3d_m if model.range_is_3d else point.distance_m
    near_m, far_m = model.distance_range_m
    low_hz, high_hz = model.carrier_range_hz
    carrier_hz = point.carrier_ghz * 1e9
    tx_low, tx_high = model.tx_height_range_m
    rx_low, rx_high = model.rx_height_range_m
    # A micrometre of slack: 3-D distances come from a square root.
    inside = (
        np.all((distance >= near_m - 1e-6) & (distance <= far_m + 1e-6))
        and np.all((carrier_hz >= low_hz) & (carrier_hz <= high_hz))
        and tx_low <= point.tx_height_m <= tx_high
        and rx_low <= point.rx_height_m <= rx_high
    )
    if not inside:
        warnings.warn(
            f"path-loss model {model.name} is used outside its range: distance {near_m:g}-{far_m:g} m,"
            f" carrier {low_hz / 1e9:g}-{high_hz / 1e9:g} GHz,"
            f" transmitter {tx_low:g}-{tx_high:g} m and receiver"
            f" {rx_low:g}-{rx_high:g} m high ({model.source})",
            ValidityWarning,
            stacklevel=3,
        )
