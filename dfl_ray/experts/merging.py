"""Rules that merge all experts into one fixed update: TIES, and the linear filter with full input correlations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.engines.training import ScoredModel
from dfl_ray.experts.sketch import ROWS_PER_BATCH, prompt_batch


def ties_merge(updates: np.ndarray, *, density: float, scale: float = 1.0) -> np.ndarray:
    """Merge updates by trimming, electing a sign and averaging what agrees with it.

    Trim: of each update only its largest `density` share by magnitude stays. Elect: an entry's sign is that of the
    sum of the trimmed updates. Merge: the mean over the updates that are not 0 and have the elected sign, times
    `scale`.

    Source: Yadav et al. 2023, arXiv 2306.01708, algorithm 1 (k = density, lambda = scale).

    Args:
        updates: (T, size) float, one task's whole update a row.
        density: Share in (0, 1]; at least one entry stays.
        scale: lambda.

    Returns:
        (size,) merged update; 0 where no update agrees with the elected sign.
    """
    count = max(1, round(density * updates.shape[1]))
    trimmed = np.zeros_like(updates)
    for row, out in zip(updates, trimmed, strict=True):
        kept = np.argsort(-np.abs(row), kind="stable")[:count]
        out[kept] = row[kept]
    elected = np.sign(trimmed.sum(axis=0))
    agree = (np.sign(trimmed) == elected) & (trimmed != 0)
    return scale * (trimmed * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)


def input_correlations(
    model: ScoredModel, sizes: Sequence[int], rows: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Measure C = mean of x x^T over the tokens of the rows, on the bare base model, for every adapted layer.

    Args:
        model: The shared base.
        sizes: d of every layer.
        rows: Token ids, prompt and answer; at least one token in all.

    Returns:
        One (d, d) float64 a layer, symmetric positive semi-definite.
    """
    total = [torch.zeros(d, d, dtype=torch.float64) for d in sizes]
    tokens = 0
    for start in range(0, len(rows), ROWS_PER_BATCH):
        batch, real = prompt_batch(rows[start : start + ROWS_PER_BATCH], most=model.most_positions)
        real = real.to(model.device)

        def see(layer: int, x: torch.Tensor, real: torch.Tensor = real) -> None:
            inside = x[real].float()
            total[layer] += (inside.T @ inside).double().cpu()

        model.observe(batch.to(model.device), see)
        tokens += int(real.sum())
    return [(t / tokens).numpy() for t in total]


def filtered_projections(
    projections: Sequence[np.ndarray], correlations: Sequence[np.ndarray], *, ridge: float
) -> np.ndarray:
    """Compute A_t C_t R^-1 of all tasks, stacked, with R = sum_s C_s + lambda tr(sum_s C_s) / d I.

    y = W0 x + s sum_t B_t A_t C_t R^-1 x is RegMean's closed form for the updates B_t A_t: the filter that sees all
    of x, and so an upper bound on what the filter can do with sketches of z alone.

    Source: Jin et al. 2023, arXiv 2212.09849, equation 2 (RegMean). Departure: a ridge relative to the mean
    eigenvalue (1e-9 is added to lambda) in place of the paper's scaled-down off-diagonal entries.

    Args:
        projections: A_t, (r, d) of each task, one layer.
        correlations: C_t, (d, d) of each task, the same layer.
        ridge: lambda >= 0, relative.

    Returns:
        (T*r, d) float64.
    """
    total = np.sum(correlations, axis=0)
    d = len(total)
    regular = total + (ridge + 1e-9) * np.trace(total) / d * np.eye(d)
    parts = [a.astype(np.float64) @ c for a, c in zip(projections, correlations, strict=True)]
    return np.linalg.solve(regular, np.concatenate(parts).T).T
