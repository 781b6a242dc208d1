"""Which expert answers: the training-free likelihood router, and the linear filter that merges all experts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.engines.training import ScoredModel
from dfl_ray.experts.sketch import ROWS_PER_BATCH, prompt_batch, stacked

EIGENVALUE_FLOOR = 1e-6
"""Least eigenvalue of a correlation, relative to its mean: rounding on air must not make it indefinite."""


def shrink(correlation: np.ndarray, amount: float) -> np.ndarray:
    """Shrink correlations towards a multiple of I: (1 - rho) C + (rho + 1e-6) tr(C)/n I.

    This keeps estimates from few tokens invertible.

    Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices". Departure:
    rho is set, not estimated, and 1e-6 is added to it in the second term.

    Args:
        correlation: C, (..., n, n), symmetric positive semi-definite.
        amount: rho in [0, 1].

    Returns:
        (..., n, n).
    """
    n = correlation.shape[-1]
    mean = np.trace(correlation, axis1=-2, axis2=-1)[..., None, None] / n
    return (1 - amount) * correlation + (amount + 1e-6) * mean * np.eye(n)


def prompt_features(
    model: ScoredModel,
    projections: Sequence[torch.Tensor],
    layers: Sequence[int],
    prompts: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Compute z = [A_1; ...; A_T] x of every prompt token on the bare base model.

    Args:
        model: The shared base.
        projections: (T, r, d) of every adapted layer.
        layers: Indices of the layers to look at.
        prompts: Token ids of each prompt.

    Returns:
        For each prompt (layers, tokens, T*r) float32.
    """
    flat = stacked(projections)
    place = {layer: k for k, layer in enumerate(layers)}
    out: list[np.ndarray] = []
    for start in range(0, len(prompts), ROWS_PER_BATCH):
        part = prompts[start : start + ROWS_PER_BATCH]
        batch, real = prompt_batch(part, most=model.most_positions)
        found: list[torch.Tensor] = [torch.empty(0)] * len(layers)

        def see(layer: int, x: torch.Tensor, found: list[torch.Tensor] = found) -> None:
            if layer in place:
                found[place[layer]] = (x.float() @ flat[layer].to(x.device).T).cpu()

        model.observe(batch.to(model.device), see, layers)
        z = torch.stack(found, dim=1).numpy()
        out.extend(z[k][:, real[k].numpy()] for k in range(len(part)))
    return out


def log_likelihoods(
    features: Sequence[np.ndarray], correlations: np.ndarray, *, shrinkage: float
) -> np.ndarray:
    """Compute the Gaussian log-likelihood of each prompt under each task.

    L[p, t] = -1/2 sum_layers sum_tokens (z^T C_t^-1 z + ln |C_t|), constants left out. Layers and tokens count as
    independent, and z as having mean 0 and covariance C_t.

    Source: the multivariate normal density, Bishop 2006, "Pattern Recognition and Machine Learning", equation 2.43.
    Departure: C_t is shrunk (`shrink`) and its eigenvalues are at least `EIGENVALUE_FLOOR` times their mean.

    Args:
        features: z, for each prompt (layers, tokens, n) with at least one token.
        correlations: C_t, (T, layers, n, n), raw.
        shrinkage: rho of `shrink`, in [0, 1].

    Returns:
        (prompts, T) float64, in nats; NaN correlations (a task whose sketch is unknown) give -inf.
    """
    known = ~np.isnan(correlations).any(axis=(1, 2, 3))
    out = np.full((len(features), len(correlations)), -np.inf)
    if not len(features):
        return out
    tokens = np.cumsum([0, *[f.shape[1] for f in features]])
    joined = np.concatenate(features, axis=1).astype(np.float64)
    for t in np.flatnonzero(known):
        regular = shrink(correlations[t], shrinkage)
        values, vectors = np.linalg.eigh(regular)
        values = np.maximum(values, EIGENVALUE_FLOOR * values.mean(axis=1, keepdims=True))
        energy = ((joined @ (vectors / np.sqrt(values)[:, None, :])) ** 2).sum(axis=2).sum(axis=0)
        log_det = np.log(values).sum()
        out[:, t] = -0.5 * np.add.reduceat(energy + log_det, tokens[:-1])
    return out


def semidefinite(correlations: np.ndarray) -> np.ndarray:
    """Find the nearest positive semi-definite matrices: negative eigenvalues, which rounding on air makes, become 0.

    Source: Higham 1988, "Computing a nearest symmetric positive semidefinite matrix", theorem 2.1 (Frobenius norm).

    Args:
        correlations: (..., n, n), symmetric.

    Returns:
        (..., n, n) float64, symmetric.
    """
    values, vectors = np.linalg.eigh(correlations)
    return (vectors * np.maximum(values, 0.0)[..., None, :]) @ vectors.swapaxes(-1, -2)


def filter_matrices(correlations: np.ndarray, *, ridge: float) -> np.ndarray:
    """Compute M_t = C_t R^-1, the linear filter that keeps a task's part of z, with R = sum_s C_s + lambda mean I.

    M_t minimises the own error |M_t z - z|^2 on the task's own tokens plus the foreign response |M_t z|^2 on the
    others' plus lambda mean |M_t|^2, "mean" being the mean eigenvalue of sum_s C_s; 1e-9 is added to lambda. These
    are the normal equations of ridge regression.

    Args:
        correlations: C_t, (T, layers, n, n), symmetric positive semi-definite.
        ridge: lambda >= 0, relative.

    Returns:
        (T, layers, n, n) float64; 0 where all C_t are 0.
    """
    total = correlations.sum(axis=0)
    n = total.shape[-1]
    mean = np.trace(total, axis1=-2, axis2=-1)[..., None, None] / n
    mean = np.where(mean > 0, mean, 1.0)
    regular = total + (ridge + 1e-9) * mean * np.eye(n)
    # M = C R^-1 with both symmetric, so M^T = R^-1 C.
    return np.linalg.solve(regular[None], correlations).swapaxes(-1, -2)


def filtered_factors(
    experts: Sequence[Sequence[torch.Tensor]], matrices: np.ndarray, rank: int
) -> list[torch.Tensor]:
    """Compute B of the one adapter of rank T*r that the filter makes of all experts.

    B_eff = sum_t B_t [M_t]_{rows of t}, so that y = W0 x + s B_eff [A_1; ...; A_T] x.

    Args:
        experts: For each task the (m, r) factors of every layer.
        matrices: (T, layers, T*r, T*r) from `filter_matrices`.
        rank: r.

    Returns:
        One (m, T*r) factor a layer, on the CPU.
    """
    out: list[torch.Tensor] = []
    for layer in range(len(experts[0])):
        rows = [
            torch.from_numpy(matrices[t, layer, t * rank : (t + 1) * rank]).float()
            for t in range(len(experts))
        ]
        out.append(torch.stack([b[layer].cpu() @ m for b, m in zip(experts, rows, strict=False)]).sum(0))
    return out
