"""Input sketches: the second moment of z = [A_1; ...; A_T] x over a task's tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dfl_ray.engines.batches import prompt_batch
from dfl_ray.engines.memory import SKETCH_ROWS
from dfl_ray.engines.training import ScoredModel
from dfl_ray.tasks.tokens import TokenRows

ROWS_PER_BATCH = SKETCH_ROWS


def stacked(projections: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Join the projections of all tasks, whose rows give z in task order.

    Args:
        projections: (T, r, d) of each layer.

    Returns:
        One (T*r, d) view a layer.
    """
    return [a.reshape(-1, a.shape[-1]) for a in projections]


def sketch(
    model: ScoredModel, projections: Sequence[torch.Tensor], layers: Sequence[int], rows: Sequence[np.ndarray]
) -> np.ndarray:
    """Measure C = mean of z z^T over the tokens of the rows, on the bare base model.

    The inputs are the base model's and not the adapted model's, so that a sketch stays valid while experts learn.

    Args:
        model: The shared base.
        projections: (T, r, d) of every adapted layer.
        layers: Indices of the layers to sketch.
        rows: Token ids, prompt and answer; at least one token in all.

    Returns:
        (layers, T*r, T*r) float64, symmetric positive semi-definite.
    """
    flat = stacked(projections)
    place = {layer: k for k, layer in enumerate(layers)}
    width = flat[0].shape[0]
    total = torch.zeros(len(layers), width, width, dtype=torch.float64)
    tokens = 0
    for start in range(0, len(rows), ROWS_PER_BATCH):
        batch, real = prompt_batch(rows[start : start + ROWS_PER_BATCH], most=model.most_positions)
        real = real.to(model.device)

        def see(layer: int, x: torch.Tensor, real: torch.Tensor = real) -> None:
            if layer in place:
                z = x[real].float() @ flat[layer].to(x.device).T
                total[place[layer]] += (z.T @ z).double().cpu()

        model.observe(batch.to(model.device), see, layers)
        tokens += int(real.sum())
    return (total / tokens).numpy()


def training_rows(rows: TokenRows, wanted: np.ndarray) -> list[np.ndarray]:
    """Take prompt and answer of the given training rows, each without its last token, which is the end token.

    Args:
        rows: The task's training rows.
        wanted: (n,) int row indices.

    Returns:
        n arrays of token ids.
    """
    return [rows.row(int(i))[:-1] for i in wanted]
