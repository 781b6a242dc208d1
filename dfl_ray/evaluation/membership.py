"""Membership inference: how well an attacker tells by the loss which rows an adapter was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.engines.private import Pair, row_gradients
from dfl_ray.engines.training import ScoredModel
from dfl_ray.lora.layout import Layout


def membership_auc(
    member_losses: Sequence[float] | np.ndarray, other_losses: Sequence[float] | np.ndarray
) -> float:
    """Area under the ROC curve of the attack that calls a row a member where its loss is below a threshold.

    AUC = P(loss of a member < loss of another) + P(equal) / 2, over all pairs.

    Source: Yeom et al. 2018 (arXiv 1709.01604), threshold attack; the Mann-Whitney statistic.

    Args:
        member_losses: Losses of rows trained on, at least one.
        other_losses: Losses of rows not trained on, at least one.

    Returns:
        In [0, 1]; 0.5 = the attacker learns nothing.
    """
    members, others = np.asarray(member_losses)[:, None], np.asarray(other_losses)[None]
    return float((members < others).mean() + (members == others).mean() / 2)


def row_losses(
    model: ScoredModel, layout: Layout, theta: torch.Tensor, rows: Sequence[Pair], *, scale: float
) -> np.ndarray:
    """Mean token loss of each row under one adapter.

    Args:
        model: The shared base.
        layout: Where the factors lie, A among them.
        theta: (size,) the adapter.
        rows: The rows, at least one.
        scale: alpha / r.

    Returns:
        (rows,) nats.
    """
    owner = torch.zeros(len(rows), dtype=torch.int64, device=theta.device)
    return row_gradients(model, layout, theta.unsqueeze(0), owner, rows, scale=scale)[1].cpu().numpy()
