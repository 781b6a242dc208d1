"""Gradients of the frozen weights themselves, which no adapter's step needs: for bases that are taken from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from dfl_ray.engines.batches import collate
from dfl_ray.engines.training import ScoredModel
from dfl_ray.lora.inject import AdaptedLinear, Binding
from dfl_ray.lora.layout import LayerShape
from dfl_ray.tasks.tokens import TokenRows

ROWS_TOGETHER = 8
"""Rows of one pass; a layer's input and its gradient are held for all of their tokens."""


def weight_gradients(
    model: ScoredModel, layers: Sequence[LayerShape], rows: Sequence[tuple[TokenRows, int]]
) -> list[np.ndarray]:
    """Sum dL/dW0 of every adapted layer over rows, on the bare base model.

    G = sum over tokens of dy x^T with y = W0 x, and L the sum of -log p over all scored tokens of all rows, each token
    alike. All layers' G are in memory at once, four bytes a weight.

    Args:
        model: The model with adapted layers.
        layers: Its adapted layers, (m, d) each.
        rows: The rows, as (table, row index).

    Returns:
        One (m, d) float32 a layer.
    """
    totals = [torch.zeros(s.out_features, s.in_features) for s in layers]

    def see(module: AdaptedLinear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
        # The frozen weights ask for no gradient, so that the first layers' outputs are where the graph begins.
        y = output if output.requires_grad else output.detach().requires_grad_()

        def add(dy: torch.Tensor) -> None:
            totals[module.index] += (dy.reshape(-1, dy.shape[-1]).float().T @ x.float()).cpu()

        y.register_hook(add)
        return y.clone()

    adapted = [m for m in model.model.modules() if isinstance(m, AdaptedLinear)]
    hooks = [m.register_forward_hook(see) for m in adapted]
    try:
        for first in range(0, len(rows), ROWS_TOGETHER):
            batch = collate(rows[first : first + ROWS_TOGETHER]).to(model.device)
            # Something that watches keeps the model on its own modules, where the hooks are.
            bare = Binding((), (), None, 0.0, observe=lambda _layer, _x: None)
            with torch.enable_grad():
                logits = model.logits(batch, bare)
                F.cross_entropy(logits, batch.targets, reduction="sum").backward()
    finally:
        for hook in hooks:
            hook.remove()
    return [total.numpy() for total in totals]
