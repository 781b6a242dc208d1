"""The Llama-family decoder with merged adapters, forward and backward written out for one CPU thread.

Small models on a CPU spend their time in passes over memory and in calls, not in arithmetic. So: no padding
outside attention, one product a layer and adapter (`merged.linear`), no autograd graph over the frozen parts, and the
last block only at the scored positions. The results are those of `dfl_ray.lora.inject` up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dfl_ray.engines.cpu.gate import gated, gated_backward
from dfl_ray.engines.cpu.linear import Factors, Input, Joined, apply_merged, pull_back, weight_gradient
from dfl_ray.engines.cpu.plan import Plan, Stage
from dfl_ray.models.decoder import DecoderShape


@dataclass(frozen=True)
class BlockWeights:
    """One frozen block: layers that share an input are joined.

    Attributes:
        q: Query projection, (heads * head_dim, d).
        kv: Key and value projections, (2 * kv_heads * head_dim, d).
        o: Output projection, (d, heads * head_dim).
        gate_up: Both halves of the gated layer, (2 * intermediate, d).
        down: Its output layer, (d, intermediate).
        norm_in: (d,) weight of the norm before attention.
        norm_out: (d,) weight of the norm before the gated layer.
    """

    q: Joined
    kv: Joined
    o: Joined
    gate_up: Joined
    down: Joined
    norm_in: torch.Tensor
    norm_out: torch.Tensor

    @property
    def joined(self) -> tuple[Joined, ...]:
        """All linear layers."""
        return (self.q, self.kv, self.o, self.gate_up, self.down)


@dataclass(frozen=True)
class MergedDecoder:
    """A frozen decoder as the merged path sees it.

    Attributes:
        shape: Its sizes.
        embedding: (vocabulary, d).
        blocks: Its blocks.
        frequencies: (head_dim / 2,) rotary frequencies.
    """

    shape: DecoderShape
    embedding: torch.Tensor
    blocks: tuple[BlockWeights, ...]
    frequencies: torch.Tensor

    @property
    def merged_values(self) -> int:
        """Number of weights in one adapter's merged copy."""
        return sum(j.size for b in self.blocks for j in b.joined)

    def hidden(self, plan: Plan, factors: Factors) -> torch.Tensor:
        """Compute the output of the last block, before the final norm, at the batch's scored positions.

        Differentiable in the factors.

        Args:
            plan: The batch.
            factors: The adapters.

        Returns:
            (scored, d).
        """
        out: torch.Tensor = _Blocks.apply(self, plan, factors.scale, len(factors.a), *factors.a, *factors.b)  # type: ignore[assignment]
        return out.index_select(0, plan.scored)


@dataclass(frozen=True)
class _Norm:
    """x / sqrt(mean x^2 + eps) * weight with what backward needs."""

    x: torch.Tensor
    inverse: torch.Tensor
    weight: torch.Tensor
    out: torch.Tensor

    @classmethod
    def apply(cls, x: torch.Tensor, weight: torch.Tensor, eps: float) -> _Norm:
        inverse = (
            torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        )
        return cls(x, inverse, weight, (x * inverse).mul_(weight))

    def backward_(self, dout: torch.Tensor) -> torch.Tensor:
        """Dx = inverse (g - x inverse^2 mean(g x)) with g = dout * weight; overwrites `dout`."""
        g = dout.mul_(self.weight)
        mean = (g * self.x).sum(-1, keepdim=True)
        mean.mul_(self.inverse.square()).div_(-self.x.shape[-1])
        return g.addcmul_(self.x, mean).mul_(self.inverse)


@dataclass(frozen=True)
class _Tape:
    """What one block's backward needs."""

    stage: Stage
    merged: tuple[torch.Tensor, ...]
    norm_in: _Norm
    asked: torch.Tensor
    attended: Any
    heads: torch.Tensor
    norm_out: _Norm
    gate_up: torch.Tensor
    active: torch.Tensor


def _forward_block(
    x: torch.Tensor, block: BlockWeights, stage: Stage, tokens: Stage, factors: Factors, shape: DecoderShape
) -> tuple[torch.Tensor, _Tape]:
    merged = tuple(j.merge(factors) for j in block.joined)
    norm_in = _Norm.apply(x, block.norm_in, shape.eps)
    asked = norm_in.out if stage.chosen is None else norm_in.out.index_select(0, stage.chosen)
    queries = Input(asked, merged[0], block.q.bias(), stage.groups)
    keys = Input(norm_in.out, merged[1], block.kv.bias(), tokens.groups)
    heads, attended = stage.layout.attend(queries, keys, shape)
    kept = x if stage.chosen is None else x.index_select(0, stage.chosen)
    middle = apply_merged(heads, merged[2], block.o.bias(), stage.groups).add_(kept)
    norm_out = _Norm.apply(middle, block.norm_out, shape.eps)
    gate_up = apply_merged(norm_out.out, merged[3], block.gate_up.bias(), stage.groups)
    active = gated(*gate_up.chunk(2, 1))
    out = apply_merged(active, merged[4], block.down.bias(), stage.groups).add_(middle)
    return out, _Tape(stage, merged, norm_in, asked, attended, heads, norm_out, gate_up, active)


