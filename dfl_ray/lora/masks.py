"""Sparsity masks of B: which entries or rows are kept, layer by layer, and how the density falls over rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import Layout, Segment

MaskKind = Literal["element", "row"]
Budget = Literal["uniform", "global", "effective_rank"]


def cubic_density(step: int, steps: int, final: float) -> float:
    """Density after the given pruning step: k + (1 - k)(1 - step/steps)^3.

    Source: Zhu and Gupta 2017 (arXiv 1710.01878), equation 1, for density instead of sparsity.

    Args:
        step: 0 (dense) to `steps` (final).
        steps: Number of pruning steps, >= 1.
        final: k in (0, 1].

    Returns:
        Share of entries kept, in [k, 1].
    """
    return final + (1.0 - final) * (1.0 - step / steps) ** 3


def kept_entries(share: float, size: int) -> int:
    """Entries that a share of a vector is: max(1, round(share size))."""
    return max(1, round(share * size))


def layer_densities(
    sizes: Sequence[int], density: float, scores: Sequence[float], *, exponent: float, least: float
) -> np.ndarray:
    """Spread a total budget over layers by their scores.

    k_l = clip(kappa * s_l^tau, k_min, 1) with kappa such that sum k_l n_l = k sum n_l, by bisection.

    Args:
        sizes: n_l, values of each layer.
        density: k in (0, 1].
        scores: s_l > 0, e.g. the effective rank of the layer's input correlation.
        exponent: tau; 0 is the uniform budget.
        least: k_min; lowered to k where it is above it.

    Returns:
        (layers,) densities in [k_min, 1].
    """
    n = np.asarray(sizes, float)
    weight = np.asarray(scores, float) ** exponent
    floor = min(least, density)
    low, high = 0.0, 1.0 / weight.min()
    for _ in range(100):
        middle = (low + high) / 2
        spent = (np.clip(middle * weight, floor, 1.0) * n).sum()
        low, high = (middle, high) if spent < density * n.sum() else (low, middle)
    return np.clip(high * weight, floor, 1.0)


def effective_rank(correlation: np.ndarray) -> float:
    """Exponential of the entropy of the normalised eigenvalues: exp(-sum p ln p), p = lambda / sum lambda.

    Negative eigenvalues, which rounding can make, count as 0.

    Source: Roy and Vetterli 2007, "The effective rank", for the eigenvalues of a symmetric matrix in place of the
    singular values.

    Args:
        correlation: (d, d) symmetric positive semi-definite.

    Returns:
        A value in [1, d]; 1 for the zero matrix.
    """
    eigenvalues = np.clip(np.linalg.eigvalsh(correlation), 0, None)
    total = eigenvalues.sum()
    if total <= 0:
        return 1.0
    p = eigenvalues[eigenvalues > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def choose_mask(
    magnitude: np.ndarray,
    allowed: np.ndarray,
    layout: Layout,
    density: float,
    *,
    kind: MaskKind = "element",
    budget: Budget = "uniform",
    scores: Sequence[float] | None = None,
    exponent: float = 0.5,
    least: float = 0.05,
) -> np.ndarray:
    """Keep the largest entries or rows of B.

    Equal values are ranked by position, so that every device would choose the same mask.

    Args:
        magnitude: (size,) |B| of the device that chooses, >= 0.
        allowed: (size,) bool, entries still in play; the result is a subset of them.
        layout: Where the layers' B lie.
        density: Share of all entries to keep, in (0, 1].
        kind: "element" keeps single entries, "row" whole rows (output neurons) by their norm.
        budget: "uniform" the same share in every layer, "global" one threshold over all layers,
            "effective_rank" by `scores`.
        scores: s_l > 0 for "effective_rank"; None gives every layer the same.
        exponent: tau for "effective_rank".
        least: k_min for "effective_rank".

    Returns:
        (size,) bool. A layer keeps `kept_entries` of its n_l entries (of its rows for "row") at the share k_l, with
        "global" all layers together round(density n) and each at least one; fewer where fewer are allowed.
    """
    segments = layout.of("b")
    worth = [_worth(magnitude, allowed, s, kind) for s in segments]
    if budget == "global":
        keep = _global_keep(worth, density)
    else:
        sizes = [len(w) for w in worth]
        given = np.ones(len(worth)) if scores is None or budget == "uniform" else np.asarray(scores, float)
        shares = layer_densities(sizes, density, list(given), exponent=exponent, least=least)
        keep = [_largest(w, kept_entries(float(k), len(w))) for w, k in zip(worth, shares, strict=True)]
    mask = np.zeros(layout.size, bool)
    for segment, chosen in zip(segments, keep, strict=True):
        whole = np.repeat(chosen, segment.shape[1]) if kind == "row" else chosen
        mask[segment.start : segment.stop] = whole & allowed[segment.start : segment.stop]
    return mask


def _worth(magnitude: np.ndarray, allowed: np.ndarray, segment: Segment, kind: MaskKind) -> np.ndarray:
    values = np.where(allowed, magnitude, -1.0)[segment.start : segment.stop].astype(np.float64)
    if kind == "element":
        return values
    rows = values.reshape(segment.shape)
    return np.where((rows < 0).all(axis=1), -1.0, np.sqrt((np.clip(rows, 0, None) ** 2).sum(axis=1)))


def _largest(worth: np.ndarray, count: int) -> np.ndarray:
    """Exactly `count` largest, ties broken by position so that every device would choose the same."""
    keep = np.zeros(len(worth), bool)
    keep[np.argsort(-worth, kind="stable")[:count]] = True
    return keep


def _global_keep(worth: Sequence[np.ndarray], density: float) -> list[np.ndarray]:
    """The largest of all layers; the best of each layer in which one is allowed comes before all others."""
    ranked, best = [w.copy() for w in worth], [int(w.argmax()) for w in worth]
    open_layers = [k for k, w in enumerate(worth) if w[best[k]] >= 0]
    for k in open_layers:
        ranked[k][best[k]] = np.inf
    count = max(len(open_layers), round(density * sum(len(w) for w in worth)))
    return np.split(_largest(np.concatenate(ranked), count), np.cumsum([len(w) for w in worth])[:-1])


def check_disjoint(density: float, tasks: int) -> None:
    """Refuse a density that leaves no room for masks with no common row: sum over tasks of k must be <= 1.

    Args:
        density: k of every task.
        tasks: T.

    Raises:
        InputError: T k > 1.
    """
    if density * tasks > 1 + 1e-9:
        raise InputError(
            f"`method.disjoint`: {tasks} tasks cannot each keep {density:g} of the rows of B for themselves",
            got=f"tasks * density = {tasks * density:g}",
            expected="at most 1",
            change=f"Set `method.density` to at most {1 / tasks:.3g}, or `method.disjoint=false`.",
        )


def collision_rates(masks: Sequence[np.ndarray], layout: Layout) -> tuple[float, float]:
    """How often two tasks change the same place, averaged over pairs of tasks.

    Args:
        masks: One (size,) bool mask a task.
        layout: Where the layers' B lie; it stores B alone.

    Returns:
        (rate of B, rate of Delta W), each in [0, 1]: the share of entries that two tasks both touch. With a dense A,
        an entry of Delta W is touched when any entry of its row of B is kept. Both are 0 for fewer than two tasks.
    """
    if len(masks) < 2:
        return 0.0, 0.0
    table = np.stack(masks).astype(np.float64)
    rows = [table[:, s.start : s.stop].reshape(len(masks), *s.shape).max(axis=2) for s in layout.of("b")]
    weight = np.concatenate([np.full(s.shape[0], layout.layers[s.layer].in_features) for s in layout.of("b")])
    touched = np.concatenate(rows, axis=1)
    pairs = np.triu_indices(len(masks), 1)
    in_b = (table @ table.T / table.shape[1])[pairs]
    in_w = ((touched * weight) @ touched.T / weight.sum())[pairs]
    return float(in_b.mean()), float(in_w.mean())
