"""The gated half of a block, silu(gate) * up, each way in one compiled pass over memory.

silu(g) = g s(g) with s = 1 / (1 + e^-g); its derivative is s (1 + g (1 - s)).

Source: Shazeer 2020 (arXiv 2002.05202), the variant SwiGLU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    """Compute silu(gate) * up.

    Args:
        gate_up: (tokens, 2 m) float32, contiguous and on the CPU: gate, then up.

    Returns:
        (tokens, m) float32.
    """
    tokens, both = gate_up.shape
    out = gate_up.new_empty(tokens, both // 2)
    _forward(_lanes(both // 2))(gate_up.data_ptr(), out.data_ptr(), tokens, both // 2)
    return out


def gated_backward(dout: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of `gated`'s input.

    dgate = dout up s (1 + gate (1 - s)) and dup = dout gate s, with s = 1 / (1 + e^-gate).

    Args:
        dout: (tokens, m) float32, contiguous: the gradient of `gated`'s result.
        gate_up: (tokens, 2 m) float32, contiguous: `gated`'s input.

    Returns:
        (tokens, 2 m) float32: dgate, then dup.
    """
    out = torch.empty_like(gate_up)
    tokens, width = dout.shape
    _backward(_lanes(width))(dout.data_ptr(), gate_up.data_ptr(), out.data_ptr(), tokens, width)
    return out


def compile_gate(width: int) -> None:
    """Compile the forward and the backward pass for a width, so that their first use need not.

    Args:
        width: Features m of the gated layer.
    """
    _forward(_lanes(width))
    _backward(_lanes(width))


def _lanes(width: int) -> int:
    """A vector is no wider than a token's features."""
    from dfl_ray.engines.cpu import vector_ir

    return min(vector_ir.width(), 1 << (width.bit_length() - 1))


def _sigmoid(vec: Any, x: Any) -> Any:
    """From the side on which e^x does not overflow."""
    b = vec.builder
    e = vec.exp(b.fneg(vec.size(x)))
    over = b.fdiv(vec.splat(1.0), b.fadd(vec.splat(1.0), e))
    return b.select(b.fcmp_ordered(">", x, vec.splat(0.0)), over, b.fmul(e, over))


def _each_vector(vec: Any, tokens: Any, width: Any, body: Callable[[Any, Any], None]) -> None:
    """Go through all tokens' features; `body` is given token and feature. The last vector of a token overlaps."""
    from dfl_ray.engines.cpu.vector_ir import INT64

    b, step = vec.builder, INT64(vec.width)
    vectors = b.sdiv(b.add(width, b.sub(step, INT64(1))), step)
    with vec.loop(INT64(0), tokens) as token, vec.loop(INT64(0), vectors) as number:
        feature, last = b.mul(number, step), b.sub(width, step)
        body(token, b.select(b.icmp_signed("<", feature, last), feature, last))


@cache
def _forward(width_of_vector: int) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import FLOAT, VectorIR, compile_kernel

    def write(vec: VectorIR, gate_up: Any, out: Any, tokens: Any, width: Any) -> None:
        b = vec.builder

        def body(token: Any, feature: Any) -> None:
            at = b.add(b.mul(token, b.add(width, width)), feature)
            gate, up = vec.load(gate_up, at), vec.load(gate_up, b.add(at, width))
            value = b.fmul(b.fmul(gate, _sigmoid(vec, gate)), up)
            vec.store(value, out, b.add(b.mul(token, width), feature))

        _each_vector(vec, tokens, width, body)

    return compile_kernel("gate", [FLOAT] * 2, 2, width_of_vector, write)


@cache
def _backward(width_of_vector: int) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import FLOAT, VectorIR, compile_kernel

    def write(vec: VectorIR, dout: Any, gate_up: Any, into: Any, tokens: Any, width: Any) -> None:
        b = vec.builder

        def body(token: Any, feature: Any) -> None:
            at = b.add(b.mul(token, b.add(width, width)), feature)
            gate, up = vec.load(gate_up, at), vec.load(gate_up, b.add(at, width))
            given, s = vec.load(dout, b.add(b.mul(token, width), feature)), _sigmoid(vec, gate)
            slope = b.fmul(s, vec.fma(gate, b.fsub(vec.splat(1.0), s), vec.splat(1.0)))
            vec.store(b.fmul(b.fmul(given, up), slope), into, at)
            vec.store(b.fmul(given, b.fmul(gate, s)), into, b.add(at, width))

        _each_vector(vec, tokens, width, body)

    return compile_kernel("pull_gate", [FLOAT] * 3, 2, width_of_vector, write)
