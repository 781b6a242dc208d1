"""Attention over buckets of rows, forward and backward written out in batched products; takes any mask.

Rows of similar length form a bucket, and index tables made once a batch carry heads from token order into bucket
order and back.

Scores are scale q k^T with the scale already in the queries' rotation, plus an additive mask. Backward is the
textbook one: dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dP P)), dQ = dS K, dK = dS^T Q, then the rotation
turned back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from dfl_ray.engines.cpu.linear import Input, apply_merged, pull_back
from dfl_ray.models.decoder import DecoderShape

Turn = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines."""

LEAST_PART, MOST_PARTS = 16, 4
"""Causal attention is cut into at most so many parts of at least so many queries."""

FEW_KEYS = 16
"""Below so many keys the softmax is written out."""

NARROW_HEAD = 16
"""Up to this width halves are swapped by a product: slicing so few numbers at a time is slower."""


@dataclass(frozen=True)
class Bucket:
    """Rows of similar length inside attention.

    Attributes:
        rows: R.
        queries: Query positions of each row, padding included.
        keys: Key positions of each row, padding included.
        start: First head item of the bucket's queries in bucket order, counted in (row, head, query).
        key_start: The same of its keys and values.
        query_turn: Cosines and sines of the queries' angles times 1/sqrt(head_dim), (queries, head_dim) or
            (R, 1, queries, head_dim).
        key_turn: Cosines and sines of the keys' angles.
        mask: Additive mask that broadcasts to (R, heads, queries, keys).
    """

    rows: int
    queries: int
    keys: int
    start: int
    key_start: int
    query_turn: Turn
    key_turn: Turn
    mask: torch.Tensor


@dataclass(frozen=True)
class BucketLayout:
    """A stage's rows inside attention, by bucket.

    Attributes:
        buckets: Rows inside attention.
        query_index: Head items from query order (the item behind the last is zero) into bucket order.
        key_index: The same for keys and values, a key's head repeated for every query head it serves.
        query_inverse: Head items from bucket order back into query order.
        key_inverse: The same for keys and values, (share, tokens, 2, kv_heads) flat with share = heads / kv_heads.
    """

    buckets: tuple[Bucket, ...]
    query_index: torch.Tensor
    key_index: torch.Tensor
    query_inverse: torch.Tensor
    key_inverse: torch.Tensor

    @property
    def bytes(self) -> int:
        """Bytes that its index tables and masks hold."""
        tables = (self.query_index, self.key_index, self.query_inverse, self.key_inverse)
        return sum(t.numel() * t.element_size() for t in (*tables, *(b.mask for b in self.buckets)))

    def attend(self, asked: Input, seen: Input, shape: DecoderShape) -> tuple[torch.Tensor, Attended]:
        """Project to queries, keys and values, and attend.

        Args:
            asked: Makes the queries.
            seen: Makes keys, then values.
            shape: The model.

        Returns:
            (queries, heads * head_dim) and what backward needs.
        """
        q = apply_merged(asked.x, asked.weight, asked.bias, asked.groups, spare=1)
        kv = apply_merged(seen.x, seen.weight, seen.bias, seen.groups, spare=1)
        return attend(q, kv, self, shape.heads, swap_matrix(shape.head_dim))

    def pull(self, dy: Input, saved: Attended, shape: DecoderShape) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the gradients of queries, keys and values.

        Args:
            dy: Gradient of what follows the heads, with the weight that the heads went through.
            saved: What `attend` kept.
            shape: The model.

        Returns:
            dq (queries, heads * head_dim) and dkv (tokens, 2 * kv_heads * head_dim).
        """
        dheads = dy.x.new_zeros(len(dy.x) + 1, dy.weight.shape[2])
        dheads[:-1] = pull_back(dy.x, dy.weight, dy.groups)
        return attend_backward(dheads, saved, self, shape.heads, shape.kv_heads, swap_matrix(shape.head_dim))


def swap_matrix(head_dim: int) -> torch.Tensor:
    """Make the matrix P with x P = (-second half, first half) of x.

    Args:
        head_dim: Features of one head, even.

    Returns:
        (head_dim, head_dim) float32.
    """
    out = torch.zeros(head_dim, head_dim)
    first = torch.arange(head_dim // 2)
    out[first + head_dim // 2, first], out[first, first + head_dim // 2] = -1.0, 1.0
    return out


def _rotate_(x: torch.Tensor, rows: int, turn: Turn, swap: torch.Tensor, *, back: bool = False) -> None:
    """Turn x (rows * heads, length, head_dim) in place; `back` is the gradient's way."""
    swapped = _swapped(x, swap)
    shape = (rows, -1, *x.shape[1:])
    x.view(shape).mul_(turn[0]).addcmul_(swapped.view(shape), turn[1], value=-1.0 if back else 1.0)


