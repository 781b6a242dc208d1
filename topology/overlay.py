"""Choose the links of a clustered topology: cheap, every group connected, few neighbours each.

Given candidate links with costs and groups of devices (the holders of each task, and all devices together,
which makes the clusters hang together), find the cheapest set of links in which every group induces a
connected subgraph. This is the minimum topic-connected overlay problem, NP-hard and, with the degree bound,
NP-hard even to satisfy, so it is solved by construction and improvement:

1. a spanning tree for one group after another, smallest first; links already chosen are free, a link that
   serves m groups counts 1/m;
2. rip up and re-route: each group's tree is taken out and built again around the others', for a few sweeps;
3. prices on devices with too many neighbours, raised until they are relieved;
4. `topology.polish`: redundant links go; below about 30 devices single exchanges are tried as well, from
   every set of links met in step 3, and the best is kept.

Steps 1 to 3 are compiled spanning forests and array operations: 100,000 devices take seconds.

Source: Chockler, Melamed, Tock and Vitenberg, "Constructing scalable overlays for pub-sub with many topics",
PODC 2007 (the problem and its hardness); the sequential trees are ours and beat its greedy rule on our drops
(see docs/topology.md).
"""

from __future__ import annotations

import numpy as np

from topology.arrays import (
    BoolArray,
    FloatArray,
    IntArray,
    degrees,
    place_at_end,
    spanning_forest,
)
from topology.polish import polish, small

SWEEPS = 6
PRICE_ROUNDS = 12
NEAREST = 16
DENSE_FACTOR = 400
LARGE = 5_000


def connect_groups(
    pairs: IntArray,
    cost: FloatArray,
    member: BoolArray,
    *,
    max_degree: int,
    locked: BoolArray | None = None,
) -> BoolArray:
    """Choose links so that every group is as connected as the candidates allow, at little cost.

    Args:
        pairs: (E, 2) canonical candidate links.
        cost: (E,) cost of each, > 0.
        member: (N, G) which device belongs to which group.
        max_degree: Wanted largest number of neighbours. Connection comes first: where no cheap set of links
            keeps the bound, devices may exceed it; the caller reports them.
        locked: (E,) links that are there already and stay (hops of relays).

    Returns:
        (E,) mask of the chosen links, the locked ones included.
    """
    fixed = np.zeros(len(pairs), np.bool_) if locked is None else locked
    if len(pairs) == 0:
        return fixed.copy()
    nodes = len(member)
    shared = member[pairs[:, 0]] & member[pairs[:, 1]]
    if len(pairs) > DENSE_FACTOR * nodes:
        few = np.flatnonzero(_sparsify(nodes, pairs, cost, shared) | fixed)
        chosen = np.zeros(len(pairs), np.bool_)
        chosen[few] = connect_groups(pairs[few], cost[few], member, max_degree=max_degree, locked=fixed[few])
        return chosen
    prices = np.zeros(nodes)
    step = float(np.median(cost))
    starts: list[BoolArray] = []
    for _ in range(PRICE_ROUNDS):
        priced = cost + prices[pairs[:, 0]] + prices[pairs[:, 1]]
        chosen = _trees(nodes, pairs, priced, shared, fixed)
        excess = np.maximum(degrees(nodes, pairs[chosen]) - max_degree, 0)
        starts.append(chosen)
        if not excess.any():
            break
        prices += step * excess
        step *= 1.3

    def rank(chosen: BoolArray) -> tuple[float, float]:
        excess = np.maximum(degrees(nodes, pairs[chosen]) - max_degree, 0)
        return float(excess.sum()), float(cost[chosen].sum())

    starts = starts if small(pairs, starts[0]) else [min(starts, key=rank)]
    polished = [polish(pairs, cost, member, chosen, max_degree=max_degree, locked=fixed) for chosen in starts]
    return min(polished, key=rank)


def _sparsify(nodes: int, pairs: IntArray, cost: FloatArray, shared: BoolArray) -> BoolArray:
    """Of very many candidates keep, for each group, the cheapest few at every device and a spanning tree."""
    kept = np.zeros(len(pairs), np.bool_)
    for group in range(shared.shape[1]):
        mine = np.flatnonzero(shared[:, group])
        mine = mine[np.argsort(cost[mine], kind="stable")]
        kept[mine[(place_at_end(pairs[mine]) < NEAREST).any(axis=1)]] = True
        kept[mine[spanning_forest(nodes, pairs[mine], cost[mine])]] = True
    return kept


def _trees(nodes: int, pairs: IntArray, cost: FloatArray, shared: BoolArray, fixed: BoolArray) -> BoolArray:
    """Sequential spanning trees with reuse, then rip-up and re-route sweeps; the cheapest union seen.

    Links are numbered by cost here: what is in use already, and so costs nothing more, is in order as it is, and a
    sweep's prices are a few ascending runs, which a stable sort merges.
    """
    from topology.kernels import group_forest

    by_cost = np.argsort(cost, kind="stable")
    ends, dearness, held = pairs[by_cost], cost[by_cost], shared[by_cost].T.copy()
    served = np.maximum(held.sum(axis=0), 1)
    runs = np.argsort(served.astype(np.uint16), kind="stable")
    groups: list[int] = np.argsort(held.sum(axis=1), kind="stable").tolist()
    uses = fixed[by_cost].astype(np.int16)
    tree: list[IntArray] = [np.empty(0, np.int64) for _ in groups]
    best, best_cost = uses > 0, np.inf
    for sweep in range(SWEEPS if nodes <= LARGE else 3):
        discount = 1.0 + (served[runs] - 1) * 0.5**sweep
        by_price = runs[np.argsort(dearness[runs] / discount, kind="stable")]
        for group in groups:
            uses[tree[group]] -= 1
            # Every sweep's tree has as many links as the first.
            most = len(tree[group]) if sweep else nodes - 1
            tree[group] = group_forest(ends, held[group], uses, by_price, nodes, most)
            uses[tree[group]] += 1
        total = float(dearness[uses > 0].sum())
        if total >= best_cost * (1 - 1e-6) and sweep > 1:
            break
        if total < best_cost:
            best, best_cost = uses > 0, total
    result = np.zeros(len(pairs), np.bool_)
    result[by_cost[best]] = True
    return result
