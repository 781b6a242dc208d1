"""How devices move: `static`, `random_direction`, `random_waypoint`, `gauss_markov`, `trace`.

`create(name, positions, area_m=…, rng=…)` makes one; ``step(dt_s)`` moves it; ``snapshot`` and ``restore``
carry it over a restart bit for bit. A new model is a class here and a line in `MODELS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from topology.mobility.base import Mobility, Snapshot
from topology.mobility.gauss_markov import GaussMarkov
from topology.mobility.hysteresis import needs_rebuild, update_links
from topology.mobility.legs import RandomDirection, RandomWaypoint, mean_distance_m
from topology.mobility.recorded import Static, Trace

MODELS: Mapping[str, Callable[..., Mobility]] = MappingProxyType(
    {
        "static": Static,
        "random_direction": RandomDirection,
        "random_waypoint": RandomWaypoint,
        "gauss_markov": GaussMarkov,
        "trace": Trace,
    }
)

static = Static
random_direction = RandomDirection
random_waypoint = RandomWaypoint
gauss_markov = GaussMarkov
trace = Trace


def create(
    kind: str,
    positions_m: ArrayLike,
    *,
    area_m: tuple[float, float],
    rng: np.random.Generator,
    **options: object,
) -> Mobility:
    """Make a mobility model by name.

    Read the starting positions from the result: `random_waypoint` begins in its steady state and `trace` at
    the trace's own points, not at the given ones.

    Args:
        kind: One of `MODELS`.
        positions_m: (N, 2) starting positions, metres.
        area_m: Width and height, metres; nobody ever leaves it.
        rng: Source of the draws.
        **options: The model's own, e.g. ``speed_max_mps``, ``pause_s``, ``memory_s``, ``path``.

    Returns:
        The model.

    Raises:
        ValueError: For an unknown model or option, or a value out of range.
    """
    if kind not in MODELS:
        raise ValueError(f"unknown mobility {kind!r}; choose one of {', '.join(MODELS)}")
    known = set(inspect.signature(MODELS[kind]).parameters) - {"positions_m", "area_m", "rng"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"mobility {kind!r} does not know {', '.join(unknown)}; its options are: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    if kind == "trace" and "path" not in options:
        raise ValueError("mobility 'trace' needs path= of a CSV or Parquet file device,t_s,x_m,y_m")
    return MODELS[kind](positions_m, area_m=area_m, rng=rng, **options)


__all__ = [
    "MODELS",
    "GaussMarkov",
    "Mobility",
    "RandomDirection",
    "RandomWaypoint",
    "Snapshot",
    "Static",
    "Trace",
    "create",
    "gauss_markov",
    "mean_distance_m",
    "needs_rebuild",
    "random_direction",
    "random_waypoint",
    "static",
    "trace",
    "update_links",
]
