"""Causal attention over ragged rows in compiled loops, forward and backward; each row and head is done in the caches.

All arrays are laid out feature by feature, (features, tokens), so that a vector holds one feature of neighbouring
tokens. Forward and dQ take a block of queries into a vector's lanes and go through the keys; dK and dV take a block
of keys into the lanes and go through the queries. No lane ever needs another lane's sum, and no score goes to memory
beyond the block's own. Backward computes the weights anew from the scores, the largest score m and the sum l: p =
exp(s - m) / l, dp = dO V^T, ds = p (dp - sum dO O), dQ = ds K, dK = ds^T Q, dV = p^T dO. `width` is how many floats a
vector holds. Import only inside functions.

Source: Dao et al. 2022 (arXiv 2205.14135), appendix B (weights computed anew from m and l, and the product dO O in
place of the row sum of dP P). Departure: forward goes through the keys twice and keeps the scores of one block of
queries, in place of a running maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from dfl_ray.engines.cpu.vector_ir import FLOAT, INT32, INT64, Variable, VectorIR, compile_kernel

MASKED = -1e30


class _Heads:
    """One head's features in an array (heads * width, columns), `first` being the head's first row."""

    def __init__(self, vec: VectorIR, array: Any, head: Any, width: int, columns: Any) -> None:
        self.vec, self.array, self.width = vec, array, width
        b = vec.builder
        first = b.mul(b.mul(head, INT64(width)), columns)
        self.rows = [b.add(first, b.mul(INT64(d), columns)) for d in range(width)]

    def load(self, column: Any) -> list[Any]:
        """Every feature of the columns from `column` on."""
        return [self.vec.load(self.array, self.vec.builder.add(r, column)) for r in self.rows]

    def each(self, column: Any) -> list[Any]:
        """Every feature of one column, in all lanes."""
        return [self.vec.each(self.array, self.vec.builder.add(r, column)) for r in self.rows]

    def store(self, values: list[Any], column: Any, where: Any) -> None:
        """Put every feature of the columns from `column` on."""
        for row, value in zip(self.rows, values, strict=True):
            self.vec.store(value, self.array, self.vec.builder.add(row, column), where)


def _entry(vec: VectorIR, table: Any, block: Any, fields: int) -> list[Any]:
    """A line of a table of blocks."""
    b = vec.builder
    return [vec.scalar(table, b.add(b.mul(block, INT64(fields)), INT64(i))) for i in range(fields)]


def _real(vec: VectorIR, count: Any) -> Any:
    """The lanes below `count`."""
    b = vec.builder
    return vec.at_most(vec.count_from(INT64(0)), b.trunc(b.sub(count, INT64(1)), INT32))


def _add_to(variables: list[Variable], factor: Any, values: list[Any], vec: VectorIR) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.set(vec.fma(factor, value, variable.get()))


@cache
def forward_kernel(head_dim: int, width: int) -> Callable[..., None]:
    """Compile the forward pass O = softmax(Q K^T) V; it also writes largest score m and 1 / l of each query and head.

    The scale 1/sqrt(head_dim) must be in Q already. The keys a query sees are those up to its position in its row.

    Args:
        head_dim: Features of one head.
        width: Floats in a vector.

    Returns:
        The kernel. Its arrays are q, k, v, out, largest, inverse, scores (room for the longest row, a vector each),
        positions (int32) and blocks (int64: first query, queries, first key, keys). Its numbers are blocks, heads,
        heads a key head serves, query columns, key columns.
    """

    def write(vec: VectorIR, q: Any, k: Any, v: Any, out: Any, largest: Any, inverse: Any, scores: Any, positions: Any,
              blocks: Any, count: Any, heads: Any, share: Any, q_columns: Any, k_columns: Any) -> None:  # fmt: skip
        b = vec.builder
        with vec.loop(INT64(0), count) as block, vec.loop(INT64(0), heads) as head:
            first, queries, first_key, keys = _entry(vec, blocks, block, 4)
            mine = _Heads(vec, q, head, head_dim, q_columns).load(first)
            served = b.sdiv(head, share)
            their_k, their_v = (_Heads(vec, a, served, head_dim, k_columns) for a in (k, v))
            at = vec.load(positions, first, vec.whole)
            top = Variable(vec, vec.splat(MASKED))
            with vec.loop(INT64(0), keys) as j:
                s = vec.dot(mine, their_k.each(b.add(first_key, j)))
                s = b.select(vec.at_most(b.trunc(j, INT32), at), s, vec.splat(MASKED))
                vec.store(s, scores, b.mul(j, INT64(vec.width)))
                top.set(vec.largest(top.get(), s))
            total = Variable(vec, vec.splat(0.0))
            mixed = [Variable(vec, vec.splat(0.0)) for _ in range(head_dim)]
            with vec.loop(INT64(0), keys) as j:
                p = vec.exp(b.fsub(vec.load(scores, b.mul(j, INT64(vec.width))), top.get()))
                total.set(b.fadd(total.get(), p))
                _add_to(mixed, p, their_v.each(b.add(first_key, j)), vec)
            over = b.fdiv(vec.splat(1.0), total.get())
            real = _real(vec, queries)
            _Heads(vec, out, head, head_dim, q_columns).store(
                [b.fmul(m.get(), over) for m in mixed], first, real
            )
            here = b.add(b.mul(head, q_columns), first)
            vec.store(top.get(), largest, here, real)
            vec.store(over, inverse, here, real)

    return compile_kernel("attend", [*[FLOAT] * 7, INT32, INT64], 5, width, write)


@cache
def query_kernel(head_dim: int, width: int) -> Callable[..., None]:
    """Compile the gradient of the queries, dQ = ds K; it also writes sum(dO O) of each query and head.

    Args:
        head_dim: Features of one head.
        width: Floats in a vector.

    Returns:
        The kernel. Its arrays are q, k, v, out, dout, largest, inverse, dq, product (sum(dO O), for `key_kernel`),
        positions and blocks; the rest is as in `forward_kernel`.
    """

    def write(vec: VectorIR, q: Any, k: Any, v: Any, out: Any, dout: Any, largest: Any, inverse: Any, dq: Any,
              product: Any, positions: Any, blocks: Any, count: Any, heads: Any, share: Any, q_columns: Any,
              k_columns: Any) -> None:  # fmt: skip
        b = vec.builder
        with vec.loop(INT64(0), count) as block, vec.loop(INT64(0), heads) as head:
            first, queries, first_key, keys = _entry(vec, blocks, block, 4)
            mine, result, pulled = (
                _Heads(vec, a, head, head_dim, q_columns).load(first) for a in (q, out, dout)
            )
            served = b.sdiv(head, share)
            their_k, their_v = (_Heads(vec, a, served, head_dim, k_columns) for a in (k, v))
            at = vec.load(positions, first, vec.whole)
            here = b.add(b.mul(head, q_columns), first)
            top, over = vec.load(largest, here), vec.load(inverse, here)
            delta = vec.dot(pulled, result)
            found = [Variable(vec, vec.splat(0.0)) for _ in range(head_dim)]
            with vec.loop(INT64(0), keys) as j:
                column = b.add(first_key, j)
                key = their_k.each(column)
                p = b.fmul(vec.exp(b.fsub(vec.dot(mine, key), top)), over)
                p = b.select(vec.at_most(b.trunc(j, INT32), at), p, vec.splat(0.0))
                ds = b.fmul(p, b.fsub(vec.dot(pulled, their_v.each(column)), delta))
                _add_to(found, ds, key, vec)
            real = _real(vec, queries)
            _Heads(vec, dq, head, head_dim, q_columns).store([f.get() for f in found], first, real)
            vec.store(delta, product, here, real)

    return compile_kernel("pull_queries", [*[FLOAT] * 9, INT32, INT64], 5, width, write)


@cache
def key_kernel(head_dim: int, width: int) -> Callable[..., None]:
    """Compile the gradients of keys and values, dK = ds^T Q and dV = p^T dO, summed over the heads a key head serves.

    Args:
        head_dim: Features of one head.
        width: Floats in a vector.

    Returns:
        The kernel. Its arrays are q, k, v, dout, largest, inverse, product, dk, dv, positions and blocks (int64:
        first key, keys, place of the first key in its row, first query, query behind the last). Its numbers are
        blocks, key heads, heads a key head serves, query columns, key columns.
    """

    def write(vec: VectorIR, q: Any, k: Any, v: Any, dout: Any, largest: Any, inverse: Any, product: Any, dk: Any,
              dv: Any, positions: Any, blocks: Any, count: Any, kv_heads: Any, share: Any, q_columns: Any,
              k_columns: Any) -> None:  # fmt: skip
        b = vec.builder
        with vec.loop(INT64(0), count) as block, vec.loop(INT64(0), kv_heads) as own:
            first, keys, place, start, stop = _entry(vec, blocks, block, 5)
            key, value = (_Heads(vec, a, own, head_dim, k_columns).load(first) for a in (k, v))
            places = vec.count_from(place)
            to_k, to_v = ([Variable(vec, vec.splat(0.0)) for _ in range(head_dim)] for _ in range(2))
            with vec.loop(b.mul(own, share), b.mul(b.add(own, INT64(1)), share)) as head:
                their_q, their_do = (_Heads(vec, a, head, head_dim, q_columns) for a in (q, dout))
                with vec.loop(start, stop) as i:
                    here = b.add(b.mul(head, q_columns), i)
                    query, pulled = their_q.each(i), their_do.each(i)
                    s = b.fsub(vec.dot(query, key), vec.each(largest, here))
                    p = b.fmul(vec.exp(s), vec.each(inverse, here))
                    p = b.select(vec.at_most(places, vec.scalar(positions, i)), p, vec.splat(0.0))
                    _add_to(to_v, p, pulled, vec)
                    ds = b.fmul(p, b.fsub(vec.dot(pulled, value), vec.each(product, here)))
                    _add_to(to_k, ds, query, vec)
            real = _real(vec, keys)
            _Heads(vec, dk, own, head_dim, k_columns).store([x.get() for x in to_k], first, real)
            _Heads(vec, dv, own, head_dim, k_columns).store([x.get() for x in to_v], first, real)

    return compile_kernel("pull_keys", [*[FLOAT] * 9, INT32, INT64], 5, width, write)
