"""The gradient of causal attention on a CPU: products of whole rows, and one compiled pass between them.

With S = q K^T / sqrt(head_dim), P = softmax(S) over the keys up to a query's own place, and dP = dO V^T: dS =
P (dP - rowsum(P dP)) / sqrt(head_dim), dQ = dS K, dK = dS^T Q, dV = P^T dO. The queries of all heads that share a key
head stand one under the other, so that dK and dV are summed over them by the product itself. S and dP are float32
(float64 for float64); P and dS are rounded to the inputs' precision, as torch's own fused kernel does.

Source: Dao et al. 2022 (arXiv 2205.14135), appendix B (weights computed anew in backward). Departure: a whole row's
scores of `MOST_QUERIES` queries are in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dfl_ray.engines.cpu.arrays import KINDS, address, element, lanes_dividing

MOST_QUERIES = 256
"""Queries of a row whose scores are in memory at once."""

KEY_MULTIPLE = 16
"""Keys are padded to a multiple of this, with zeros: a vector's lanes, and half a matrix unit's tile."""


def pull_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dout: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the gradients of causal attention's inputs.

    Args:
        q: (rows, length, heads, head_dim).
        k: (rows, length, kv_heads, head_dim); a key head serves heads / kv_heads query heads.
        v: Of k's shape.
        dout: Of q's shape: the gradient of the result.

    Returns:
        dq, dk and dv, of the shapes of q, k and v.
    """
    rows, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys, values = (_keys(t) for t in (k, v))
    wide_keys, wide_values = keys.to(exact), values.to(exact)
    dq = torch.empty_like(q)
    dk, dv = (torch.zeros_like(keys, dtype=exact) for _ in range(2))
    for first in range(0, length, MOST_QUERIES):
        part = slice(first, min(length, first + MOST_QUERIES))
        seen = min(keys.shape[1], -(-part.stop // KEY_MULTIPLE) * KEY_MULTIPLE)
        asked, pulled = (_queries(t[:, part], kv_heads) for t in (q, dout))
        scores = torch.bmm(asked.to(exact), wide_keys[:, :seen].transpose(1, 2))
        slopes = torch.bmm(pulled.to(exact), wide_values[:, :seen].transpose(1, 2))
        p, ds = _weights(scores, slopes, first, part.stop - first, head_dim**-0.5, q.dtype)
        dv[:, :seen] += torch.bmm(p.transpose(1, 2), pulled)
        dk[:, :seen] += torch.bmm(ds.transpose(1, 2), asked)
        found = torch.bmm(ds, keys[:, :seen]).view(rows, kv_heads, heads // kv_heads, -1, head_dim)
        dq[:, part] = found.flatten(1, 2).transpose(1, 2)
    backs = (
        t.view(rows, kv_heads, -1, head_dim)[:, :, :length].transpose(1, 2).to(q.dtype) for t in (dk, dv)
    )
    return dq, *backs  # type: ignore[return-value]


def _keys(x: torch.Tensor) -> torch.Tensor:
    """(rows * kv_heads, padded length, head_dim), zeros behind a row's end."""
    rows, length, heads, head_dim = x.shape
    out = x.new_zeros(rows, heads, -(-length // KEY_MULTIPLE) * KEY_MULTIPLE, head_dim)
    out[:, :, :length] = x.transpose(1, 2)
    return out.flatten(0, 1)


def _queries(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(rows * kv_heads, heads / kv_heads * length, head_dim): the heads of a key head one under the other."""
    rows, length, heads, head_dim = x.shape
    return x.transpose(1, 2).reshape(rows * kv_heads, heads // kv_heads * length, head_dim)


def _weights(
    scores: torch.Tensor, slopes: torch.Tensor, first: int, queries: int, scale: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """P and dS of some queries of each row, in `dtype`.

    Args:
        scores: (items, several times queries, keys) q K^T.
        slopes: dP, of the same shape.
        first: Place of the first query in its row; query i sees keys up to first + i.
        queries: Queries of an item before the next head's begin.
        scale: 1 / sqrt(head_dim).
        dtype: Precision of the results.
    """
    if dtype not in KINDS:
        return _plain_weights(scores, slopes, first, queries, scale)
    p, ds = (torch.empty(scores.shape, dtype=dtype) for _ in range(2))
    lines, keys = scores.shape[0] * scores.shape[1], scores.shape[2]
    kernel = _weights_kernel(lanes_dividing(KEY_MULTIPLE), element(p), scale)
    kernel(*(address(t) for t in (scores, slopes, p, ds)), lines, queries, first, keys)
    return p, ds


def _plain_weights(
    scores: torch.Tensor, slopes: torch.Tensor, first: int, queries: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    place = first + torch.arange(scores.shape[1]) % queries
    hidden = torch.arange(scores.shape[2]) > place.unsqueeze(1)
    p = torch.softmax((scores * scale).masked_fill(hidden, -torch.inf), -1)
    return p, scale * p * (slopes - (p * slopes).sum(-1, keepdim=True))


@cache
def _weights_kernel(lanes: int, kind: Any, scale: float) -> Callable[..., None]:
    """Compile the pass: scores and dP of a query come in, P and dS go out; scores' memory holds e^s in between."""
    from dfl_ray.engines.cpu.vector_ir import FLOAT, INT32, INT64, Variable, VectorIR, compile_kernel

    def write(vec: VectorIR, scores: Any, slopes: Any, p: Any, ds: Any, lines: Any, queries: Any, first: Any,
              keys: Any) -> None:  # fmt: skip
        b, step, zero = vec.builder, INT64(lanes), vec.splat(0.0)
        with vec.loop(INT64(0), lines) as line:
            last = b.add(first, b.srem(line, queries))
            seen = b.add(b.sdiv(last, step), INT64(1))
            row = b.mul(line, keys)
            top = Variable(vec, vec.splat(-1e30))

            def shown(number: Any, last: Any = last) -> Any:
                return vec.at_most(vec.count_from(b.mul(number, step)), b.trunc(last, INT32))

            with vec.loop(INT64(0), seen) as number:
                value = vec.load(scores, b.add(row, b.mul(number, step)))
                top.set(vec.largest(top.get(), b.select(shown(number), value, vec.splat(-1e30))))
            highest = vec.highest(top.get())
            total, weighted = (Variable(vec, zero) for _ in range(2))
            with vec.loop(INT64(0), seen) as number:
                at = b.add(row, b.mul(number, step))
                below = b.fmul(b.fsub(vec.load(scores, at), highest), vec.splat(scale))
                power = b.select(shown(number), vec.exp(below), zero)
                vec.store(power, scores, at)
                total.set(b.fadd(total.get(), power))
                weighted.set(vec.fma(power, vec.load(slopes, at), weighted.get()))
            over = b.fdiv(vec.splat(1.0), vec.total(total.get()))
            mean = b.fmul(vec.total(weighted.get()), over)
            with vec.loop(INT64(0), seen) as number:
                at = b.add(row, b.mul(number, step))
                share = b.fmul(vec.load(scores, at), over)
                vec.store(share, p, at)
                slope = b.fmul(b.fmul(share, vec.splat(scale)), b.fsub(vec.load(slopes, at), mean))
                vec.store(b.select(shown(number), slope, zero), ds, at)
            with vec.loop(seen, b.sdiv(keys, step)) as number:
                at = b.add(row, b.mul(number, step))
                vec.store(zero, p, at)
                vec.store(zero, ds, at)

    return compile_kernel("attention_weights", [FLOAT, FLOAT, kind, kind], 4, lanes, write)
