"""A decoder of the Llama family in plain float64 autograd: what `dfl_ray.engines.gpu` is compared with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dfl_ray.engines.gpu.step import step_gradients
from dfl_ray.engines.training import ScoredModel
from dfl_ray.lora.inject import find_targets, inject
from dfl_ray.models.decoder import DecoderShape, Llama3Scaling
from dfl_ray.models.llama import CausalDecoder
from dfl_ray.tasks.tokens import TokenRows

RANK, SCALE = 3, 1.5


PLAIN = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 28, "layers": 2, "heads": 4, "kv_heads": 2,
    "head_dim": 4, "eps": 1e-5, "tied": True, "qkv_bias": True, "o_bias": False, "mlp_bias": False,
    "qk_norm": False, "rope_theta": 100.0, "scaling": None,
}  # fmt: skip


SHAPES = {
    "qwen2": {},
    "all-heads": {"kv_heads": 4, "qkv_bias": False},
    "biases": {"o_bias": True, "mlp_bias": True, "tied": False},
    "qwen3": {"qk_norm": True, "qkv_bias": False},
    "llama3": {"scaling": Llama3Scaling(4.0, 1.0, 4.0, 8), "qkv_bias": False, "head_dim": 8},
    "one-block": {"layers": 1},
}


F64 = torch.float64
ON = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
"""Where tests of the large path run."""


def decoder(changes, dtype, device="cpu", seed=0):
    """A random model, its weights rounded to bfloat16 so that every precision holds the same ones."""
    torch.set_num_threads(1)
    shape = DecoderShape(**PLAIN | changes)
    model = CausalDecoder(shape).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.25
        parameter.copy_(1 + drawn if parameter.dim() == 1 else drawn)
    frequencies = model.get_buffer("frequencies").clone()
    model.to(torch.bfloat16).to(dtype).to(device)
    model.register_buffer("frequencies", frequencies.to(device), persistent=False)
    return model, shape


def large(changes, dtype, device="cpu", targets="all-linear", compile="auto"):
    model, shape = decoder(changes, dtype, device)
    weights = {n: p.detach().double().cpu() for n, p in model.named_parameters()}
    layers = tuple(find_targets(model, targets))
    scored = ScoredModel(model, inject(model, layers), large="on", compile=compile)
    assert scored.large is not None
    return scored, layers, shape, weights


def table(lengths, vocabulary=40, seed=2):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)])
    starts = np.array([rng.integers(1, n + 1) for n in lengths], np.int32)
    return TokenRows(rng.integers(0, vocabulary, offsets[-1]).astype(np.int32), offsets, starts)


def rows_of(lengths, counts):
    tokens = table(lengths)
    cut = np.cumsum([0, *counts])
    return [[(tokens, i) for i in range(a, b)] for a, b in pairwise(cut)]


def draw(layers, adapters, seed=1):
    """Factors of all layers in float64, exact in float32."""
    rng = np.random.default_rng(seed)

    def one(*size):
        return torch.from_numpy(rng.normal(0, 0.3, size).astype(np.float32)).double()

    return [one(adapters, RANK, s.in_features) for s in layers], [
        one(adapters, s.out_features, RANK) for s in layers
    ]


def norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def turned(x, frequencies):
    angle = torch.arange(x.shape[1])[:, None].float() * frequencies
    cos, sin = (t.double() for t in (angle.cos(), angle.sin()))
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Reference:
    """One row through the model in float64, written from the equations: no batch, no fused attention, no adapters."""

    def __init__(self, weights, shape, layers, a, b):
        self.w, self.shape = weights, shape
        self.adapters = {s.name: (x, y) for s, x, y in zip(layers, a, b, strict=True)}

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)
        if name in self.adapters:
            a, b = self.adapters[name]
            y = y + SCALE * (x @ a.T) @ b.T
        return y

    def heads(self, name, x, normed):
        y = self.linear(name, x).view(len(x), -1, self.shape.head_dim).transpose(0, 1)
        if self.shape.qk_norm and normed:
            y = norm(y, self.w[f"{name.removesuffix('_proj')}_norm.weight"], self.shape.eps)
        return turned(y, self.shape.inverse_frequencies()) if normed else y

    def attention(self, at, x):
        share = self.shape.heads // self.shape.kv_heads
        q = self.heads(f"{at}.q_proj", x, True)
        k = self.heads(f"{at}.k_proj", x, True).repeat_interleave(share, 0)
        v = self.heads(f"{at}.v_proj", x, False).repeat_interleave(share, 0)
        scores = q @ k.transpose(1, 2) / self.shape.head_dim**0.5
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        out = torch.softmax(scores.masked_fill(later, -torch.inf), -1) @ v
        return self.linear(f"{at}.o_proj", out.transpose(0, 1).reshape(len(x), -1))

    def loss_sum(self, ids, first):
        """Summed loss of the tokens behind the first `first`, and how many they are."""
        eps = self.shape.eps
        x = self.w["model.embed_tokens.weight"][ids[:-1]]
        for i in range(self.shape.layers):
            at = f"model.layers.{i}"
            x = x + self.attention(f"{at}.self_attn", norm(x, self.w[f"{at}.input_layernorm.weight"], eps))
            y = norm(x, self.w[f"{at}.post_attention_layernorm.weight"], eps)
            gate, up = self.linear(f"{at}.mlp.gate_proj", y), self.linear(f"{at}.mlp.up_proj", y)
            x = x + self.linear(f"{at}.mlp.down_proj", gate * torch.sigmoid(gate) * up)
        x = norm(x, self.w["model.norm.weight"], eps)[first - 1 :]
        head = self.w["model.embed_tokens.weight" if self.shape.tied else "lm_head.weight"]
        return F.cross_entropy(x @ head.T, ids[first:], reduction="sum"), len(ids) - first


def expected(weights, shape, layers, a, b, rows):
    """Losses and gradients of all A and all B, device after device."""
    a, b = [x.clone().requires_grad_() for x in a], [x.clone().requires_grad_() for x in b]
    losses = []
    for k, own in enumerate(rows):
        model = Reference(weights, shape, layers, [x[k] for x in a], [x[k] for x in b])
        done = [
            model.loss_sum(torch.from_numpy(t.row(i).astype(np.int64)), int(t.answer_start[i]))
            for t, i in own
        ]
        losses.append(
            sum(x for x, _ in done) / sum(n for _, n in done) if own else torch.zeros((), dtype=F64)
        )
    torch.stack(losses).sum().backward()
    return torch.stack(losses).detach(), [x.grad for x in a], [x.grad for x in b]


def taken(scored, a, b, rows, *, b_only=False, dtype=F64):
    """The same from the large path."""
    device = scored.device
    a, b = ([x.to(device, dtype) for x in f] for f in (a, b))
    into_a, into_b = ([torch.full_like(x, torch.nan) for x in f] for f in (a, b))
    loss = step_gradients(scored.large, rows, a, b, SCALE, None if b_only else into_a, into_b)
    return loss.cpu(), [x.cpu() for x in into_a], [x.cpu() for x in into_b]


def agree(mine, true, rtol, atol):
    torch.testing.assert_close(mine[0].double(), true[0], rtol=rtol, atol=atol)
    for f in (1, 2):
        for found, wanted in zip(mine[f], true[f], strict=True):
            assert wanted.abs().max() > 1e-3
            torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=atol)
