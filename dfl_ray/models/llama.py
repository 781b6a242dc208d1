"""A decoder of the Llama family in plain torch: what `transformers` computes, without importing it.

Modules and parameters carry the names `transformers` gives them (`model.layers.0.self_attn.q_proj`, `lm_head`), so
that adapters, checkpoints and exports mean the same layers in both. Importing `transformers` costs a device actor
seconds and more than a hundred megabytes; this costs nothing beyond torch. It covers Llama, Mistral (full
attention), Qwen2 and Qwen3; `dfl_ray.models.decoder` says what exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from dfl_ray.models.cache import KeyValueCache
from dfl_ray.models.decoder import DecoderShape

Rotation = tuple[torch.Tensor, torch.Tensor]
Normed = Callable[[torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]
"""Norms x (..., width) with a weight (width,) and eps; its first result is what `RMSNorm` gives."""
Gated = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes gate and up, (tokens, m) each, and gives silu(gate) * up."""
Seen = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Takes a pass's keys and values, (rows, kv_heads, length, head_dim), and gives those to attend to."""


@dataclass(frozen=True)
class DecoderOutput:
    """What a forward pass gives.

    Attributes:
        logits: (rows, length, vocabulary), in the precision of the weights.
    """

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
    """x / sqrt(mean(x^2) + eps) * weight, the mean taken in float32.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4, with eps under the root as in the Llama models.

    Args:
        width: Features, the last dimension of x.
        eps: Added to the mean square, > 0.

    Attributes:
        compiled: Takes the place of the equation where no gradient is recorded; None takes it nowhere.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps
        self.compiled: Normed | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Norm x (..., width) over its last dimension; the result has the shape and dtype of x."""
        if self.compiled is not None and not torch.is_grad_enabled():
            return self.compiled(x, self.weight, self.eps)[0]
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions.

    out = o_proj(softmax(Q K^T / sqrt(head_dim) + mask) V), with Q and K rotated by `rotate` and, in Qwen3, normed
    head by head before. A key head serves heads / kv_heads query heads.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1; Ainslie et al. 2023 (arXiv 2305.13245) for shared key
    heads.

    Args:
        shape: The model.
    """

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

    def forward(
        self, x: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None, seen: Seen | None = None
    ) -> torch.Tensor:
        """Compute attention.

        Args:
            x: (rows, length, d).
            rotation: Cosines and sines, each broadcast to (rows, heads, length, head_dim).
            mask: Additive, broadcast to (rows, heads, length, keys); None is plain causal attention.
            seen: Takes the keys and values of this pass and gives those to attend to; None = those of this pass.

        Returns:
            (rows, length, d).
        """
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        k = rotate(k, rotation)
        if seen is not None:
            k, v = seen(k, v)
        out = F.scaled_dot_product_attention(
            rotate(q, rotation), k, v,
            attn_mask=mask, is_causal=mask is None, enable_gqa=self.grouped,
        )  # fmt: skip
        return self.o_proj(out.transpose(1, 2).flatten(2))


class GatedLayer(nn.Module):
    """down(silu(gate(x)) * up(x)) with silu(g) = g / (1 + e^-g).

    Source: Shazeer 2020 (arXiv 2002.05202), the variant SwiGLU.

    Args:
        shape: The model.

    Attributes:
        compiled: Takes the place of silu(gate) * up where no gradient is recorded; None takes it nowhere.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.compiled: Gated | None = None
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size, bias=shape.mlp_bias)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size, bias=shape.mlp_bias)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size, bias=shape.mlp_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the gated layer's output (rows, length, d) for x (rows, length, d)."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.compiled is not None and not torch.is_grad_enabled():
            return self.down_proj(self.compiled(gate.flatten(0, -2), up.flatten(0, -2)).view_as(gate))
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """One decoder block: h = x + attention(norm(x)), then h + gated(norm(h)).

    Args:
        shape: The model.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = GatedLayer(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.eps)

    def forward(
        self, x: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None, seen: Seen | None = None
    ) -> torch.Tensor:
        """Compute the block's output; arguments and result as in `Attention.forward`."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, seen)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks and final norm.

    Args:
        shape: The model.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.embed_tokens = Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.norm = RMSNorm(shape.hidden_size, shape.eps)

    def forward(
        self,
        input_ids: torch.Tensor,
        rotation: Rotation,
        mask: torch.Tensor | None,
        cache: KeyValueCache | None = None,
    ) -> torch.Tensor:
        """Compute the hidden states behind the final norm.

        Args:
            input_ids: (rows, length) int64.
            rotation: See `Attention.forward`.
            mask: See `Attention.forward`.
            cache: Keys and values of earlier passes, which is extended; None = there are none.

        Returns:
            (rows, length, d).
        """
        x = self.embed_tokens(input_ids)
        for number, block in enumerate(self.layers):
            x = block(x, rotation, mask, None if cache is None else partial(cache.extend, number))
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

        Returns:
            The logits, (rows, length, vocabulary).

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

    def next_logits(self, input_ids: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
        """Compute the logits that follow each row's last token, the rows' earlier tokens taken from a cache.

        Args:
            input_ids: (rows, length) int64: in the first pass the prompts, padded on the right, then one token a row.
            cache: Made for these rows; it is extended by them.

        Returns:
            (rows, vocabulary).
        """
        dtype = self.model.norm.weight.dtype
        rows, length = input_ids.shape
        if cache.filled:
            hidden = self.model(input_ids, self.rotation(cache.positions(), dtype), cache.mask(dtype), cache)[
                :, 0
            ]
        else:
            positions = torch.arange(length, device=input_ids.device).unsqueeze(0)
            whole = self.model(input_ids, self.rotation(positions, dtype), None, cache)
            hidden = whole[torch.arange(rows, device=input_ids.device), cache.lengths - 1]
        cache.advance()
        return self.lm_head(hidden)

    def rotation(self, positions: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """Compute cosines and sines of the rotary angles, position * frequency, the same for both halves of a head.

        Args:
            positions: (rows, length) int64.
            dtype: Precision of the results; the angles are float32.

        Returns:
            Cosines and sines, (rows, 1, length, head_dim) each.
        """
        half = positions.unsqueeze(-1).float() * self.get_buffer("frequencies")
        angle = torch.cat((half, half), -1).unsqueeze(1)
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Apply rotary positions: pairs (i, i + head_dim/2) of each head are turned by the angle of their token.

    Source: Su et al. 2021 (arXiv 2104.09864). Departure: the two halves of a head are paired, as in `transformers`,
    in place of neighbouring features.

    Args:
        x: (..., length, head_dim).
        rotation: Cosines and sines that broadcast to x.

    Returns:
        The rotated x, of its shape.
    """
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def empty_decoder(shape: DecoderShape) -> CausalDecoder:
    """Make a decoder whose parameters hold no memory yet (torch's `meta` device); its rotary frequencies do.

    Args:
        shape: The model.

    Returns:
        The decoder.
    """
    with torch.device("meta"):
        return CausalDecoder(shape)
