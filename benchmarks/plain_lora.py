"""A plain stacked LoRA trainer for Llama folders, apart from the package's own: an independent reference.

A Llama's forward pass written out, K adapters over one frozen base, AdamW in every adapter, a mixing matrix
after every round. One process, no radio, nothing from `dfl_ray.lora`: what both agree on is right twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy, pad, rms_norm, scaled_dot_product_attention, silu

from dfl_ray.tasks.data import Row

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
Factors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Budget:
    """Training settings of one comparison.

    Attributes:
        rank: r.
        alpha: Scale s = alpha / rank.
        learning_rate: AdamW's step size.
        warm_up_steps: Steps over which the step size rises linearly.
        local_steps: Steps of a round (H).
        rounds: Rounds, each ended by mixing.
        batch: Rows a step and device, shared out evenly among its tasks.
        devices: Number of devices, two tasks each.
        clip: Largest gradient norm of an adapter.
        weight_decay: AdamW's decoupled decay.
        decay: `constant` step size, or `cosine` down to a tenth.
    """

    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 1e-2
    warm_up_steps: int = 10
    local_steps: int = 10
    rounds: int = 15
    batch: int = 8
    devices: int = 10
    clip: float = 1.0
    weight_decay: float = 0.0
    decay: str = "constant"


@dataclass(frozen=True)
class Base:
    """A Llama's weights by short name, and its sizes."""

    weights: Factors
    layers: int
    heads: int
    epsilon: float
    theta: float
    vocabulary: dict[str, int] = field(repr=False)


def replace_weights(base: Base, weights: Factors) -> Base:
    """The same model with other weights."""
    return replace(base, weights=weights)


def load_base(folder: Path) -> Base:
    """Read a Llama folder without transformers: config, safetensors, word-level vocabulary."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    raw = load_file(folder / "model.safetensors")
    weights = {"embed": raw["model.embed_tokens.weight"], "norm": raw["model.norm.weight"]}
    weights["head"] = raw.get("lm_head.weight", weights["embed"])
    for layer in range(config["num_hidden_layers"]):
        root = f"model.layers.{layer}."
        for p in PROJECTIONS:
            block = "self_attn" if p in "qkvo" else "mlp"
            weights[f"{layer}.{p}"] = raw[f"{root}{block}.{p}_proj.weight"]
        weights[f"{layer}.n1"] = raw[root + "input_layernorm.weight"]
        weights[f"{layer}.n2"] = raw[root + "post_attention_layernorm.weight"]
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    theta = config["rope_parameters"]["rope_theta"]
    return Base(weights, config["num_hidden_layers"], config["num_attention_heads"], config["rms_norm_eps"],
                theta, vocabulary)  # fmt: skip


def forward(
    base: Base,
    tokens: torch.Tensor,
    a: Factors,
    b: Factors,
    scale: float,
    at: torch.Tensor | None = None,
    tap: Factors | None = None,
) -> torch.Tensor:
    """Logits of K stacked adapters over one base.

    Args:
        base: The frozen model.
        tokens: (K, rows, length) token ids, padded on the right.
        a: Layer -> (K, r, d), empty for the bare base.
        b: Layer -> (K, m, r).
        scale: alpha / r.
        at: (K, rows, places) positions whose logits are wanted, or None for all.
        tap: Filled with every layer's input x if given.
    """
    k, rows, length = tokens.shape
    w, heads = base.weights, base.heads

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        if tap is not None:
            tap[name] = x
        y = x @ w[name].T
        if name not in a:
            return y
        return y + scale * torch.bmm(torch.bmm(x, a[name].transpose(1, 2)), b[name].transpose(1, 2))

    x = w["embed"][tokens].view(k, rows * length, -1)
    width = x.shape[-1]
    cos, sin = _rotary(length, width // heads, base.theta)
    for layer in range(base.layers):
        h = rms_norm(x, (width,), w[f"{layer}.n1"], base.epsilon)
        q, key, v = (
            linear(h, f"{layer}.{p}").view(k * rows, length, heads, -1).transpose(1, 2)
            for p in ("q", "k", "v")
        )
        o = scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(key, cos, sin), v, is_causal=True)
        x = x + linear(o.transpose(1, 2).reshape(k, rows * length, -1), f"{layer}.o")
        h = rms_norm(x, (width,), w[f"{layer}.n2"], base.epsilon)
        x = x + linear(silu(linear(h, f"{layer}.gate")) * linear(h, f"{layer}.up"), f"{layer}.down")
    x = x.view(k, rows, length, width)
    if at is not None:
        x = torch.gather(x, 2, at.unsqueeze(-1).expand(-1, -1, -1, width))
    return rms_norm(x, (width,), w["norm"], base.epsilon) @ w["head"].T


def _rotary(length: int, width: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    frequency = theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


@dataclass(frozen=True)
class Encoded:
    """Rows as arrays: tokens (n, length) padded with 0, position of the prompt's last token (n,)."""

    tokens: torch.Tensor
    last: torch.Tensor

    def take(self, rows: torch.Tensor) -> Encoded:
        """The rows of the given indices."""
        return Encoded(self.tokens[rows], self.last[rows])


