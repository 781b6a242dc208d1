"""`GaussMarkov`: velocities with a memory."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray
from topology.mobility.base import SHORTEST_S, ArrayState, Speed, check_start, check_step
from topology.mobility.draws import fold, unit_draws
from topology.registry import Within


class GaussMarkov(ArrayState):
    """Gauss–Markov mobility: each velocity component forgets with time constant ``memory_s``.

    On a clock of ``update_s``: v ← a·v + (1 − a)·v̄ + σ·√(1 − a²)·w with a = exp(−update_s/memory_s) and w
    standard normal; v̄ is the device's own mean velocity, of speed ``mean_speed_mps`` in a random direction.
    At a border v and v̄ are turned round together, so devices placed uniformly stay uniform. The clock makes
    the path independent of how a run cuts time into steps.

    Source: Liang and Haas, "Predictive distance-based mobility management for PCS networks", INFOCOM 1999;
    Camp, Boleng and Davies, "A survey of mobility models for ad hoc network research", 2002, §2.5. Departure:
    reflection instead of steering away from the borders, which would thin them out.
    """

    model = "gauss_markov"

    def __init__(
        self,
        positions_m: ArrayLike,
        *,
        area_m: tuple[float, float],
        rng: np.random.Generator,
        mean_speed_mps: Speed = 1.0,
        sigma_mps: Speed = 0.5,
        memory_s: Annotated[float, Within(ge=1e-6, le=1e12)] = 30.0,
        update_s: Annotated[float, Within(ge=SHORTEST_S, le=1e12)] = 1.0,
    ) -> None:
        """Start at given positions, velocities in their steady state.

        Args:
            positions_m: (N, 2) starting positions, metres.
            area_m: Width and height, metres.
            rng: One number is drawn from it, the key of all later draws.
            mean_speed_mps: Speed of the mean velocity, m/s, ≥ 0.
            sigma_mps: Standard deviation of each velocity component around its mean, m/s, ≥ 0.
            memory_s: Time constant, s; short is Brownian, long is straight.
            update_s: Clock, s.

        Raises:
            ValueError: If a value is out of range.
        """
        if min(mean_speed_mps, sigma_mps) < 0 or not (memory_s > 0 and update_s > 0):
            raise ValueError(
                "gauss_markov needs mean_speed_mps, sigma_mps ≥ 0 and memory_s, update_s > 0, got "
                f"{mean_speed_mps}, {sigma_mps}, {memory_s}, {update_s}"
            )
        start = check_start(positions_m, area_m)
        self._area_m = (float(area_m[0]), float(area_m[1]))
        self._sigma_mps, self._update_s = float(sigma_mps), float(update_s)
        self._keep = float(np.exp(-update_s / memory_s))
        key = int(rng.integers(2**63))
        nodes = np.arange(len(start), dtype=np.int64)
        draws = unit_draws(key, nodes, np.zeros(len(start), np.int64), 3)
        angle = 2 * np.pi * draws[:, 2]
        mean = np.stack([np.cos(angle), np.sin(angle)], axis=1) * mean_speed_mps
        self._state: dict[str, np.ndarray] = {
            "key": np.array(key, np.int64),
            "position_m": start,
            "mean_mps": mean,
            "velocity_mps": mean + self._sigma_mps * _normal(draws[:, :2]),
            "left_s": np.array(self._update_s),
            "ticks": np.array(1, np.int64),
        }

    def step(self, dt_s: float) -> FloatArray:
        """Let time pass and move the devices, changing velocities at every tick of the clock.

        Args:
            dt_s: Seconds, finite, ≥ 0.

        Returns:
            (N, 2) new positions, metres, inside the area.

        Raises:
            ValueError: If the time is negative or not finite.
        """
        rest = check_step(dt_s)
        while rest > 0:
            run = min(rest, float(self._state["left_s"]))
            self._move(run)
            rest -= run
            left = float(self._state["left_s"]) - run
            if left <= 0:
                self._tick()
                left = self._update_s
            self._state["left_s"] = np.array(left)
        return self.positions_m

    def _move(self, run_s: float) -> None:
        state = self._state
        moved = state["position_m"] + state["velocity_mps"] * run_s
        state["position_m"], sign = fold(moved, self._area_m)
        state["velocity_mps"] = state["velocity_mps"] * sign
        state["mean_mps"] = state["mean_mps"] * sign

    def _tick(self) -> None:
        state, a = self._state, self._keep
        nodes = np.arange(len(state["position_m"]), dtype=np.int64)
        draws = unit_draws(int(state["key"]), nodes, np.full(len(nodes), int(state["ticks"]), np.int64), 2)
        noise = self._sigma_mps * np.sqrt(1 - a * a) * _normal(draws)
        state["velocity_mps"] = a * state["velocity_mps"] + (1 - a) * state["mean_mps"] + noise
        state["ticks"] = state["ticks"] + 1


def _normal(uniform: FloatArray) -> FloatArray:
    """Standard normal numbers from uniform ones in (0, 1), by the inverse of the distribution."""
    # Imported here: a configuration is read without SciPy.
    from scipy.special import ndtri

    return np.asarray(ndtri(uniform))
