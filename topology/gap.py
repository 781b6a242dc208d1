"""Make task groups mix faster: further links until the spectral gap is wide enough."""

from __future__ import annotations

import numpy as np

from topology.arrays import BoolArray, FloatArray, IntArray, both_ends, capped, component_labels, degrees


def widen_gaps(
    pairs: IntArray,
    cost: FloatArray,
    groups: BoolArray,
    chosen: BoolArray,
    extra: list[IntArray],
    *,
    min_gap: float,
    max_degree: int,
) -> BoolArray:
    """Add links inside each group until its Metropolis–Hastings matrix has the wanted spectral gap.

    Links are added where they help most for their cost: by (v_i − v_j)²/cost, v being the disagreement that
    averaging removes last. One at a time in small groups; in large ones in batches that grow, so that a
    group of any size needs few eigenvectors. A group stops when the gap is reached or no candidate is left
    whose ends both have a free port.

    Args:
        pairs: (E, 2) candidate links.
        cost: (E,) cost of each, > 0.
        groups: (N, T) holders of each task.
        chosen: (E,) links so far.
        extra: For each task, relayed pairs (R_t, 2) that count as links.
        min_gap: Wanted gap, 0..1.
        max_degree: Largest number of neighbours.

    Returns:
        (E,) mask of links, a superset of ``chosen``.

    Source: Ghosh and Boyd, "Growing well-connected graphs", CDC 2006. Departure from the design's "cheapest
        further edges": those join devices that agree already; by the score fewer and cheaper links do.
    """
    result = chosen.copy()
    order: list[int] = np.argsort(groups.sum(axis=0), kind="stable").tolist()
    for task in order:
        held = groups[:, task]
        if held.sum() > 2:
            _widen(pairs, cost, held, result, extra[task], min_gap, max_degree)
    return result


def _widen(
    pairs: IntArray,
    cost: FloatArray,
    held: BoolArray,
    result: BoolArray,
    extra: IntArray,
    min_gap: float,
    max_degree: int,
) -> None:
    from topology.mixing import metropolis_hastings, slow_mode, spectral_gap

    local = np.cumsum(held) - 1
    size = int(held.sum())
    inside = np.flatnonzero(both_ends(held, pairs))
    ends = local[pairs[inside]]
    # Large groups cannot afford an eigenvector for every few links: fewer and growing batches.
    batch = max(1, size // 32) if size <= 500 else size // 8
    linked = np.concatenate([ends[result[inside]], local[extra]])
    if component_labels(size, linked).max() > 0:
        return
    while True:
        linked = np.concatenate([ends[result[inside]], local[extra]])
        weights = metropolis_hastings(linked, size)
        mode = slow_mode(weights)
        # vᵀWv ≤ λ₂ for any v: where even that says the gap is too small, the exact one need not be found.
        too_slow = 1.0 - float(mode @ (weights @ mode)) < min_gap
        if not too_slow and spectral_gap(weights) >= min_gap:
            return
        free = max_degree - degrees(len(held), pairs[result])
        open_rows = inside[~result[inside] & both_ends(free > 0, pairs[inside])]
        if len(open_rows) == 0:
            return
        result[_best(pairs, cost, mode, local, open_rows, free, batch)] = True
        batch = batch if size <= 500 else batch * 2


def _best(
    pairs: IntArray,
    cost: FloatArray,
    mode: FloatArray,
    local: IntArray,
    rows: IntArray,
    free: IntArray,
    batch: int,
) -> IntArray:
    ends = local[pairs[rows]]
    score = (mode[ends[:, 0]] - mode[ends[:, 1]]) ** 2 / cost[rows]
    order = np.argsort(-score, kind="stable")[: 8 * batch]
    # One new link per device and batch: a second one at the same place would help less than its score says.
    taken = capped(pairs[rows[order]], np.arange(len(order), dtype=np.float64), np.minimum(free, 1))
    return rows[order[taken]][:batch]
