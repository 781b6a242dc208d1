"""Rules that weigh experts anew for every prompt or token: gates on z = [A_1; ...; A_T] x before B = [B_1, ..., B_T].

y = W0 x + s B (g(x) * z) with one weight a task, repeated over its r entries of z: sum_t g_t(x) B_t A_t x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

Gate = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, x (rows, length, d), z (rows, length, T*r)) -> gated z."""

GateOf = Callable[[Sequence[tuple[int, int]]], Gate]
"""The gate for a batch, whose rows are given as (task, place among the task's held-out rows)."""


def posterior(log_likelihoods: np.ndarray, temperature: float) -> np.ndarray:
    """Turn log-likelihoods into shares of the tasks: softmax over tasks of L / temperature, with equal priors.

    The tokens of a prompt are not independent and neither are the layers, so at temperature 1 the posterior is
    far too sure of itself; a higher one makes it softer and leaves its order.

    Source: temperature scaling, Guo et al. 2017 (arXiv 1706.04599). Departure: the temperature is set, not fitted.

    Args:
        log_likelihoods: L, (prompts, T); -inf for tasks whose sketch is unknown.
        temperature: > 0.

    Returns:
        (prompts, T), rows sum to 1; equal shares where every task is unknown.
    """
    best = log_likelihoods.max(axis=1, keepdims=True)
    shifted = np.where(np.isfinite(best), log_likelihoods - np.where(np.isfinite(best), best, 0.0), 0.0)
    weights = np.exp(shifted / temperature)
    return weights / weights.sum(axis=1, keepdims=True)


def soft_gate(shares: Mapping[int, np.ndarray], rank: int) -> GateOf:
    """Give every prompt its own mixture of experts, the same in all layers and for all its tokens.

    g(x) * z with g of the prompt: the r entries of z that belong to task t are multiplied by the prompt's share of t.

    Args:
        shares: Task -> (held-out rows, T) weights of the experts, in [0, 1].
        rank: r.

    Returns:
        Makes the gate of a batch from the (task, place) of its rows.
    """

    def of(rows: Sequence[tuple[int, int]]) -> Gate:
        table = np.repeat(np.stack([shares[task][place] for task, place in rows]), rank, axis=1)
        weights = torch.from_numpy(table).float().unsqueeze(1)

        def gate(_layer: int, _x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return z * weights.to(z.device, z.dtype)

        return gate

    return of


def prototype(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Find the input direction that an expert answers most strongly: the top right singular vector of B A.

    With the QR factors A^T = Q R it is Q v, v the top right singular vector of the small B R^T; no (m, d) matrix
    is formed and no iteration is needed. Unique up to its sign; 0 for an expert that does nothing.

    Source: Ostapenko et al. 2024, arXiv 2405.11157, section 3.2.

    Args:
        a: (r, d).
        b: (m, r).

    Returns:
        (d,) of norm 1, or 0.
    """
    q, r = torch.linalg.qr(a.double().T)
    _, values, right = torch.linalg.svd(b.double() @ r.T, full_matrices=False)
    return (q @ right[0] * (values[0] > 0)).to(a.dtype)


def arrow_gate(prototypes: Sequence[torch.Tensor], rank: int, *, top_k: int, temperature: float) -> GateOf:
    """Weigh experts by Arrow routing: for every token in every layer, softmax over the `top_k` largest |v_t . x|.

    Source: Ostapenko et al. 2024, arXiv 2405.11157, section 3.2; as in PEFT's `ArrowLoraLinearLayer`.

    Args:
        prototypes: v_t, one (T, d) stack a layer.
        rank: r.
        top_k: Experts a token uses, >= 1; at most all are used.
        temperature: Divides the scores, > 0.

    Returns:
        Makes the gate of a batch; it is the same for every batch.
    """

    def gate(layer: int, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        scores = (x @ prototypes[layer].to(x.device, x.dtype).T).abs()
        best, index = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
        kept = torch.full_like(scores, float("-inf")).scatter(-1, index, best)
        weights = torch.softmax(kept / temperature, dim=-1)
        return z * weights.repeat_interleave(rank, dim=-1)

    return lambda _rows: gate
