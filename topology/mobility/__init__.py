"""How devices move: `static`, `random_direction`, `random_waypoint`, `gauss_markov`, `highway`, `trace`.

`create(name, positions, area_m=…, rng=…)` makes one; ``step(dt_s)`` moves it; ``snapshot`` and ``restore``
carry it over a restart bit for bit. A new model is a class here and a line in `topology.tables.MOBILITY`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from topology.mobility.base import Mobility, Snapshot
from topology.mobility.gauss_markov import GaussMarkov
from topology.mobility.highway import Highway
from topology.mobility.hysteresis import needs_rebuild, update_links
from topology.mobility.legs import RandomDirection, RandomWaypoint, mean_distance_m
from topology.mobility.recorded import Static, Trace
from topology.registry import ask, check_options
from topology.tables import MOBILITY

GIVEN = ("positions_m", "area_m", "rng")
"""What every model is given; its other parameters are its options."""

static = Static
random_direction = RandomDirection
random_waypoint = RandomWaypoint
gauss_markov = GaussMarkov
highway = Highway
trace = Trace


def create(
    kind: str,
    positions_m: ArrayLike,
    /,
    *,
    area_m: tuple[float, float],
    rng: np.random.Generator,
    **options: object,
) -> Mobility:
    """Make a mobility model by name.

    Read the starting positions from the result: `random_waypoint` begins in its steady state and `trace` at
    the trace's own points, not at the given ones.

    Args:
        kind: Name of a model, see `topology.tables.MOBILITY`.
        positions_m: (N, 2) starting positions, metres.
        area_m: Width and height, metres; nobody ever leaves it.
        rng: Source of the draws.
        **options: The model's own, e.g. ``speed_max_mps``, ``pause_s``, ``memory_s``, ``path``.

    Returns:
        The model.

    Raises:
        ValueError: For an unknown model or option, or a value out of range.
    """
    model = MOBILITY[kind]
    what = f"mobility model {kind!r}"
    check_options(what, model, GIVEN, options)
    return ask(what, model, positions_m, area_m=area_m, rng=rng, **options)


__all__ = [
    "MOBILITY",
    "GaussMarkov",
    "Highway",
    "Mobility",
    "RandomDirection",
    "RandomWaypoint",
    "Snapshot",
    "Static",
    "Trace",
    "create",
    "gauss_markov",
    "highway",
    "mean_distance_m",
    "needs_rebuild",
    "random_direction",
    "random_waypoint",
    "static",
    "trace",
    "update_links",
]
