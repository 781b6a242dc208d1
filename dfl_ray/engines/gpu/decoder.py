"""A frozen Llama-family decoder with unmerged adapters: one training step, forward and backward written out.

What is kept for backward is what cannot be had cheaply again: of each block the inputs of its two norms, the heads,
what attention's kernel keeps, the gated layer's two halves and the thin products. Norms and the gate are computed
once more in backward. No gradient of a frozen weight is ever formed. Behind its attention the last block is computed
for the scored tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dfl_ray.engines.cpu.activations import ActivationMemory, Empty, fresh
from dfl_ray.engines.gpu.attention import Attended, attend, attend_backward
from dfl_ray.engines.gpu.head import PIECE_LOGITS, loss_and_slope
from dfl_ray.engines.gpu.kernels import Kernels, by_head
from dfl_ray.engines.gpu.linear import (
    Adapters,
    Gradients,
    Joined,
    Outputs,
    apply,
    cast_adapters,
    pull_back,
    put_a,
    put_b,
)
from dfl_ray.engines.gpu.plan import Plan
from dfl_ray.models.decoder import DecoderShape


@dataclass(frozen=True)
class Block:
    """One frozen block: layers that share an input are joined.

    Attributes:
        qkv: Query, key and value projections.
        o: Output projection of attention.
        gate_up: Both halves of the gated layer.
        down: Its output layer.
        norm_in: (d,) weight of the norm before attention.
        norm_out: (d,) weight of the norm before the gated layer.
        q_norm: (head_dim,) weight of the norm of each query head (Qwen3), or None.
        k_norm: The same of each key head.
    """

    qkv: Joined
    o: Joined
    gate_up: Joined
    down: Joined
    norm_in: torch.Tensor
    norm_out: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None


@dataclass(frozen=True)
class LargeDecoder:
    """A frozen decoder as the large path sees it.

    Attributes:
        shape: Its sizes.
        embedding: (vocabulary, d).
        head: (vocabulary, d), the embedding itself where tied.
        blocks: Its blocks.
        norm: (d,) weight of the final norm.
        frequencies: (head_dim / 2,) rotary frequencies.
        kernels: Compiled or plain passes.
        piece_logits: Most logits that exist at once.
        most_tokens: Tokens that go through the model together, whole adapters always; None for all of a step.
        activations: Memory of what a step keeps for backward, on a CPU; None takes it tensor by tensor.
    """

    shape: DecoderShape
    embedding: torch.Tensor
    head: torch.Tensor
    blocks: tuple[Block, ...]
    norm: torch.Tensor
    frequencies: torch.Tensor
    kernels: Kernels
    piece_logits: int = PIECE_LOGITS
    most_tokens: int | None = None
    activations: ActivationMemory | None = None

    @property
    def empty(self) -> Empty:
        """Gives the memory of what is kept for backward."""
        return self.activations.empty if self.activations else fresh


Stacks = Sequence[torch.Tensor]


@dataclass(frozen=True)
class _Thin:
    """The adapters of one block's four joined layers, and their thin products."""

    adapters: tuple[Adapters | None, ...]
    z: tuple[torch.Tensor | None, ...]


@dataclass(frozen=True)
class _Tape:
    """What one block's backward needs."""

    x: torch.Tensor
    inverse_in: torch.Tensor
    raw: Outputs | None
    attended: tuple[Attended, ...]
    heads: torch.Tensor
    middle: torch.Tensor
    inverse_out: torch.Tensor
    gate_up: Outputs
    thin: _Thin


