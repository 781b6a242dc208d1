"""The forward pass of a sequence classifier, whose rows have one answer each (`dfl_ray.models.classifier`)."""

from __future__ import annotations

import numpy as np
import torch

from dfl_ray.engines.batches import Batch
from dfl_ray.lora.inject import Binding, BindingCell


def class_logits(
    model: torch.nn.Module, cell: BindingCell, batch: Batch, binding: Binding | None
) -> torch.Tensor:
    """Compute, at every scored position, the logits of its row's classes.

    Padding is the model's own pad token and is masked, since an encoder's tokens see all others.

    Args:
        model: The classifier with adapted layers.
        cell: Takes the binding.
        batch: The rows.
        binding: Their adapters; None is the bare base model.

    Returns:
        (scored, classes) float32.
    """
    rows, width = batch.input_ids.shape
    device = batch.input_ids.device
    lengths = np.full(rows, width) if batch.lengths is None else batch.lengths
    real = (torch.arange(width) < torch.from_numpy(lengths)[:, None]).to(device)
    pad = model.config.pad_token_id  # type: ignore[union-attr]
    ids = batch.input_ids.masked_fill(~real, 0 if pad is None else int(pad))  # type: ignore[arg-type]
    cell.current, cell.shape = binding, (rows, width)
    try:
        logits = model(input_ids=ids, attention_mask=real.long()).logits
    finally:
        cell.current, cell.shape = None, None
    return logits[batch.source[:, 0]].float()
