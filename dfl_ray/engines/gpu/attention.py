"""Causal attention over buckets of rows by torch's fused kernels, with its gradient asked for apart.

On a GPU the kernel (flash, cuDNN or plain, torch chooses) keeps what its own backward needs; a graph of this one
operation is kept a layer and differentiated when its turn comes. On a CPU nothing but the inputs is kept, and backward
is `engines.cpu.weights`: torch's takes 24 ms in bfloat16 for 8 rows of 80 tokens and 9 heads of 64, and 4 in float32.
Rows are padded on the right, so no mask is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from dfl_ray.engines.cpu.activations import Empty, fresh
from dfl_ray.engines.cpu.weights import pull_attention
from dfl_ray.engines.gpu.plan import Bucket


@dataclass(frozen=True)
class Attended:
    """One bucket's inputs and output, on a GPU with the graph between them.

    Attributes:
        inputs: Queries, keys and values, (rows * length, heads or kv_heads, head_dim).
        out: (rows, heads, length, head_dim) on a GPU; None on a CPU.
    """

    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    out: torch.Tensor | None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, buckets: Sequence[Bucket], empty: Empty = fresh
) -> tuple[torch.Tensor, tuple[Attended, ...]]:
    """Compute causal attention, softmax(Q K^T / sqrt(head_dim)) V, over each token and the earlier ones of its row.

    A key head serves heads / kv_heads query heads.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1; Ainslie et al. 2023 (arXiv 2305.13245) for shared key
    heads.

    Args:
        q: (tokens, heads, head_dim), rotated.
        k: (tokens, kv_heads, head_dim), rotated.
        v: (tokens, kv_heads, head_dim).
        buckets: Where the rows are.
        empty: Gives the memory of what is kept where rows are padded, and of the result.

    Returns:
        (tokens, heads * head_dim), 0 for tokens of no row, and what `attend_backward` needs.
    """
    found = [_run(bucket, empty, q, k, v) for bucket in buckets]
    kept = tuple(one for one, _ in found)
    if buckets[0].target is None:
        return found[0][1].transpose(1, 2).reshape(len(q), -1), kept
    flat = empty(q, len(q) + 1, q.shape[1], q.shape[2]).zero_()
    for bucket, (_, out) in zip(buckets, found, strict=True):
        flat.index_copy_(0, _target(bucket), out.transpose(1, 2).reshape(-1, *q.shape[1:]))
    return flat[:-1].flatten(1), kept


def _run(bucket: Bucket, empty: Empty, *heads: torch.Tensor) -> tuple[Attended, torch.Tensor]:
    """One bucket's attention, its graph recorded on a GPU whatever the mode outside; and its result without it."""
    on_gpu = heads[0].is_cuda
    source = bucket.source
    own = [
        t if source is None else torch.index_select(t, 0, source, out=empty(t, len(source), *t.shape[1:]))
        for t in heads
    ]
    q, k, v = (t.detach().requires_grad_(on_gpu) for t in own)
    with torch.set_grad_enabled(on_gpu):
        asked, keys, values = (_by_row(t, bucket).transpose(1, 2) for t in (q, k, v))
        grouped = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(asked, keys, values, is_causal=True, enable_gqa=grouped)
    return Attended((q, k, v), out if on_gpu else None), out.detach()


def _by_row(x: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """(rows, length, heads, head_dim) over the same memory."""
    return x.view(bucket.rows, bucket.length, *x.shape[1:])


def _target(bucket: Bucket) -> torch.Tensor:
    if bucket.target is None:
        raise ValueError("only a bucket alone may hold all tokens in their order")
    return bucket.target


def attend_backward(
    dheads: torch.Tensor, kept: Sequence[Attended], buckets: Sequence[Bucket]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the gradients of `attend` in q, k and v.

    Args:
        dheads: (tokens, heads * head_dim).
        kept: What `attend` gave.
        buckets: The same buckets.

    Returns:
        dq, dk and dv, each of its input's shape; 0 for tokens of no row.
    """
    heads = kept[0].inputs[0].shape[1]
    split = dheads.view(len(dheads), heads, -1)
    if buckets[0].source is None:
        return _differentiate(kept[0], split, buckets[0])
    into = [split.new_zeros(len(dheads) + 1, *t.shape[1:]) for t in kept[0].inputs]
    for bucket, one in zip(buckets, kept, strict=True):
        own = split.index_select(0, bucket.source)  # type: ignore[arg-type]
        if bucket.padded is not None:
            own.masked_fill_(bucket.padded, 0.0)
        for whole, gradient in zip(into, _differentiate(one, own, bucket), strict=True):
            whole.index_copy_(0, _target(bucket), gradient)
    dq, dk, dv = (t[:-1] for t in into)
    return dq, dk, dv


def _differentiate(
    one: Attended, dout: torch.Tensor, bucket: Bucket
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if one.out is not None:
        dq, dk, dv = torch.autograd.grad(one.out, one.inputs, _by_row(dout, bucket).transpose(1, 2))
        return dq, dk, dv
    found = pull_attention(*(_by_row(t, bucket) for t in (*one.inputs, dout)))
    dq, dk, dv = (t.flatten(0, 1) for t in found)
    return dq, dk, dv
