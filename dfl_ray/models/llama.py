"""A decoder of the Llama family in plain torch: what `transformers` computes, without importing it.

Modules and parameters carry the names `transformers` gives them (`model.layers.0.self_attn.q_proj`, `lm_head`), so
that adapters, checkpoints and exports mean the same layers in both. Importing `transformers` costs a device actor
seconds and more than a hundred megabytes; this costs nothing beyond torch. It covers Llama, Mistral (full
attention), Qwen2 and Qwen3; `dfl_ray.models.decoder` says what exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dfl_ray.models.decoder import DecoderShape

Rotation = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class DecoderOutput:
    """What a forward pass gives: `logits`, (rows, length, vocabulary)."""

    logits: torch.Tensor


class Linear(nn.Linear):
    """A linear layer whose weights come from a checkpoint.

    Torch would draw starting values that nothing uses; for weights without memory that alone imports its compiler,
    70 MB and more than a second in every actor.
    """

    def reset_parameters(self) -> None:
        """Leave the parameters as they were allocated."""


class Embedding(nn.Embedding):
    """An embedding whose weights come from a checkpoint; see `Linear`."""

    def reset_parameters(self) -> None:
        """Leave the parameters as they were allocated."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the mean in float32 (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalised input, in its own dtype."""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.head_dim, self.grouped = shape.head_dim, shape.kv_heads != shape.heads
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = Linear(shape.hidden_size, queries, bias=shape.qkv_bias)
        self.k_proj = Linear(shape.hidden_size, keys, bias=shape.qkv_bias)
        self.v_proj = Linear(shape.hidden_size, keys, bias=shape.qkv_bias)
        self.o_proj = Linear(queries, shape.hidden_size, bias=shape.o_bias)
        if shape.qk_norm:
            self.q_norm = RMSNorm(shape.head_dim, shape.eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.eps)
        self.normed = shape.qk_norm

    def forward(self, x: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None) -> torch.Tensor:
        """Attention over x (rows, length, d); `mask` is additive, None is causal."""
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(
            rotate(q, rotation), rotate(k, rotation), v,
            attn_mask=mask, is_causal=mask is None, enable_gqa=self.grouped,
        )  # fmt: skip
        return self.o_proj(out.transpose(1, 2).flatten(2))


class GatedLayer(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size, bias=shape.mlp_bias)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size, bias=shape.mlp_bias)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size, bias=shape.mlp_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The gated layer's output for x (rows, length, d)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One decoder block: attention and gated layer, each behind a norm and added to its input."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = GatedLayer(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.eps)

    def forward(self, x: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None) -> torch.Tensor:
        """The block's output for x (rows, length, d)."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.embed_tokens = Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.norm = RMSNorm(shape.hidden_size, shape.eps)

    def forward(self, input_ids: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None) -> torch.Tensor:
        """Hidden states (rows, length, d) behind the final norm."""
        x = self.embed_tokens(input_ids)
        for block in self.layers:
            x = block(x, rotation, mask)
        return self.norm(x)


class CausalDecoder(nn.Module):
    """A causal language model with `transformers`' names and calling convention, evaluation mode only.

    Args:
        shape: What it is made of.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.lm_head = Linear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        with torch.device("cpu"):
            self.register_buffer("frequencies", shape.inverse_frequencies(), persistent=False)

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self.lm_head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> DecoderOutput:
        """Logits of every position.

        Args:
            input_ids: (rows, length) int64.
            attention_mask: Additive mask (rows or 1, 1, length, length); None is plain causal attention.
            position_ids: (rows, length) int64; None counts from 0.
            use_cache: Must be False; there is no cache.

        Raises:
            ValueError: A mask of another shape, or a cache asked for.
        """
        if use_cache or (attention_mask is not None and attention_mask.dim() != 4):
            raise ValueError("this decoder takes an additive 4-D mask or none, and keeps no cache")
        dtype = self.model.norm.weight.dtype
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        mask = None if attention_mask is None else attention_mask.to(dtype)
        hidden = self.model(input_ids, self.rotation(position_ids, dtype), mask)
        return DecoderOutput(self.lm_head(hidden))

    def rotation(self, positions: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """Cosines and sines for positions (rows, length): each (rows, 1, length, head_dim)."""
        half = positions.unsqueeze(-1).float() * self.get_buffer("frequencies")
        angle = torch.cat((half, half), -1).unsqueeze(1)
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotary positions: pairs (i, i + head_dim/2) of x (..., length, head_dim) turned by their angle.

    Source: Su et al. 2021 (arXiv 2104.09864), with `transformers`' pairing of the two halves.
    """
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def empty_decoder(shape: DecoderShape) -> CausalDecoder:
    """A decoder whose parameters hold no memory yet."""
    with torch.device("meta"):
        return CausalDecoder(shape)
