"""`Highway`: vehicles in lanes, half of the lanes each way."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray
from topology.mobility.base import ArrayState, Speed, check_speeds, check_start, check_step
from topology.mobility.draws import unit_draws
from topology.registry import Within


class Highway(ArrayState):
    """Vehicles on a straight road along x: each keeps its lane and its speed, and wraps round at the ends.

    The lanes are strips of equal width; the lower half of them drives towards larger x, the upper half back. All
    vehicles of a lane drive at one speed, drawn uniformly, so that nobody is ever passed in its lane. One that leaves
    at an end comes in again at the other, so vehicles placed uniformly along the road stay uniform.

    Source: 3GPP TR 37.885 v15.3.0, section 6.1.2 (highway scenario: straight lanes, one speed a lane, wrap-around).
    """

    model = "highway"

    def __init__(
        self,
        positions_m: ArrayLike,
        *,
        area_m: tuple[float, float],
        rng: np.random.Generator,
        speed_min_mps: Speed = 25.0,
        speed_max_mps: Speed = 39.0,
        lanes: Annotated[int, Within(ge=1, le=1000)] = 6,
    ) -> None:
        """Put each vehicle into the middle of the lane it stands in.

        Args:
            positions_m: (N, 2) positions, metres.
            area_m: Length and width of the road, metres.
            rng: One number is drawn from it, the key of the lanes' speeds.
            speed_min_mps: Lowest speed of a lane, m/s, >= 0.
            speed_max_mps: Highest speed of a lane, m/s.
            lanes: Number of lanes.

        Raises:
            ValueError: If a value is out of range or a vehicle stands outside the road.
        """
        check_speeds(speed_min_mps, speed_max_mps, above_zero=False)
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, got {lanes}")
        start = check_start(positions_m, area_m)
        self._length_m = float(area_m[0])
        width_m = float(area_m[1]) / lanes
        lane = np.minimum((start[:, 1] / width_m).astype(np.int64), lanes - 1)
        numbers = np.arange(lanes, dtype=np.int64)
        share = unit_draws(int(rng.integers(2**63)), numbers, np.zeros(lanes, np.int64), 1)[:, 0]
        speed = speed_min_mps + (speed_max_mps - speed_min_mps) * share
        self._velocity_mps = np.where(numbers < (lanes + 1) // 2, speed, -speed)[lane]
        self._state: dict[str, np.ndarray] = {
            "position_m": np.stack([start[:, 0], (lane + 0.5) * width_m], axis=1)
        }

    @property
    def velocity_mps(self) -> FloatArray:
        """Their velocities, (N, 2), m/s: along the road, whichever end of it they come in at."""
        return np.stack([self._velocity_mps, np.zeros(len(self._velocity_mps))], axis=1)

    def step(self, dt_s: float) -> FloatArray:
        """Let time pass and move the vehicles.

        Args:
            dt_s: Seconds, finite, >= 0.

        Returns:
            (N, 2) new positions, metres, inside the area.

        Raises:
            ValueError: If the time is negative or not finite.
        """
        moved = self._state["position_m"][:, 0] + self._velocity_mps * check_step(dt_s)
        self._state["position_m"][:, 0] = np.mod(moved, self._length_m)
        return self.positions_m