def train_step(decoder: LargeDecoder, plan: Plan, a: Stacks, b: Stacks, into: Gradients) -> torch.Tensor:
    """Compute the mean token loss L_k of every adapter, and the gradients of sum_k L_k in the factors.

    The loss of a token is -log p(token | earlier tokens of its row), in nats.

    Args:
        decoder: The base.
        plan: The batch.
        a: One (K, r, d) factor a layer, master copies of the batch's adapters, frozen directions behind the trained.
        b: One (K, m, r) factor a layer.
        into: Takes the gradients.

    Returns:
        (K,) mean losses, float32 (float64 for a float64 model).
    """
    if decoder.activations is not None:
        decoder.activations.begin(len(plan.ids))
    with torch.no_grad():
        x, change, tapes = _forward(decoder, plan, a, b, into.scale)
        x = x if change is None else x + change
        chosen = x.index_select(0, plan.scored)
        hidden, inverse = decoder.kernels.norm(chosen, decoder.norm, decoder.shape.eps)
        weights = (1.0 / plan.counts)[plan.owner]
        losses, slope = loss_and_slope(
            hidden, decoder.head, plan.targets, weights, decoder.kernels, decoder.piece_logits
        )
        dchosen = decoder.kernels.norm_backward(slope, chosen, inverse, decoder.norm)
        # Every scored place is another one, so this is a copy and not a sum in any order.
        dx = torch.zeros_like(x).index_copy_(0, plan.scored, dchosen)
        for number in reversed(range(len(tapes))):
            dx = _backward_block(decoder, number, dx, tapes.pop(), plan, into)
        return _means(losses, plan)


