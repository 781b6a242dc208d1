"""A base that one device has changed: the large path with a dense update beside every adapted weight.

y = (W + M) x + bias + B (s A x) with M of the size of W. Small models write M as a frozen adapter of full rank
(`methods.shared.merged_factors`), so that many devices are trained together; of a large one that would be twice
the memory and three times the products, so its devices take turns and M is a product of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from dfl_ray.engines.gpu.decoder import Block, LargeDecoder
from dfl_ray.engines.gpu.linear import Joined
from dfl_ray.engines.training import ScoredModel
from dfl_ray.lora.layout import LayerShape, dense_of


def with_own_base(model: ScoredModel, layers: Sequence[LayerShape], update: np.ndarray) -> ScoredModel:
    """Give the model as a device trains it that has merged an update into its base; the model itself stays as it is.

    Args:
        model: The shared base; it takes the large path.
        layers: The adapted layers.
        update: M, float32, all layers' (m, d) one after the other.

    Returns:
        The model for `train_adapters`; its evaluation is the shared base's.
    """
    assert model.large is not None, "only the large path has a base of its own"
    own = copy.copy(model)
    own.large = _beside(model.large, [torch.from_numpy(dense) for dense in dense_of(layers, update)])
    return own


def _beside(decoder: LargeDecoder, dense: Sequence[torch.Tensor]) -> LargeDecoder:
    def block(one: Block) -> Block:
        return replace(
            one, qkv=_updated(one.qkv, dense), o=_updated(one.o, dense), gate_up=_updated(one.gate_up, dense),
            down=_updated(one.down, dense),
        )  # fmt: skip

    return replace(decoder, blocks=tuple(block(one) for one in decoder.blocks))


def _updated(joined: Joined, dense: Sequence[torch.Tensor]) -> Joined:
    if not joined.adapted:
        return joined
    updates = tuple(torch.zeros_like(w) for w in joined.weights)
    for part in joined.adapted:
        updates[part.piece][part.start : part.stop] = dense[part.index].to(updates[part.piece])  # type: ignore[index]
    return replace(joined, updates=updates)
