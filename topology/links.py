"""Candidate links: the pairs of devices the radio could serve, with what each would cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from topology.arrays import FloatArray, IntArray, as_pairs, find_pairs

EXACT_COLLISION_DEVICES = 5_000


@dataclass(frozen=True, eq=False)
class Links:
    """Candidate links, canonical, with their attributes; the builder never looks beyond them.

    Attributes:
        nodes: Number of devices N.
        pairs: (E, 2) canonical pairs.
        length_m: (E,) ground distance, metres.
        mean_snr_db: (E,) large-scale SNR, dB.
        airtime_s_per_mb: (E,) seconds on air for 1e6 bytes.
        energy_j_per_mb: (E,) joules for 1e6 bytes, NaN where unknown.
    """

    nodes: int
    pairs: IntArray
    length_m: FloatArray
    mean_snr_db: FloatArray
    airtime_s_per_mb: FloatArray
    energy_j_per_mb: FloatArray

    def lookup(self, pairs: IntArray) -> IntArray:
        """Find given pairs among the candidates.

        Args:
            pairs: (Q, 2) device numbers, ends in either order.

        Returns:
            (Q,) int64 row of each pair in `pairs`, −1 where the radio cannot serve it.
        """
        return find_pairs(pairs, self.pairs, self.nodes)


def lengths_m(positions_m: FloatArray, pairs: IntArray) -> FloatArray:
    """Ground length of links in metres.

    Args:
        positions_m: (N, 2) positions, metres.
        pairs: (E, 2) links.

    Returns:
        (E,) lengths.
    """
    gap = positions_m[pairs[:, 0]] - positions_m[pairs[:, 1]]
    return np.hypot(gap[:, 0], gap[:, 1])


def make_links(
    positions_m: FloatArray,
    candidate_pairs: ArrayLike,
    *,
    mean_snr_db: ArrayLike,
    airtime_s_per_mb: ArrayLike,
    energy_j_per_mb: ArrayLike | None = None,
) -> Links:
    """Check candidate links and put them into canonical order.

    Args:
        positions_m: (N, 2) positions, metres.
        candidate_pairs: (E, 2) links in any order.
        mean_snr_db: (E,) large-scale SNR, dB, finite.
        airtime_s_per_mb: (E,) seconds on air for 1e6 bytes, finite, positive.
        energy_j_per_mb: (E,) joules for 1e6 bytes, finite, not negative; None if unknown.

    Returns:
        The links; a pair mentioned twice keeps the attributes of its first mention.

    Raises:
        ValueError: If lengths differ or a value is out of range; the message names the first bad link.
    """
    nodes = len(positions_m)
    pairs, first = as_pairs(candidate_pairs, nodes, "candidate_pairs")
    count = len(np.asarray(candidate_pairs))
    snr = _column("mean_snr_db", mean_snr_db, count, -np.inf)[first]
    airtime = _column("airtime_s_per_mb", airtime_s_per_mb, count, 0.0)[first]
    if energy_j_per_mb is None:
        energy = np.full(len(pairs), np.nan)
    else:
        energy = _column("energy_j_per_mb", energy_j_per_mb, count, -np.finfo(float).tiny)[first]
    return Links(nodes, pairs, lengths_m(positions_m, pairs), snr, airtime, energy)


def _column(name: str, values: ArrayLike, count: int, above: float) -> FloatArray:
    column = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(column) != count:
        raise ValueError(f"{name}: expected one value for each of {count} candidate pairs, got {len(column)}")
    bad = np.flatnonzero(~np.isfinite(column) | (column <= above))
    if len(bad):
        raise ValueError(
            f"{name}: candidate pair {bad[0]} has {column[bad[0]]}; every value must be finite and above "
            f"{above:g}; leave links the radio cannot serve out of candidate_pairs"
        )
    return column


def collision_count(positions_m: FloatArray, links: Links, interference_factor: float) -> FloatArray:
    """Number of other devices that a use of each link keeps silent (protocol model).

    A device is silenced when it lies within ``interference_factor · length`` of either end. Counted with a
    KD-tree up to 5,000 devices; above, estimated as density · area, the density at an end taken from the
    distance to its 16th neighbour (uniform within 10–20 % in tests; only the ranking of links matters).

    Args:
        positions_m: (N, 2) positions, metres.
        links: Candidate links.
        interference_factor: Interference range over link length, ≥ 1 for the usual protocol model.

    Returns:
        (E,) devices silenced, counted at either end and summed, without the two ends: a device near both ends counts
        twice.

    Source: Gupta and Kumar, "The capacity of wireless networks", IEEE Trans. Inf. Theory 46(2), 2000,
        protocol model.
    """
    if len(links.pairs) == 0:
        return np.empty(0)
    from scipy.spatial import KDTree

    tree = KDTree(positions_m)
    # A billionth more, so that below 1 alone the other end is out of its reach, whatever is rounded.
    reach_m = interference_factor * (1 + 1e-9) * links.length_m
    if links.nodes <= EXACT_COLLISION_DEVICES:
        near = [
            np.asarray(tree.query_ball_point(positions_m[links.pairs[:, end]], reach_m, return_length=True))
            for end in (0, 1)
        ]
        ends: FloatArray = np.where(reach_m >= links.length_m, 4.0, 2.0)
        return near[0] + near[1] - ends
    kth = 16
    distance_m = np.asarray(tree.query(positions_m, [kth + 1])[0])[:, 0]
    density = kth / (np.pi * np.maximum(distance_m, 1e-9) ** 2)
    return (density[links.pairs[:, 0]] + density[links.pairs[:, 1]]) * np.pi * reach_m**2


def link_cost(
    positions_m: FloatArray,
    links: Links,
    *,
    airtime_weight: float = 1.0,
    energy_weight: float = 0.0,
    collision_weight: float = 0.0,
    interference_factor: float = 1.5,
) -> FloatArray:
    """Cost of using each candidate link: α·airtime + β·energy + γ·collision.

    Each term is divided by its median over the candidates, so the weights are pure numbers and a cost of
    about α + β + γ is an ordinary link. A term whose weight is 0 is left out.

    Args:
        positions_m: (N, 2) positions, metres.
        links: Candidate links.
        airtime_weight: Weight α of airtime, ≥ 0.
        energy_weight: Weight β of energy, ≥ 0.
        collision_weight: Weight γ of the devices that a use of the link silences, ≥ 0.
        interference_factor: See `collision_count`.

    Returns:
        (E,) costs, positive.

    Raises:
        ValueError: If a weight is negative or all are 0, or energy is weighted and unknown.

    Departures: the design asks for collision without saying between what; a count of silenced devices keeps
        the objective a sum over links, so that it can be checked against exact solvers.
    """
    weights = (airtime_weight, energy_weight, collision_weight)
    if min(weights) < 0 or max(weights) <= 0:
        raise ValueError(
            "airtime_weight, energy_weight and collision_weight must be ≥ 0 and not all 0, got "
            + ", ".join(f"{weight:g}" for weight in weights)
        )
    if energy_weight > 0 and not np.isfinite(links.energy_j_per_mb).all():
        raise ValueError(
            f"energy_weight is {energy_weight:g} but the energy of some links is unknown; give energy_j_per_mb, or "
            "set energy_weight to 0"
        )
    terms = [(airtime_weight, links.airtime_s_per_mb), (energy_weight, links.energy_j_per_mb)]
    if collision_weight > 0:
        terms.append((collision_weight, collision_count(positions_m, links, interference_factor)))
    cost = np.zeros(len(links.pairs))
    for weight, values in terms:
        if weight > 0 and len(values):
            middle = float(np.median(values))
            cost += weight * values / (middle if middle > 0 else 1.0)
    return cost + 1e-9
