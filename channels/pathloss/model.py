"""What a path-loss model is: two loss curves, a line-of-sight probability and its shadowing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from channels.arrays import BoolArray, FloatArray
from channels.registry import ask
from channels.units import EXACT_SPEED_OF_LIGHT_M_S, SPEED_OF_LIGHT_M_S


@dataclass(frozen=True)
class Geometry:
    """One evaluation point of a path-loss model; all arrays broadcast against each other.

    Attributes:
        distance_m: Ground (2-D) distance in m, > 0.
        distance_3d_m: Distance between the antennas in m.
        carrier_ghz: Carrier in GHz.
        tx_height_m: Antenna height of the base station or first device, in m.
        rx_height_m: Antenna height of the user terminal or second device, in m.
    """

    distance_m: FloatArray
    distance_3d_m: FloatArray
    carrier_ghz: FloatArray
    tx_height_m: float
    rx_height_m: float


FREE_SPACE_CONSTANT_DB = 20 * math.log10(4 * math.pi / EXACT_SPEED_OF_LIGHT_M_S)
"""20·lg(4·pi/c) with the exact speed of light, in dB for metres and hertz."""

_ROUNDING = 1e-9

LossCurve = Callable[[Geometry], FloatArray]
Probability = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class PathLossModel:
    """A named path-loss model.

    Attributes:
        name: Name used in configurations.
        source: Standard, version and clause.
        los: Loss in dB in line of sight.
        nlos: Loss in dB without line of sight.
        los_probability: Probability of line of sight over ground distance in m.
        sigma_db: Shadowing standard deviation (LOS, NLOS) in dB.
        decorrelation_m: Shadowing decorrelation distance (LOS, NLOS) in m.
        heights_m: Default antenna heights (transmitter, receiver) in m.
        distance_range_m: Validity over ground distance (or 3-D where `range_is_3d`) in m.
        carrier_range_hz: Validity over carrier frequency in Hz.
        tx_height_range_m: Validity over the transmitter's height in m.
        rx_height_range_m: Validity over the receiver's height in m.
        range_is_3d: Whether `distance_range_m` limits the 3-D distance.
        tall_probability: Probability of line of sight over ground distance and the receiver's height in m, where it
            depends on that; None: it does not.
    """

    name: str
    source: str
    los: LossCurve
    nlos: LossCurve
    los_probability: Probability
    sigma_db: tuple[float, float]
    decorrelation_m: tuple[float, float]
    heights_m: tuple[float, float]
    distance_range_m: tuple[float, float]
    carrier_range_hz: tuple[float, float]
    tx_height_range_m: tuple[float, float] = (0.0, np.inf)
    rx_height_range_m: tuple[float, float] = (0.0, np.inf)
    range_is_3d: bool = False
    tall_probability: Callable[[FloatArray, float], FloatArray] | None = None

    def sight(self, distance_m: FloatArray, rx_height_m: float | None = None) -> FloatArray:
        """Probability of line of sight.

        Args:
            distance_m: Ground distance in m, >= 0, any shape.
            rx_height_m: Height of the receiver in m; None takes the model's own.

        Returns:
            Probability in [0, 1], in the shape of `distance_m`.

        Raises:
            ValueError: If the model gives anything else; one value for all distances is spread over them.
        """
        what = f"{self._what}: its line-of-sight probability"
        if self.tall_probability is None or rx_height_m is None:
            answer = ask(what, self.los_probability, distance_m)
        else:
            answer = ask(what, self.tall_probability, distance_m, rx_height_m)
        found = self._spread("line-of-sight probability", answer, np.shape(distance_m))
        if not np.all((found >= -_ROUNDING) & (found <= 1 + _ROUNDING)):
            raise ValueError(
                f"{self._what} gives a line-of-sight probability outside 0 to 1 at some distance"
            )
        return found

    def loss_db(self, point: Geometry, los: BoolArray) -> FloatArray:
        """Loss in dB, in line of sight or not.

        Args:
            point: Where the model is evaluated.
            los: Whether each link is in line of sight; broadcasts.

        Returns:
            Loss in the broadcast shape of distance, carrier and `los`.

        Raises:
            ValueError: If the model gives losses of another shape, or any that is not finite; one value for all
                distances is spread over them.
        """
        shape = np.broadcast_shapes(np.shape(point.distance_m), np.shape(point.carrier_ghz))
        curves = (("loss in line of sight", self.los), ("loss out of sight", self.nlos))
        seen, hidden = (
            self._spread(name, ask(f"{self._what}: its {name}", curve, point), shape)
            for name, curve in curves
        )
        found = np.where(los, seen, hidden)
        if not np.isfinite(found).all():
            raise ValueError(
                f"{self._what} gives a loss of {found[~np.isfinite(found)][0]} dB; expected finite numbers"
            )
        return found

    @property
    def _what(self) -> str:
        return f"path-loss model {self.name!r}"

    def _spread(self, name: str, answer: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
        """An answer in the shape of what was asked; a number stands for all."""
        try:
            found = np.asarray(answer, dtype=np.float64)
            return found if found.shape == shape else np.broadcast_to(found, shape).copy()
        except (TypeError, ValueError) as error:
            got = getattr(answer, "shape", type(answer).__name__)
            raise ValueError(
                f"{self._what} gives a {name} of shape {got}; expected numbers of shape {shape}"
            ) from error


def free_space_db(point: Geometry) -> FloatArray:
    """Free-space loss 20·lg d + 20·lg f_Hz - 147.55 in dB over the 3-D distance.

    The constant is 20·lg(4·pi/c) unrounded (-147.5522), which gives the 83.329 dB at 100 m and 3.5 GHz.
    """
    return (
        20 * np.log10(point.distance_3d_m) + 20 * np.log10(point.carrier_ghz * 1e9) + FREE_SPACE_CONSTANT_DB
    )


def always_los(distance_m: FloatArray) -> FloatArray:
    """Probability of line of sight of models without obstacles: 1.

    Args:
        distance_m: Ground distance in m, any shape.

    Returns:
        Ones, in the shape of `distance_m`.
    """
    return np.ones_like(distance_m)


def breakpoint_m(point: Geometry, tx_effective_m: float, rx_effective_m: float) -> FloatArray:
    """Two-ray breakpoint distance 4·h_tx·h_rx·f/c, with c = 3e8 m/s as the standards have it.

    Args:
        point: Its carrier is used.
        tx_effective_m: Effective height of the transmitter's antenna in m.
        rx_effective_m: Effective height of the receiver's antenna in m.

    Returns:
        Distance in m, in the shape of the point's carrier.

    Source:
        3GPP TR 38.901, table 7.4.1-1, note 1.
    """
    return 4 * tx_effective_m * rx_effective_m * point.carrier_ghz * 1e9 / SPEED_OF_LIGHT_M_S