def _swapped(x: torch.Tensor, swap: torch.Tensor) -> torch.Tensor:
    width = x.shape[-1]
    if width <= NARROW_HEAD:
        return torch.mm(x.view(-1, width), swap)
    out = torch.empty_like(x)
    torch.neg(x[..., width // 2 :], out=out[..., : width // 2])
    out[..., width // 2 :] = x[..., : width // 2]
    return out


def _pieces(bucket: Bucket) -> list[tuple[int, int, int]]:
    """(first query, query behind the last, keys seen) of the parts a bucket is done in, the last one seeing all.

    Plain causal attention needs no scores of later keys: in n parts, a share (n + 1) / 2n of them is computed.
    """
    parts = min(MOST_PARTS, bucket.keys // LEAST_PART) if bucket.mask.dim() == 2 else 1
    if parts <= 1:
        return [(0, bucket.queries, bucket.keys)]
    cuts = [bucket.keys * i // parts for i in range(parts + 1)]
    return [(a, b, b) for a, b in pairwise(cuts)]


@dataclass(frozen=True)
class Attended:
    """What backward needs, in bucket order.

    Attributes:
        queries: (head items, head_dim), rotated and times 1/sqrt(head_dim).
        keys: (head items, head_dim), of each bucket the rotated keys and then the values.
        weights: For each bucket the attention weights of its parts, (rows * heads, queries of the part, keys seen).
    """

    queries: torch.Tensor
    keys: torch.Tensor
    weights: tuple[list[torch.Tensor], ...]


def attend(
    q: torch.Tensor, kv: torch.Tensor, layout: BucketLayout, heads: int, swap: torch.Tensor
) -> tuple[torch.Tensor, Attended]:
    """Compute attention of the asked tokens, softmax(Q K^T + mask) V row by row, after rotating queries and keys.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1, with the scale 1/sqrt(head_dim) in the queries'
    rotation.

    Args:
        q: (queries + 1, heads * head_dim), the last row zero.
        kv: (tokens + 1, 2 * kv_heads * head_dim), keys then values, the last row zero.
        layout: The rows.
        heads: Query heads.
        swap: `swap_matrix(head_dim)`.

    Returns:
        (queries, heads * head_dim) and what backward needs.
    """
    width = len(swap)
    queries = q.view(-1, width).index_select(0, layout.query_index)
    keys = kv.view(-1, width).index_select(0, layout.key_index)
    out = _with_zero(queries)
    weights: list[list[torch.Tensor]] = []
    for bucket in layout.buckets:
        bq, (bk, bv) = _queries(queries, bucket, heads), _keys(keys, bucket, heads)
        _rotate_(bq, bucket.rows, bucket.query_turn, swap)
        _rotate_(bk, bucket.rows, bucket.key_turn, swap)
        bo, kept = _queries(out, bucket, heads), []
        for first, stop, seen in _pieces(bucket):
            p = _weights(bq[:, first:stop], bk[:, :seen], bucket, heads)
            bo[:, first:stop] = torch.bmm(p, bv[:, :seen])
            kept.append(p)
        weights.append(kept)
    flat = out.index_select(0, layout.query_inverse).view(len(q) - 1, -1)
    return flat, Attended(queries, keys, tuple(weights))


def _weights(q: torch.Tensor, k: torch.Tensor, bucket: Bucket, heads: int) -> torch.Tensor:
    if bucket.mask.dim() == 2:
        mask = bucket.mask[k.shape[1] - q.shape[1] : k.shape[1], : k.shape[1]]
        scores = torch.baddbmm(mask, q, k.transpose(1, 2))
    else:
        scores = torch.bmm(q, k.transpose(1, 2))
        scores.view(bucket.rows, heads, *scores.shape[1:]).add_(bucket.mask)
    return _softmax_(scores)


def _softmax_(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over keys, written out for few keys: torch's own is many times slower below a vector's width."""
    if scores.shape[-1] >= FEW_KEYS:
        return torch.softmax(scores, -1)
    scores -= scores.amax(-1, keepdim=True)
    scores.exp_()
    return scores.div_(scores.sum(-1, keepdim=True))


def _softmax_backward_(dp: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    if p.shape[-1] >= FEW_KEYS:
        return torch._softmax_backward_data(dp, p, -1, p.dtype)
    return dp.sub_((dp * p).sum(-1, keepdim=True)).mul_(p)


def attend_backward(
    dout: torch.Tensor, saved: Attended, layout: BucketLayout, heads: int, kv_heads: int, swap: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of `attend`.

    Args:
        dout: (queries + 1, heads * head_dim), the last row zero.
        saved: What `attend` kept; its attention weights are overwritten.
        layout: The rows.
        heads: Query heads.
        kv_heads: Key and value heads.
        swap: `swap_matrix(head_dim)`.

    Returns:
        dq (queries, heads * head_dim) and dkv (tokens, 2 * kv_heads * head_dim).
    """
    width = len(swap)
    padded = dout.view(-1, width).index_select(0, layout.query_index)
    dq, dkv = _with_zero(saved.queries), _with_zero(saved.keys)
    for bucket, weights in zip(layout.buckets, saved.weights, strict=True):
        do, bq = _queries(padded, bucket, heads), _queries(saved.queries, bucket, heads)
        bk, bv = _keys(saved.keys, bucket, heads)
        (dk, dv), bdq = _keys(dkv, bucket, heads), _queries(dq, bucket, heads)
        for (first, stop, seen), p in reversed(list(zip(_pieces(bucket), weights, strict=True))):
            part = do[:, first:stop]
            dp = torch.bmm(part, bv[:, :seen].transpose(1, 2))
            ds = _softmax_backward_(dp, p)
            bdq[:, first:stop] = torch.bmm(ds, bk[:, :seen])
            _collect(dv, p, part, seen)
            _collect(dk, ds, bq[:, first:stop], seen)
        _rotate_(bdq, bucket.rows, bucket.query_turn, swap, back=True)
        _rotate_(dk, bucket.rows, bucket.key_turn, swap, back=True)
    flat_q = dq.index_select(0, layout.query_inverse).view(len(dout) - 1, -1)
    flat_kv = dkv.index_select(0, layout.key_inverse)
    if heads != kv_heads:
        flat_kv = flat_kv.view(heads // kv_heads, -1).sum(0)
    return flat_q, flat_kv.view(-1, 2 * kv_heads * width)


def _collect(into: torch.Tensor, weights: torch.Tensor, values: torch.Tensor, seen: int) -> None:
    """Add weights^T values to the keys seen; the part that sees all comes first and needs no zeros before it."""
    if seen == into.shape[1]:
        torch.bmm(weights.transpose(1, 2), values, out=into)
    else:
        into[:, :seen].add_(torch.bmm(weights.transpose(1, 2), values))


def _with_zero(like: torch.Tensor) -> torch.Tensor:
    """Room for as many items and a last one of zeros, which stands for tokens in no bucket."""
    out = like.new_empty(len(like) + 1, like.shape[1])
    out[-1].zero_()
    return out


def _queries(flat: torch.Tensor, bucket: Bucket, heads: int) -> torch.Tensor:
    """The bucket's (rows * heads, queries, head_dim)."""
    count = bucket.rows * heads * bucket.queries
    return flat[bucket.start : bucket.start + count].view(bucket.rows * heads, bucket.queries, -1)


def _keys(flat: torch.Tensor, bucket: Bucket, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The bucket's keys and values, each (rows * heads, keys, head_dim)."""
    count = bucket.rows * heads * bucket.keys
    both = flat[2 * bucket.key_start : 2 * (bucket.key_start + count)]
    pair = both.view(2, bucket.rows * heads, bucket.keys, -1)
    return pair[0], pair[1]


def head_items(
    tables: Sequence[np.ndarray], heads: int, own: int, parts: int, items: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Index tables between token order and bucket order, in units of one head of one token.

    Token order is (token, part, own head); bucket order is, bucket after bucket, (part, row, head, place). With
    fewer own heads than heads each is read by heads / own of them, and the way back lists them all.

    Args:
        tables: For each bucket (rows, places) tokens, `items` for padding.
        heads: Query heads.
        own: Heads that exist in token order.
        parts: 1 for queries, 2 for keys and values side by side.
        items: Number of tokens.

    Returns:
        The way there, and the way back as (heads / own, items, parts, own), flat; for a token in no table it
        names the item behind the last.
    """
    share = heads // own
    head = np.arange(heads) // share
    back = np.full((items + 1, parts, heads), parts * heads * sum(t.size for t in tables), np.int64)
    there: list[np.ndarray] = []
    start = 0
    for table in tables:
        rows, places = table.shape
        part = np.arange(parts)[:, None, None, None] * own
        there.append((table[None, :, None, :] * (parts * own) + part + head[:, None]).reshape(-1))
        size = parts * rows * heads * places
        local = np.arange(start, start + size).reshape(parts, rows, heads, places)
        back[table] = local.transpose(1, 3, 0, 2)
        start += size
    by_share = back[:items].reshape(items, parts, own, share).transpose(3, 0, 1, 2)
    return torch.from_numpy(np.concatenate(there)), torch.from_numpy(by_share.reshape(-1))