def encode(base: Base, rows: Sequence[Row]) -> Encoded:
    """`<s> prompt answer </s>`, one token a word."""
    v = base.vocabulary
    lines = [[v["<s>"], *(v[t] for t in row.prompt.split()), v[row.answer], v["</s>"]] for row in rows]
    tokens = torch.zeros(len(lines), max(map(len, lines)), dtype=torch.long)
    for i, line in enumerate(lines):
        tokens[i, : len(line)] = torch.tensor(line)
    return Encoded(tokens, torch.tensor([len(line) - 3 for line in lines]))


def losses(base: Base, data: Encoded, a: Factors, b: Factors, scale: float) -> torch.Tensor:
    """Mean loss over answer and end token of each of the K stacked adapters: (K,); data is (K, rows, …)."""
    at = torch.stack((data.last, data.last + 1), -1)
    logits = forward(base, data.tokens, a, b, scale, at)
    target = torch.gather(data.tokens, 2, at + 1)
    return (
        cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view(len(target), -1).mean(1)
    )


@torch.no_grad()
def accuracy(base: Base, data: Encoded, a: Factors, b: Factors, scale: float) -> float:
    """Share of rows whose answer and end token are both the argmax, for one adapter (K = 1)."""
    return float(correct(base, data, a, b, scale).float().mean())


@torch.no_grad()
def correct(base: Base, data: Encoded, a: Factors, b: Factors, scale: float) -> torch.Tensor:
    """Per row, whether greedy decoding gives the answer and the end token; (rows,)."""
    at = torch.stack((data.last, data.last + 1), -1)[None]
    guess = forward(base, data.tokens[None], a, b, scale, at).argmax(-1)
    return (guess == torch.gather(data.tokens[None], 2, at + 1)).all(-1)[0]


def frozen_a(base: Base, tasks: int, rank: int, seed: int) -> Factors:
    """Layer -> (tasks, r, d): consecutive rows of one orthogonal matrix a layer, times 1/sqrt(3)."""
    out: Factors = {}
    for index, name in enumerate(adapted(base)):
        d = base.weights[name].shape[1]
        rng = np.random.default_rng([seed, index])
        q, upper = np.linalg.qr(rng.normal(size=(d, d)))
        q = q * np.sign(np.diag(upper))
        out[name] = torch.tensor(
            q[: tasks * rank].reshape(tasks, rank, d) / np.sqrt(3.0), dtype=torch.float32
        )
    return out


def adapted(base: Base) -> list[str]:
    """Names of the adapted layers: every linear one but embeddings and head."""
    return [f"{layer}.{p}" for layer in range(base.layers) for p in PROJECTIONS]


def zeros_b(base: Base, k: int, rank: int) -> Factors:
    """Layer -> (k, m, r) of zeros."""
    return {name: torch.zeros(k, base.weights[name].shape[0], rank) for name in adapted(base)}


