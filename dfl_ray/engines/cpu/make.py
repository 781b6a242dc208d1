"""Whether and how a model takes the merged path."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from dfl_ray.engines.cpu.decoder import BlockWeights, MergedDecoder
from dfl_ray.engines.cpu.linear import Joined, Part
from dfl_ray.engines.memory import MERGED_BYTES
from dfl_ray.lora.inject import AdaptedLinear
from dfl_ray.models.llama import CausalDecoder


def merged_decoder(model: nn.Module) -> MergedDecoder | None:
    """The merged path's view of an adapted model; nothing is copied.

    Args:
        model: A model after `inject`.

    Returns:
        None for models the path is not written for: other than the project's own decoder, not on the CPU in
        float32, or with normalised queries and keys.
    """
    if not isinstance(model, CausalDecoder) or model.shape.qk_norm:
        return None
    if isinstance(model.lm_head, AdaptedLinear):
        return None
    embedding = model.model.embed_tokens.weight
    if embedding.device.type != "cpu" or embedding.dtype != torch.float32:
        return None
    blocks = tuple(_block(cast(Any, layer)) for layer in model.model.layers)
    return MergedDecoder(model.shape, embedding.detach(), blocks, model.get_buffer("frequencies"))


def fits(decoder: MergedDecoder, adapters: int) -> bool:
    """Whether so many adapters' merged weights stay within `MERGED_BYTES`.

    Args:
        decoder: The model.
        adapters: Number of adapters S; each holds `merged_values` float32 values.
    """
    return 4 * adapters * decoder.merged_values <= MERGED_BYTES


def _block(layer: Any) -> BlockWeights:
    attention, mlp = layer.self_attn, layer.mlp
    return BlockWeights(
        q=_join(attention.q_proj), kv=_join(attention.k_proj, attention.v_proj), o=_join(attention.o_proj),
        gate_up=_join(mlp.gate_proj, mlp.up_proj), down=_join(mlp.down_proj),
        norm_in=layer.input_layernorm.weight.detach(), norm_out=layer.post_attention_layernorm.weight.detach(),
    )  # fmt: skip


def _join(*modules: nn.Module) -> Joined:
    return Joined(tuple(_part(m) for m in modules))


def _part(module: nn.Module) -> Part:
    index = module.index if isinstance(module, AdaptedLinear) else None
    linear = cast(nn.Linear, module.base if isinstance(module, AdaptedLinear) else module)
    bias = cast("torch.Tensor | None", linear.bias)
    return Part(linear.weight.detach(), None if bias is None else bias.detach(), index)
