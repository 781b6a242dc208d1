"""The gated half of a block, silu(gate) * up, each way in one compiled pass over memory, in float32 or bfloat16.

silu(g) = g s(g) with s = 1 / (1 + e^-g); its derivative is s (1 + g (1 - s)). All is computed in float32.

Source: Shazeer 2020 (arXiv 2002.05202), the variant SwiGLU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dfl_ray.engines.cpu.arrays import address, element


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Compute silu(gate) * up.

    Args:
        gate: (tokens, m) float32 or bfloat16 on the CPU, a token's features side by side; tokens may lie apart.
        up: (tokens, m), lying as `gate` does.

    Returns:
        (tokens, m) of their type.
    """
    tokens, width = gate.shape
    out = gate.new_empty(tokens, width)
    kernel = _forward(_lanes(width), element(gate))
    kernel(address(gate), address(up), address(out), tokens, width, gate.stride(0))
    return out


def gated_backward(
    dout: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, dgate: torch.Tensor, dup: torch.Tensor
) -> None:
    """Compute the gradient of `gated`'s inputs.

    dgate = dout up s (1 + gate (1 - s)) and dup = dout gate s, with s = 1 / (1 + e^-gate).

    Args:
        dout: (tokens, m), contiguous: the gradient of `gated`'s result.
        gate: (tokens, m), as for `gated`.
        up: (tokens, m), lying as `gate` does.
        dgate: (tokens, m), lying as `gate` does: takes the first result.
        dup: The same for the second.
    """
    tokens, width = dout.shape
    kernel = _backward(_lanes(width), element(dout))
    kernel(*(address(t) for t in (dout, gate, up, dgate, dup)), tokens, width, gate.stride(0))


def compile_gate(width: int) -> None:
    """Compile the forward and the backward pass in float32 for a width, so that their first use need not.

    Args:
        width: Features m of the gated layer.
    """
    from dfl_ray.engines.cpu.vector_ir import FLOAT

    _forward(_lanes(width), FLOAT)
    _backward(_lanes(width), FLOAT)


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
def _forward(width_of_vector: int, kind: Any) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import VectorIR, compile_kernel

    def write(vec: VectorIR, gates: Any, ups: Any, out: Any, tokens: Any, width: Any, stride: Any) -> None:
        b = vec.builder

        def body(token: Any, feature: Any) -> None:
            at = b.add(b.mul(token, stride), feature)
            gate, up = vec.load(gates, at), vec.load(ups, at)
            value = b.fmul(b.fmul(gate, _sigmoid(vec, gate)), up)
            vec.store(value, out, b.add(b.mul(token, width), feature))

        _each_vector(vec, tokens, width, body)

    return compile_kernel("gate", [kind] * 3, 3, width_of_vector, write)


@cache
def _backward(width_of_vector: int, kind: Any) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import VectorIR, compile_kernel

    def write(vec: VectorIR, dout: Any, gates: Any, ups: Any, dgate: Any, dup: Any, tokens: Any, width: Any,
              stride: Any) -> None:  # fmt: skip
        b = vec.builder

        def body(token: Any, feature: Any) -> None:
            at = b.add(b.mul(token, stride), feature)
            gate, up = vec.load(gates, at), vec.load(ups, at)
            given, s = vec.load(dout, b.add(b.mul(token, width), feature)), _sigmoid(vec, gate)
            slope = b.fmul(s, vec.fma(gate, b.fsub(vec.splat(1.0), s), vec.splat(1.0)))
            vec.store(b.fmul(b.fmul(given, up), slope), dgate, at)
            vec.store(b.fmul(given, b.fmul(gate, s)), dup, at)

        _each_vector(vec, tokens, width, body)

    return compile_kernel("pull_gate", [kind] * 5, 3, width_of_vector, write)
