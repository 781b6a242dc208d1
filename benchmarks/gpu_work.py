"""The work that `gpu_training` times: a model's shape, the rows, and the operations one step needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dfl_ray.models.decoder import DecoderShape


@dataclass(frozen=True)
class Work:
    """One training step of `devices` adapters, `batch` rows of `length` tokens each.

    Attributes:
        shape: The base model.
        devices: K.
        batch: Rows of each device.
        length: Tokens of each row that go into the model.
        scored: Of these, how many at the row's end predict a scored token.
        rank: r.
        dtype: Precision of the base and of the products.
        device: "cuda" or "cpu".
    """

    shape: DecoderShape
    devices: int
    batch: int
    length: int
    scored: int
    rank: int
    dtype: torch.dtype
    device: str

    @property
    def tokens(self) -> int:
        """Tokens of one step of all devices."""
        return self.devices * self.batch * self.length


def qwen_shape(options: Any) -> DecoderShape:
    """Qwen2.5's kind of decoder with the sizes of the command line."""
    return DecoderShape(
        vocab_size=options.vocabulary, hidden_size=options.hidden, intermediate_size=options.intermediate,
        layers=options.layers, heads=options.heads, kv_heads=options.kv_heads,
        head_dim=options.hidden // options.heads, eps=1e-6, tied=True, qkv_bias=True, o_bias=False,
        mlp_bias=False, qk_norm=False, rope_theta=1_000_000.0, scaling=None,
    )  # fmt: skip


def linear_sizes(shape: DecoderShape) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the frozen products of one block, layers with the same input joined."""
    d, wide = shape.hidden_size, shape.intermediate_size
    heads, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "qkv": (heads + 2 * keys, d),
        "o": (d, heads),
        "gate_up": (2 * wide, d),
        "down": (d, wide),
    }


def step_operations(work: Work, *, trains_a: bool) -> Mapping[str, int]:
    """Multiplications and additions of the products one step cannot do without, by part.

    Frozen weights: 2 a weight and token forward, 2 for the gradient of the input, none for weights; the first
    block's joined query, key and value layer needs no gradient of its input. Adapters: 2 a value and token forward
    (A x, B z), 2 for the gradient of the input, 2 for that of each trained factor. What follows attention in the
    last block is needed at the scored tokens alone. Attention: two products forward and four backward over the pairs
    (query, key not later). Norms, gates, rotations, softmax, AdamW, and anything computed a second time count
    nothing.

    Args:
        work: The step.
        trains_a: Whether A is trained beside B.
    """
    shape, tokens = work.shape, work.tokens
    sizes = linear_sizes(shape)
    weights = sum(m * d for m, d in sizes.values())
    first = sizes["qkv"][0] * sizes["qkv"][1]
    parts = {"qkv": 3, "gate_up": 2}
    thin = {
        n: work.rank * (6 * m + (6 if trains_a else 4) * d * parts.get(n, 1)) for n, (m, d) in sizes.items()
    }
    skipped = 3 * work.rank * shape.hidden_size
    pairs = work.devices * work.batch * work.length * (work.length + 1) // 2
    scored = work.devices * work.batch * work.scored
    unasked = tokens - scored
    return {
        "base": tokens * (4 * shape.layers * weights - 2 * first) - unasked * 4 * (weights - first),
        "head": 4 * scored * shape.vocab_size * shape.hidden_size,
        "attention": shape.layers * 6 * 2 * pairs * shape.heads * shape.head_dim,
        "adapters": tokens * (shape.layers * sum(thin.values()) - 2 * skipped)
        - unasked * (sum(thin.values()) - thin["qkv"]),
    }  # fmt: skip


def draw_ids(work: Work, rows: int, seed: int = 0) -> np.ndarray:
    """(rows, length + 1) int32 random tokens."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, work.shape.vocab_size, (rows, work.length + 1)).astype(np.int32)
