"""Whether a model can score several answers behind one prompt: decided on the longest row that is to be scored."""

from __future__ import annotations

import inspect
import json

import torch

from dfl_ray.engines.batches import Batch
from dfl_ray.engines.training import ScoredModel
from dfl_ray.models.llama import CausalDecoder
from dfl_ray.models.positions import least_window

EXACT, ROUNDED = 1e-4, 2e-2
"""Largest mean difference in units of the logits' standard deviation, in float32 and in coarser types."""


def takes_block_masks(model: ScoredModel, packed: Batch, alone: Batch) -> bool:
    """Whether a model obeys a block mask with position ids as it obeys separate rows.

    A block mask takes the place of the model's own mask, so that windowed, chunked or layer-mixed attention would see
    more than in training. The configuration excludes windows shorter than the row; the rest (layers that heed no
    mask, positions counted along the row) is tried out on the row itself.

    Args:
        model: The model, adapters unbound.
        packed: The longest row with all its candidate answers behind one prompt, with mask and positions.
        alone: The same row once for each candidate, scored tokens in the same order.

    Returns:
        True if the mean absolute difference of the logits is at most `EXACT` (float32) or `ROUNDED` (coarser types)
        times the standard deviation of the logits of separate rows.
    """
    if isinstance(model.model, CausalDecoder):
        return True  # masks and positions are its arguments, and it has no windows
    if "position_ids" not in inspect.signature(model.model.forward).parameters:
        return False
    window = least_window(json.dumps(model.model.config.to_dict(), default=str))  # type: ignore[union-attr,operator]
    if window is not None and packed.input_ids.shape[1] > window:
        return False
    try:
        with torch.no_grad():
            together = model.logits(packed.to(model.device), None)
            apart = model.logits(alone.to(model.device), None)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    parameter = next(model.model.parameters())
    allowed = EXACT if parameter.dtype == torch.float32 else ROUNDED
    return bool((together - apart).abs().mean() <= allowed * apart.std())
