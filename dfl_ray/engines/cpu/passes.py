"""The passes over memory between the products of a large model, one compiled loop each, in float32 or bfloat16.

RMSNorm and its gradient, the sum along the residual path with either, and the rotation of heads. They compute what the
functions of the same names in `engines.gpu.kernels` do, in float32, and round where those round; sums run over the
lanes of a vector and then across them, so that a row's result does not depend on the rows beside it.

Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4; Su et al. 2021 (arXiv 2104.09864).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dfl_ray.engines.cpu.activations import Empty, fresh
from dfl_ray.engines.cpu.arrays import address, element, lanes_dividing


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute RMSNorm over the last dimension, x / sqrt(mean(x^2) + eps) * weight.

    Args:
        x: (..., width) float32 or bfloat16 on the CPU.
        weight: (width,) of its type.
        eps: Added to the mean square, > 0.

    Returns:
        The normed input, and (..., 1) float32 1 / sqrt(mean(x^2) + eps).
    """
    x = x.contiguous()
    width = x.shape[-1]
    out, inverse = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    kernel = _norm(lanes_dividing(width), element(x), width, eps)
    kernel(*(address(t) for t in (x, weight, out, inverse)), inverse.numel())
    return out, inverse


def add_norm(
    x: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, eps: float, empty: Empty = fresh
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Add a change to the residual path and norm the sum.

    Args:
        x: (..., width), as for `norm`.
        change: Of its shape and type.
        weight: (width,) weight of the norm.
        eps: See `norm`.
        empty: Gives the memory of the sum.

    Returns:
        x + change, and the two results of `norm` of it.
    """
    x, change = x.contiguous(), change.contiguous()
    width = x.shape[-1]
    total, out = empty(x, *x.shape), torch.empty_like(x)
    inverse = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    kernel = _add_norm(lanes_dividing(width), element(x), width, eps)
    kernel(*(address(t) for t in (x, change, weight, total, out, inverse)), inverse.numel())
    return total, out, inverse


def renorm(x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute the norm's output once more, x * inverse * weight.

    Args:
        x: (..., width), the norm's input, contiguous.
        inverse: (..., 1) float32, the last result of `norm`.
        weight: (width,).

    Returns:
        (..., width), in the precision of x.
    """
    out, width = torch.empty_like(x), x.shape[-1]
    kernel = _renorm(lanes_dividing(width), element(x), width)
    kernel(*(address(t) for t in (x, inverse, weight, out)), inverse.numel())
    return out


def norm_backward_add(
    dout: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, beside: torch.Tensor
) -> torch.Tensor:
    """Compute the gradient of a norm's input plus the gradient that comes along the residual path.

    dx = beside + inverse (g - x inverse^2 mean(g x)) with g = dout * weight.

    Args:
        dout: (tokens, width), gradient of the norm's output.
        x: (tokens, width), the norm's input.
        inverse: (tokens, 1) float32, the last result of `norm`.
        weight: (width,).
        beside: (tokens, width), gradient of the norm's input along the residual path.

    Returns:
        (tokens, width).
    """
    arrays = [t.contiguous() for t in (dout, x, inverse, weight, beside)]
    out = torch.empty_like(arrays[0])
    width = out.shape[-1]
    kernel = _pull_norm(lanes_dividing(width), element(out), width)
    kernel(*(address(t) for t in (*arrays, out)), inverse.numel())
    return out


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, back: bool = False) -> torch.Tensor:
    """Turn pairs (i, i + head_dim/2) of each head by the angle of their token.

    Args:
        x: (tokens, heads, head_dim) float32 or bfloat16, contiguous.
        cos: (tokens, 1, head_dim) float32, the same for both halves of a head.
        sin: The same of the sines.
        back: Turn the other way, as the gradient does.

    Returns:
        (tokens, heads, head_dim).
    """
    tokens, heads, width = x.shape
    arrays = [t.contiguous() for t in (x, cos, sin)]  # named: a copy must live until the loop has read it
    out = x.new_empty(x.shape)
    kernel = _rotate(lanes_dividing(width // 2), element(x), width, back)
    kernel(*(address(t) for t in (*arrays, out)), tokens, heads)
    return out


def _sum_over(vec: Any, width: int, term: Callable[[Any], Any]) -> Any:
    """Sum of `term(feature)` over a row's vectors and their lanes, in every lane."""
    from dfl_ray.engines.cpu.vector_ir import INT64, Variable

    total = Variable(vec, vec.splat(0.0))
    with vec.loop(INT64(0), INT64(width // vec.width)) as number:
        total.set(vec.builder.fadd(total.get(), term(vec.builder.mul(number, INT64(vec.width)))))
    return vec.total(total.get())


def _write_norm(vec: Any, kind: Any, width: int, eps: float, row: Any, source: Any, arrays: Any) -> None:
    """Norm the row that begins at `row` of `source`; `arrays` are weight, out and inverse."""
    from dfl_ray.engines.cpu.vector_ir import INT64

    b, (weight, out, inverse) = vec.builder, arrays

    def square(feature: Any) -> Any:
        value = vec.load(source, b.add(row, feature))
        return b.fmul(value, value)

    mean = b.fmul(_sum_over(vec, width, square), vec.splat(1.0 / width))
    over = b.fdiv(vec.splat(1.0), vec.root(b.fadd(mean, vec.splat(eps))))
    token = b.sdiv(row, INT64(width))
    b.store(b.extract_element(over, INT64(0)), b.gep(inverse, [token]))
    _scale(vec, kind, width, row, source, over, weight, out)


def _scale(vec: Any, kind: Any, width: int, row: Any, source: Any, over: Any, weight: Any, out: Any) -> None:
    """Write weight * (x * over) for the row that begins at `row` of `source`."""
    from dfl_ray.engines.cpu.vector_ir import INT64

    b = vec.builder
    with vec.loop(INT64(0), INT64(width // vec.width)) as number:
        feature = b.mul(number, INT64(vec.width))
        at = b.add(row, feature)
        normed = vec.rounded(b.fmul(vec.load(source, at), over), kind)
        vec.store(b.fmul(vec.load(weight, feature), normed), out, at)


@cache
def _renorm(lanes: int, kind: Any, width: int) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import FLOAT, INT64, VectorIR, compile_kernel

    def write(vec: VectorIR, x: Any, inverse: Any, weight: Any, out: Any, tokens: Any) -> None:
        with vec.loop(INT64(0), tokens) as token:
            row = vec.builder.mul(token, INT64(width))
            _scale(vec, kind, width, row, x, vec.each(inverse, token), weight, out)

    return compile_kernel("renorm", [kind, FLOAT, kind, kind], 1, lanes, write)


@cache
def _norm(lanes: int, kind: Any, width: int, eps: float) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import FLOAT, INT64, VectorIR, compile_kernel

    def write(vec: VectorIR, x: Any, weight: Any, out: Any, inverse: Any, tokens: Any) -> None:
        with vec.loop(INT64(0), tokens) as token:
            row = vec.builder.mul(token, INT64(width))
            _write_norm(vec, kind, width, eps, row, x, (weight, out, inverse))

    return compile_kernel("norm", [kind, kind, kind, FLOAT], 1, lanes, write)


@cache
def _add_norm(lanes: int, kind: Any, width: int, eps: float) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import FLOAT, INT64, VectorIR, compile_kernel

    def write(vec: VectorIR, x: Any, change: Any, weight: Any, total: Any, out: Any, inverse: Any,
              tokens: Any) -> None:  # fmt: skip
        b = vec.builder
        with vec.loop(INT64(0), tokens) as token:
            row = b.mul(token, INT64(width))
            with vec.loop(INT64(0), INT64(width // vec.width)) as number:
                at = b.add(row, b.mul(number, INT64(vec.width)))
                vec.store(b.fadd(vec.load(x, at), vec.load(change, at)), total, at)
            _write_norm(vec, kind, width, eps, row, total, (weight, out, inverse))

    return compile_kernel("add_norm", [*[kind] * 5, FLOAT], 1, lanes, write)


@cache
def _pull_norm(lanes: int, kind: Any, width: int) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import FLOAT, INT64, VectorIR, compile_kernel

    def write(vec: VectorIR, dout: Any, x: Any, inverse: Any, weight: Any, beside: Any, out: Any,
              tokens: Any) -> None:  # fmt: skip
        b = vec.builder
        with vec.loop(INT64(0), tokens) as token:
            row = b.mul(token, INT64(width))

            def slope(feature: Any, row: Any = row) -> Any:
                return b.fmul(vec.load(dout, b.add(row, feature)), vec.load(weight, feature))

            def product(feature: Any, row: Any = row) -> Any:
                return b.fmul(slope(feature, row), vec.load(x, b.add(row, feature)))

            over = vec.each(inverse, token)
            mean = b.fmul(_sum_over(vec, width, product), vec.splat(1.0 / width))
            share = b.fmul(b.fmul(over, over), mean)
            with vec.loop(INT64(0), INT64(width // vec.width)) as number:
                feature = b.mul(number, INT64(vec.width))
                at = b.add(row, feature)
                pulled = b.fmul(over, b.fsub(slope(feature), b.fmul(vec.load(x, at), share)))
                vec.store(b.fadd(vec.load(beside, at), vec.rounded(pulled, kind)), out, at)

    return compile_kernel("pull_norm", [kind, kind, FLOAT, kind, kind, kind], 1, lanes, write)


@cache
def _rotate(lanes: int, kind: Any, width: int, back: bool) -> Callable[..., None]:
    from dfl_ray.engines.cpu.vector_ir import FLOAT, INT64, VectorIR, compile_kernel

    half = width // 2

    def write(vec: VectorIR, x: Any, cos: Any, sin: Any, out: Any, tokens: Any, heads: Any) -> None:
        b = vec.builder
        with (
            vec.loop(INT64(0), tokens) as token,
            vec.loop(INT64(0), heads) as head,
            vec.loop(INT64(0), INT64(half // vec.width)) as number,
        ):
            feature = b.mul(number, INT64(vec.width))
            angle = b.add(b.mul(token, INT64(width)), feature)
            c, s = vec.load(cos, angle), vec.load(sin, angle)
            s = b.fneg(s) if back else s
            first = b.add(b.mul(b.add(b.mul(token, heads), head), INT64(width)), feature)
            second = b.add(first, INT64(half))
            left, right = vec.load(x, first), vec.load(x, second)
            vec.store(b.fsub(b.fmul(left, c), b.fmul(right, s)), out, first)
            vec.store(b.fadd(b.fmul(right, c), b.fmul(left, s)), out, second)

    return compile_kernel("rotate", [kind, FLOAT, FLOAT, kind], 2, lanes, write)