def holders(devices: int, tasks: int, seed: int) -> list[tuple[int, int]]:
    """Two different tasks for every device, each task held about equally often."""
    rng = np.random.default_rng([seed, 99])
    while True:
        deck = np.concatenate([rng.permutation(tasks) for _ in range(-(-2 * devices // tasks))])[
            : 2 * devices
        ]
        if all(x != y for x, y in deck.reshape(devices, 2)):
            return [(int(x), int(y)) for x, y in deck.reshape(devices, 2)]


def ring(n: int, reach: int = 2) -> torch.Tensor:
    """Metropolis-Hastings weights of a ring with `reach` neighbours on each side; (n, n)."""
    w = torch.zeros(n, n)
    for i in range(n):
        for step in range(1, reach + 1):
            w[i, (i + step) % n] = w[i, (i - step) % n] = 1.0 / (2 * reach + 1)
    return w + torch.diag(1.0 - w.sum(1))


def train(
    base: Base,
    shards: Sequence[Encoded],
    owner: Sequence[int],
    mix: torch.Tensor,
    a: Factors,
    b: Factors,
    budget: Budget,
    seed: int,
    train_a: bool,
) -> tuple[Factors, Factors, float]:
    """Local AdamW and mixing.

    Args:
        base: The frozen model.
        shards: Rows of every (device, task) holding.
        owner: Index of the adapter each holding trains; holdings of one adapter join their batches.
        mix: (K, K) weights applied to the adapters after each round.
        a: Layer -> (K, r, d).
        b: Layer -> (K, m, r).
        budget: Steps and rates.
        seed: Of the batches.
        train_a: True to train A too.

    Returns:
        Final A and B and the seconds a step took.
    """
    scale, rng, share = budget.alpha / budget.rank, np.random.default_rng([seed, 7]), budget.batch // 2
    trained = [*b.values(), *(a.values() if train_a else ())]
    for tensor in trained:
        tensor.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=budget.learning_rate, weight_decay=budget.weight_decay)
    start, total = time.perf_counter(), budget.rounds * budget.local_steps
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * rate_factor(step, total, budget)
        picks = [s.take(torch.from_numpy(rng.integers(len(s.last), size=share))) for s in shards]
        loss = losses(base, _stack(picks, owner), a, b, scale).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _clip(trained, budget.clip)
        optimizer.step()
        if (step + 1) % budget.local_steps == 0:
            for tensor in trained:
                tensor.data = (mix @ tensor.data.flatten(1)).view_as(tensor)
    for tensor in trained:
        tensor.requires_grad_(False)
    return a, b, (time.perf_counter() - start) / max(total, 1)


def rate_factor(step: int, total: int, budget: Budget) -> float:
    """Linear warm-up, then constant or a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / max(budget.warm_up_steps, 1))
    if budget.decay == "constant":
        return warm
    return warm * (0.1 + 0.9 * 0.5 * (1.0 + np.cos(np.pi * step / total)))


def _stack(picks: Sequence[Encoded], owner: Sequence[int]) -> Encoded:
    length = max(p.tokens.shape[1] for p in picks)
    tokens: list[list[torch.Tensor]] = [[] for _ in range(max(owner) + 1)]
    last: list[list[torch.Tensor]] = [[] for _ in tokens]
    for pick, k in zip(picks, owner, strict=True):
        tokens[k].append(pad(pick.tokens, (0, length - pick.tokens.shape[1])))
        last[k].append(pick.last)
    return Encoded(torch.stack([torch.cat(t) for t in tokens]), torch.stack([torch.cat(t) for t in last]))


def _clip(tensors: Sequence[torch.Tensor], limit: float) -> None:
    """Clip each adapter's gradient norm on its own."""
    square = sum(t.grad.flatten(1).square().sum(1) for t in tensors if t.grad is not None)
    factor = (limit / (torch.as_tensor(square).sqrt() + 1e-6)).clamp(max=1.0)
    for t in tensors:
        if t.grad is not None:
            t.grad.mul_(factor.view(-1, 1, 1))