def _means(losses: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Mean of each adapter's losses, summed in a fixed order and never across adapters."""
    adapters = torch.arange(plan.adapters, device=losses.device).unsqueeze(1)
    own = torch.where(plan.owner == adapters, losses, 0.0)
    return own.sum(1) / plan.counts.to(losses.dtype)


def _forward(
    decoder: LargeDecoder, plan: Plan, a: Stacks, b: Stacks, scale: float
) -> tuple[torch.Tensor, torch.Tensor | None, list[_Tape]]:
    """Last block's middle and what it adds to it, and a tape a block."""
    x, change = decoder.embedding[plan.ids], None
    tapes: list[_Tape] = []
    for number in range(len(decoder.blocks)):
        x, change, tape = _forward_block(decoder, number, x, change, plan, a, b, scale)
        tapes.append(tape)
    return x, change, tapes


def _forward_block(
    decoder: LargeDecoder, number: int, x: torch.Tensor, change: torch.Tensor | None, plan: Plan,
    a: Stacks, b: Stacks, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, _Tape]:  # fmt: skip
    block, kernels, eps, empty = decoder.blocks[number], decoder.kernels, decoder.shape.eps, decoder.empty
    joined = (block.qkv, block.o, block.gate_up, block.down)
    adapters = tuple(cast_adapters(j, a, b, scale) for j in joined)
    if change is None:
        normed, inverse_in = kernels.norm(x, block.norm_in, eps)
    else:
        x, normed, inverse_in = kernels.add_norm(x, change, block.norm_in, eps)
    qkv, z_qkv = apply(block.qkv, normed, adapters[0])
    raw = qkv if block.q_norm is not None else None
    q, k, v = kernels.split_heads(_norm_heads(decoder, block, qkv), plan.cos, plan.sin, *_heads(decoder))
    heads, attended = attend(q, k, v, plan.buckets, empty)
    del qkv, q, k, v, normed
    kept = x
    if number == len(decoder.blocks) - 1:
        heads = plan.asked.pick(heads, empty(heads, len(plan.asked.source), heads.shape[1]))
        kept = plan.asked.pick(x)
    (out,), z_o = apply(block.o, heads, adapters[1])
    middle, normed, inverse_out = kernels.add_norm(kept, out, block.norm_out, eps)
    gate_up, z_gate = apply(block.gate_up, normed, adapters[2], empty)
    (change,), z_down = apply(block.down, kernels.gated(gate_up), adapters[3])
    thin = _Thin(adapters, (z_qkv, z_o, z_gate, z_down))
    return middle, change, _Tape(x, inverse_in, raw, attended, heads, middle, inverse_out, gate_up, thin)


def _heads(decoder: LargeDecoder) -> tuple[int, int]:
    return decoder.shape.heads, decoder.shape.kv_heads


def _norm_heads(decoder: LargeDecoder, block: Block, qkv: Outputs) -> Outputs:
    """Queries and keys normed head by head where the model does so (Qwen3)."""
    if block.q_norm is None or block.k_norm is None:
        return qkv
    parts = by_head(qkv, *_heads(decoder))
    weights = (block.q_norm, block.k_norm)
    normed = [decoder.kernels.norm(p, w, decoder.shape.eps)[0] for p, w in zip(parts, weights, strict=False)]
    return _together([*normed, parts[2]], qkv)


def _together(parts: Sequence[torch.Tensor], like: Outputs) -> Outputs:
    """The inverse of `by_head`, one matrix or one each as `like` is."""
    flat = tuple(t.flatten(1) for t in parts)
    return flat if len(like) > 1 else (torch.cat(flat, 1),)


def _norm_heads_backward(decoder: LargeDecoder, block: Block, dqkv: Outputs, raw: Outputs | None) -> Outputs:
    if block.q_norm is None or block.k_norm is None or raw is None:
        return dqkv
    down, up = (by_head(t, *_heads(decoder)) for t in (dqkv, raw))
    for i, weight in enumerate((block.q_norm, block.k_norm)):
        _, inverse = decoder.kernels.norm(up[i], weight, decoder.shape.eps)
        down[i] = decoder.kernels.norm_backward(down[i], up[i], inverse, weight)
    return _together(down, dqkv)


def _backward_gated(
    decoder: LargeDecoder, block: Block, dout: torch.Tensor, tape: _Tape, into: Gradients
) -> torch.Tensor:
    """Gradient at the block's middle, residual path included."""
    kernels, thin = decoder.kernels, tape.thin
    put_b(block.down, (dout,), thin.z[3], thin.adapters[3], into)
    dactive, dz = pull_back(block.down, (dout,), thin.adapters[3])
    dgate_up, active = kernels.gated_backward(dactive, tape.gate_up, into.wants_a)
    if active is not None:
        put_a(block.down, active, dz, thin.adapters[3], into)
    del dactive, active
    put_b(block.gate_up, dgate_up, thin.z[2], thin.adapters[2], into)
    dnormed, dz = pull_back(block.gate_up, dgate_up, thin.adapters[2])
    del dgate_up
    if into.wants_a and dz is not None:
        put_a(
            block.gate_up,
            kernels.renorm(tape.middle, tape.inverse_out, block.norm_out),
            dz,
            thin.adapters[2],
            into,
        )
    return kernels.norm_backward_add(dnormed, tape.middle, tape.inverse_out, block.norm_out, dout)


def _backward_block(
    decoder: LargeDecoder, number: int, dout: torch.Tensor, tape: _Tape, plan: Plan, into: Gradients
) -> torch.Tensor:
    """Gradient at the block's input; for the first block, whose input is frozen, nothing that is used."""
    block, kernels, thin = decoder.blocks[number], decoder.kernels, tape.thin
    dmiddle = _backward_gated(decoder, block, dout, tape, into)
    put_b(block.o, (dmiddle,), thin.z[1], thin.adapters[1], into)
    dheads, dz = pull_back(block.o, (dmiddle,), thin.adapters[1])
    put_a(block.o, tape.heads, dz, thin.adapters[1], into)
    if dheads is None:
        raise ValueError("the gradient of attention's output is always needed")
    if number == len(decoder.blocks) - 1:
        dheads, dmiddle = (plan.asked.put_back(t, len(plan.ids)) for t in (dheads, dmiddle))
    slopes = attend_backward(dheads, tape.attended, plan.buckets)
    joined = kernels.join_heads(*slopes, plan.cos, plan.sin, len(block.qkv.weights))
    dqkv = _norm_heads_backward(decoder, block, joined, tape.raw)
    put_b(block.qkv, dqkv, thin.z[0], thin.adapters[0], into)
    first = number == 0
    dnormed, dz = pull_back(block.qkv, dqkv, thin.adapters[0], needed=not first)
    if into.wants_a and dz is not None:
        put_a(block.qkv, kernels.renorm(tape.x, tape.inverse_in, block.norm_in), dz, thin.adapters[0], into)
    if first:
        return dmiddle
    return kernels.norm_backward_add(dnormed, tape.x, tape.inverse_in, block.norm_in, dmiddle)