class _Gradients:
    """Collects the factors' gradients block by block."""

    def __init__(self, factors: Factors, wanted: Sequence[bool], adapters: int) -> None:
        self.factors = factors
        self.wanted = wanted
        self.adapters = adapters
        self.found: list[torch.Tensor | None] = [None] * len(wanted)

    def add(self, joined: Joined, dy: torch.Tensor, x: torch.Tensor, stage: Stage) -> None:
        """The gradients of the adapters of one joined layer from its output's gradient and its input."""
        layers = len(self.factors.b)
        indices = [p.index for p in joined.parts if p.index is not None]
        if any(self.wanted[i] or self.wanted[layers + i] for i in indices):
            whole = weight_gradient(dy, x, self.adapters, stage.groups)
            joined.add_gradients(whole, self.factors, self.wanted, self.found)


def _backward_gated(
    dout: torch.Tensor, block: BlockWeights, tape: _Tape, gradients: _Gradients
) -> torch.Tensor:
    """Gradient at the block's middle, residual path included."""
    groups = tape.stage.groups
    gradients.add(block.down, dout, tape.active, tape.stage)
    dgate_up = torch.empty_like(tape.gate_up)
    dactive = pull_back(dout, tape.merged[4], groups)
    gated_backward(dactive, *tape.gate_up.chunk(2, 1), *dgate_up.chunk(2, 1))
    gradients.add(block.gate_up, dgate_up, tape.norm_out.out, tape.stage)
    return tape.norm_out.backward_(pull_back(dgate_up, tape.merged[3], groups)).add_(dout)


def _backward_block(
    dout: torch.Tensor, block: BlockWeights, tape: _Tape, tokens: Stage, gradients: _Gradients,
    shape: DecoderShape, first: bool,
) -> torch.Tensor:  # fmt: skip
    """Gradient at the block's input; for the first block, whose input is frozen, nothing that is used."""
    stage = tape.stage
    middle = _backward_gated(dout, block, tape, gradients)
    gradients.add(block.o, middle, tape.heads, stage)
    dq, dkv = stage.layout.pull(Input(middle, tape.merged[2], None, stage.groups), tape.attended, shape)
    gradients.add(block.q, dq, tape.asked, stage)
    gradients.add(block.kv, dkv, tape.norm_in.out, tokens)
    if first:
        return middle
    dx = pull_back(dkv, tape.merged[1], tokens.groups)
    if stage.chosen is None:
        return tape.norm_in.backward_(pull_back(dq, tape.merged[0], stage.groups, dx)).add_(middle)
    dx.index_add_(0, stage.chosen, pull_back(dq, tape.merged[0], stage.groups))
    return tape.norm_in.backward_(dx).index_add_(0, stage.chosen, middle)


class _Blocks(torch.autograd.Function):
    """All blocks as one differentiable operation."""

    @staticmethod
    def forward(
        ctx: Any, decoder: MergedDecoder, plan: Plan, scale: float, layers: int, *stacks: torch.Tensor
    ) -> torch.Tensor:
        factors = Factors(stacks[:layers], stacks[layers:], scale)
        wanted = ctx.needs_input_grad[4:]
        x = decoder.embedding[plan.ids]
        tapes: list[_Tape] = []
        for number, block in enumerate(decoder.blocks):
            stage = plan.last if number == len(decoder.blocks) - 1 else plan.full
            x, tape = _forward_block(x, block, stage, plan.full, factors, decoder.shape)
            if any(wanted):
                tapes.append(tape)
        ctx.kept = (decoder, plan, factors, wanted, tapes)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        decoder, plan, factors, wanted, tapes = ctx.kept
        gradients = _Gradients(factors, wanted, plan.adapters)
        dx = grads[0].contiguous()
        for number in reversed(range(len(decoder.blocks))):
            block, tape = decoder.blocks[number], tapes.pop()
            dx = _backward_block(dx, block, tape, plan.full, gradients, decoder.shape, first=number == 0)
        return (None, None, None, None, *gradients.found)
