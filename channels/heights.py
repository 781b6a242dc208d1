"""Heights of devices: on the street, or on a floor of the building that they are in.

A device outdoors is 1.5 m high, one inside a building

    h = 3·(n_fl - 1) + 1.5 m,    n_fl uniform in 1..N_fl, N_fl uniform in 4..8 for each building,

so that heights are those of eight floors, 1.5 to 22.5 m. Buildings are those of `channels.walls` (cells that a share of
is inside), also where their walls take nothing. Of a link's two ends the higher one counts as the path-loss model's
base and the lower one as its terminal, so that links stay symmetric; breakpoint, distance in space, the terminal's
term out of sight and, under `uma`, the line of sight of terminals above 13 m follow from both.

Departures: the clauses have a base of 10 or 25 m at one end, here both are devices; the height of the environment stays
1 m (see `channels.pathloss.cellular`). Interference from beyond the near lists takes the mean over heights of both
ends, as if they were independent.

Source:
    3GPP TR 36.873 V12.7.0, table 6-1, and TR 38.901 V16.1.0, table 7.2-1 (heights of terminals), from memory, checked
    by its range against that of table 7.4.1-1 (1.5 m <= h_UT <= 22.5 m).
"""

from __future__ import annotations

import numpy as np

from channels.arrays import FloatArray, IntArray, KeyArray
from channels.draws import keyed_uniform, stream_key

FEWEST_FLOORS, MOST_FLOORS = 4, 8
HEIGHTS_M: FloatArray = 1.5 + 3.0 * np.arange(MOST_FLOORS, dtype=np.float64)
"""(8,) height of each class of devices in m."""


def inside_buildings(
    share: float, building: KeyArray, *, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which places are inside: all of a building, or none.

    Args:
        share: Share of buildings among places, in [0, 1].
        building: (N,) hash of the cell each device is in.
        seed: The experiment's seed.

    Returns:
        (N,) whether each is inside.
    """
    key = stream_key(seed, "wall-inside")
    return keyed_uniform(key, np.zeros(building.shape, dtype=np.int64), building, ordered=True) < share


def height_classes(share: float, building: KeyArray, *, seed: int) -> IntArray:
    """Height of devices, as their floor from 0 on.

    Args:
        share: Share of buildings among places, in [0, 1].
        building: (N,) hash of the cell each device is in.
        seed: The experiment's seed.

    Returns:
        (N,) places in `HEIGHTS_M`; 0 outdoors.
    """
    inside = inside_buildings(share, building, seed=seed)
    whole: IntArray = np.zeros(building.shape, dtype=np.int64)
    device: IntArray = np.arange(building.shape[0], dtype=np.int64)
    sizes = MOST_FLOORS - FEWEST_FLOORS + 1
    drawn = keyed_uniform(stream_key(seed, "floors"), whole, building, ordered=True)
    floors = FEWEST_FLOORS + np.floor(sizes * drawn).astype(np.int64)
    own = keyed_uniform(stream_key(seed, "floor"), device, building, ordered=True)
    return np.where(inside, np.floor(floors * own).astype(np.int64), 0)


def class_shares(share: float) -> FloatArray:
    """(8,) chance of each height: sum over N of 1/(5·N) for N >= the floor, times the share inside; the rest is low.

    Args:
        share: Share of buildings among places, in [0, 1].
    """
    floors = np.arange(FEWEST_FLOORS, MOST_FLOORS + 1)
    on = [float((1.0 / floors[floors > floor]).sum()) / floors.size for floor in range(MOST_FLOORS)]
    return share * np.asarray(on) + (1.0 - share) * (np.arange(MOST_FLOORS) == 0)


def height_pairs() -> list[tuple[int, int]]:
    """(higher, lower) classes of a link's ends, in the order in which the compiled loops number them."""
    return [(high, low) for high in range(MOST_FLOORS) for low in range(high + 1)]


def pair_shares(share: float) -> FloatArray:
    """(36,) chance of each pair of `height_pairs`, of two independent devices."""
    each = class_shares(share)
    return np.asarray([each[a] * each[b] * (1.0 if a == b else 2.0) for a, b in height_pairs()])
