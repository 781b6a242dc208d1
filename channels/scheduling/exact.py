"""Exact answers for small scheduling problems, by scipy's HiGHS: the yardstick of the heuristics.

A set S of links is feasible iff for every l in S the affectances sum to at most 1 over S (see
`channels.scheduling.problem.affectance`). Affectances are clipped at 1.001 of what a link bears, which
changes no feasible set and keeps the big-M constraints tight.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from channels.arrays import BoolArray, FloatArray, IntArray

_CLIP = 1.001
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class ExactSet:
    """Answer of `largest_feasible_set`.

    Attributes:
        members: (links,) the set found.
        value: Its weight.
        bound: Proven upper bound on the weight of any feasible set.
        optimal: Whether value and bound agree.
    """

    members: BoolArray
    value: float
    bound: float
    optimal: bool


def largest_feasible_set(
    affect: FloatArray, weight: FloatArray | None = None, *, time_limit_s: float = 120.0
) -> ExactSet:
    """The feasible set of largest weight, by mixed-integer programming.

    max w·x over binary x with sum_k a_kl·x_k <= 1 + M_l·(1 - x_l) and x_k + x_l <= 1 where one of the two
    alone breaks the other.

    Args:
        affect: (links, links) affectances, 0 on the diagonal.
        weight: (links,) weights; None counts links.
        time_limit_s: Wall-clock limit of the solver.

    Returns:
        The set, its weight and a proven bound.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    n = affect.shape[0]
    weights = np.ones(n) if weight is None else weight
    clipped = np.minimum(affect, _CLIP)
    # Links that exclude each other appear together in no set, so they need not be in the sums.
    clash = (affect > 1.0) | (affect.T > 1.0)
    sums = np.where(clash, 0.0, clipped).T
    big = np.maximum(sums.sum(axis=1) - 1.0, 0.0)
    rows = [csr_array(sums + np.diag(big))]
    upper = [1.0 + big]
    first, second = np.nonzero(np.triu(clash, 1))
    if first.size:
        edge = np.arange(first.size)
        ones = np.ones(2 * first.size)
        pairs = csr_array(
            (ones, (np.concatenate([edge, edge]), np.concatenate([first, second]))), (first.size, n)
        )
        rows.append(pairs)
        upper.append(np.ones(first.size))
    result = milp(
        -weights,
        constraints=LinearConstraint(vstack(rows), -np.inf, np.concatenate(upper)),
        integrality=np.ones(n),
        bounds=Bounds(0, 1),
        options={"time_limit": time_limit_s, "mip_rel_gap": 1e-9},
    )
    if result.x is None:
        return ExactSet(np.zeros(n, dtype=bool), 0.0, float(weights.sum()), False)
    members = np.asarray(result.x) > 0.5
    dual = result.mip_dual_bound
    bound = -float(result.fun if dual is None else dual)  # type: ignore[arg-type]
    value = float(weights[members].sum())
    return ExactSet(members, value, bound, bool(value >= bound - 1e-6))


def fractional_slots(affect: FloatArray, *, time_limit_s: float = 60.0) -> float:
    """Lower bound on the number of slots that serve every link once: the fractional covering number.

    min sum_S x_S with every link covered once, over all feasible sets S, by column generation: the dual
    prices of the restricted problem are the weights of the next `largest_feasible_set`.

    Args:
        affect: (links, links) affectances.
        time_limit_s: Wall-clock limit of the whole search.

    Returns:
        A valid lower bound: the optimum, or Farley's bound where the limit stopped the search.
    """
    from scipy.optimize import linprog

    n = affect.shape[0]
    columns = _maximal_sets(affect)
    best, stop_s = 0.0, time.monotonic() + time_limit_s
    while True:
        matrix = np.stack(columns, axis=1)
        answer = linprog(
            np.ones(matrix.shape[1]), A_ub=-matrix, b_ub=-np.ones(n), bounds=(0, None), method="highs"
        )
        price = np.maximum(-np.asarray(answer.ineqlin.marginals), 0.0)
        left_s = stop_s - time.monotonic()
        found = largest_feasible_set(affect, price, time_limit_s=max(left_s, 1.0))
        best = max(best, float(answer.fun or 0.0) / max(found.bound, 1.0))
        if found.value <= 1.0 + _TOLERANCE or left_s <= 0:
            return best
        columns.append(found.members.astype(np.float64))


def _maximal_sets(affect: FloatArray) -> list[FloatArray]:
    """One maximal feasible set around every link: good first columns."""
    n = affect.shape[0]
    harmless = np.argsort(affect.sum(axis=0) + affect.sum(axis=1), kind="stable")
    orders = [np.concatenate(([k], harmless[harmless != k])) for k in range(n)]
    return [_inserted(order, affect).astype(np.float64) for order in orders]


def _inserted(order: IntArray, affect: FloatArray) -> BoolArray:
    """(links,) members of a feasible set filled in the given order."""
    inside = np.zeros(affect.shape[0], dtype=bool)
    load = np.zeros(affect.shape[0])
    for link in order:
        joined = load + affect[link]
        if load[link] <= 1.0 and np.all(joined[inside] <= 1.0):
            inside[link], load = True, joined
    return inside


def best_sum_rate(received_w: FloatArray, noise_w: FloatArray, bandwidth_hz: float = 1.0) -> float:
    """Largest Shannon sum rate over all 2^n on/off states, by enumeration (n up to about 18).

    Args:
        received_w: (links, links) power of k's sender at l's receiver in W, own signal on the diagonal.
        noise_w: (links,) noise in W.
        bandwidth_hz: Bandwidth in Hz.

    Returns:
        Rate in bit/s.

    Raises:
        ValueError: For more than 18 links.
    """
    n = received_w.shape[0]
    if n > 18:
        raise ValueError(f"{n} links have 2^{n} states; enumeration takes at most 18 links")
    states = ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1).astype(np.float64)
    own = np.diagonal(received_w)
    total = states @ received_w + noise_w
    sinr = states * own / (total - states * own)
    return float(np.log2(1 + sinr).sum(axis=1).max()) * bandwidth_hz


def shortest_span(times_s: FloatArray) -> float:
    """Least total time of splitting links into slots, by dynamic programming over subsets.

    f(S) = min over A within S that holds S's first link of T(A) + f(S without A), with f of nothing 0.

    Args:
        times_s: (2^n,) time T(A) of a slot that holds the links of bit mask A, inf where they cannot share
            one; entry 0 is unused. n up to about 14.

    Returns:
        The least total time in s.
    """
    from channels.scheduling.subset_kernels import least_total

    return float(least_total(np.asarray(times_s, dtype=np.float64)))
