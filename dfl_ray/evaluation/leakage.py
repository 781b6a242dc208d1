"""Gradient leakage: how well whoever sees the change of one factor tells which tokens it was made from.

In the first adapted layer of a decoder the input x(v) of a token v is that of the embedding alone, so an attacker who
has the base model knows x(v) of the whole vocabulary. The gradient of B is s sum_t g_t (A x_t)^T over the tokens t of
the rows, that of A is s sum_t (B^T g_t) x_t^T: rows of the first lie in the span of the z_t = A x_t of those tokens,
rows of the second in the span of the x_t. A token whose vector lies in that span was probably there. A token whose g_t
is 0 cannot be told: in a query's projection that is the first one, which has a single key to look at.

Source: Petrov et al. 2024 (arXiv 2405.15586), DAGER, the span check of the first layer; after Zhu et al. 2019
(arXiv 1906.08935). Written from the idea, not checked against the paper's text. Departures: a graded distance instead
of a threshold, so that a change which spans everything (as AdamW's, entry by entry) is measured too; no order of
tokens and no second layer, so no sentences are rebuilt.
"""

from __future__ import annotations

import numpy as np
import torch

from dfl_ray.engines.batches import Batch
from dfl_ray.engines.training import ScoredModel
from dfl_ray.errors import InputError
from dfl_ray.evaluation.membership import membership_auc

RIDGE = 1e-9
"""Added to the change's relative second moment: directions that it lacks count as 1 / RIDGE."""
BLOCK = 4096
"""Tokens of the vocabulary that are computed with at once."""


def token_inputs(model: ScoredModel, layer: int = 0) -> torch.Tensor:
    """What an adapted layer of the first block is given for each token standing alone.

    Args:
        model: The shared base.
        layer: Index of the layer; one whose input no other token reaches.

    Returns:
        (V, d) float32 over the V tokens of the model's output head.

    Raises:
        InputError: The model has no output head over its vocabulary, as a classifier.
    """
    head = model.model.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise InputError("The probe of gradient leakage needs a language model", got="a classifier")
    seen: list[torch.Tensor] = []
    for tokens in torch.arange(head.weight.shape[0]).split(BLOCK):
        nothing = torch.zeros((1, 2), dtype=torch.int64)
        batch = Batch(tokens[:, None], nothing, nothing[:, 0], len(tokens))
        model.observe(
            batch.to(model.device),
            lambda i, x: seen.append(x[:, 0].float().cpu()) if i == layer else None,
            (layer,),
        )
    return torch.cat(seen)


def span_distance(
    change: torch.Tensor, inputs: torch.Tensor, through: torch.Tensor | None = None
) -> np.ndarray:
    """How far each token's direction is from the row space of a factor's change.

    D(v) = u^T (C / c + RIDGE I)^-1 u with u = x(v) / |x(v)|, C = G^T G and c its largest eigenvalue: small inside the
    span, 1 / RIDGE of the squared sine outside. With G = U S W^T, thin, of k directions w_i, that is
    sum_i (w_i u)^2 / (s_i^2 / s_1^2 + RIDGE) + (|u|^2 - sum_i (w_i u)^2) / RIDGE.

    Args:
        change: (m, n) G, not all 0: the change of B with n = r, or of A with n = d.
        inputs: (V, d) what the tokens look like to the layer.
        through: (n, d) A, where the factor sees A x(v), as B does; None where it sees x(v).

    Returns:
        (V,) distances > 0; 0 for a token whose x(v) is 0.

    Raises:
        ValueError: The change is 0 everywhere, which tells nothing.
    """
    _, strengths, directions = torch.linalg.svd(change.double().cpu(), full_matrices=False)
    if not float(strengths[0]) > 0:
        raise ValueError("the change is 0 everywhere: no token can be told from it")
    weight = 1.0 / ((strengths / strengths[0]) ** 2 + RIDGE)
    found: list[torch.Tensor] = []
    for block in inputs.split(BLOCK):
        x = block.double() if through is None else block.double() @ through.double().cpu().T
        squares = (x * x).sum(dim=1)
        along = (x @ directions.T) ** 2 / squares.clamp(min=1e-60)[:, None]
        beside = ((squares > 0).double() - along.sum(dim=1)).clamp(min=0)
        # Of as many directions as there are, what is left over is rounding.
        found.append(along @ weight + (beside / RIDGE if len(directions) < x.shape[1] else 0.0))
    return torch.cat(found).numpy()


def token_auc(distances: np.ndarray, present: np.ndarray) -> float:
    """Chance that a token which was there is nearer to the span than one which was not.

    Args:
        distances: (V,) of `span_distance`.
        present: (V,) bool, the tokens of the rows; some of both kinds.

    Returns:
        In [0, 1]; 1 = all tokens are told, 0.5 = none.
    """
    return membership_auc(distances[present], distances[~present])
