"""How a padded batch is laid out without its padding: tokens end to end by adapter, rows of similar length by bucket.

Everything but attention works on the tokens one after another, each adapter's in one contiguous range, and without
padding but where it makes small adapters equal and thus one batched product of many. Attention needs rows as rows:
rows of similar length form a bucket, and index tables made once a batch carry heads from token order into bucket
order and back. The last block is asked only at the positions whose output is scored; its keys and values come
from all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.engines.batches import Batch
from dfl_ray.engines.cpu.buckets import Bucket, BucketLayout, Turn, head_items
from dfl_ray.engines.cpu.linear import Groups
from dfl_ray.engines.cpu.rows import WIDEST_HEAD, RowLayout, lay_out_rows, steps
from dfl_ray.models.decoder import DecoderShape

EVEN_TOKENS = 512
"""Slots of up to so many tokens are padded to the same number, so that one batched product serves them all."""

EVEN_WASTE = 1.25
"""... unless padding would add more than this factor says."""

BUCKET_SLACK = 0.125
"""A bucket holds rows down to this share shorter than its longest: padding in attention costs quadratically,
another bucket costs a dozen calls."""

BUCKET_SCORES = 2**18
"""Most attention scores of one bucket: its few passes over them should stay in a core's cache."""


@dataclass(frozen=True)
class Stage:
    """One way to run a block: asked at all tokens, or only at some of them.

    Attributes:
        chosen: (queries,) int64 tokens asked, or None for all.
        groups: Slots over the asked tokens.
        layout: Rows inside attention.
    """

    chosen: torch.Tensor | None
    groups: Groups
    layout: BucketLayout | RowLayout


@dataclass(frozen=True)
class Plan:
    """A batch laid out for the merged decoder.

    Attributes:
        ids: (tokens,) int64 token ids, by adapter, then by row.
        adapters: S.
        full: How every block but the last runs.
        last: How the last block runs.
        scored: (scored,) int64 place of each of the batch's scored positions among the last block's queries.
    """

    ids: torch.Tensor
    adapters: int
    full: Stage
    last: Stage
    scored: torch.Tensor


@dataclass(frozen=True)
class _Span:
    """Where items lie when each adapter's stand together: `start` of every run of items, adapters' ranges, end."""

    start: np.ndarray
    groups: Groups
    total: int


@dataclass(frozen=True)
class _Rows:
    """Rows among the tokens: `length` and `adapter` by row, rows in `order` of adapters, places in `span` (by row)."""

    length: np.ndarray
    adapter: np.ndarray
    order: np.ndarray
    span: _Span
    batch: Batch
    angles: Turn

    def runs(self, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs of items, one a row, in the order in which they lie: compiled loops write past a run's end."""
        return starts[self.order], counts[self.order]


def make_plan(
    batch: Batch, adapter_of_row: np.ndarray, adapters: int, shape: DecoderShape, frequencies: torch.Tensor
) -> Plan:
    """Lay out a batch.

    Args:
        batch: Rows padded on the right; `lengths` says how much of each is real.
        adapter_of_row: (rows,) the adapter of each row.
        adapters: S.
        shape: The model.
        frequencies: Its rotary frequencies, (head_dim / 2,).

    Returns:
        The plan; rows take the compiled loops where they have no mask and no positions of their own and the heads are
        at most `WIDEST_HEAD` wide, and buckets elsewhere.
    """
    count, width = batch.input_ids.shape
    lengths = np.full(count, width) if batch.lengths is None else batch.lengths
    order = np.argsort(adapter_of_row, kind="stable")
    span = _span(lengths, adapter_of_row, order, adapters)
    longest = width if batch.positions is None else int(batch.positions.max()) + 1
    rows = _Rows(lengths, adapter_of_row, order, span, batch, _angles(frequencies, longest))
    step = steps(lengths)
    ids = torch.zeros(span.total, dtype=torch.int64)
    here = torch.from_numpy(np.repeat(span.start, lengths) + step)
    ids[here] = batch.input_ids.reshape(-1)[
        torch.from_numpy(np.repeat(np.arange(count) * width, lengths) + step)
    ]
    plain = batch.mask is None and batch.positions is None and shape.head_dim <= WIDEST_HEAD
    buckets = None if plain else _bucket_rows(lengths, shape.heads)
    last, scored = _last_stage(rows, buckets, shape, adapters)
    return Plan(ids, adapters, _full_stage(rows, buckets, shape), last, scored)


def _span(counts: np.ndarray, adapter_of: np.ndarray, order: np.ndarray, adapters: int) -> _Span:
    """Runs of items end to end by adapter; adapters of nearly equal size are padded to the same."""
    sizes = np.bincount(adapter_of, weights=counts, minlength=adapters).astype(np.int64)
    firsts = np.cumsum(sizes) - sizes
    inside = np.empty(len(counts), np.int64)
    inside[order] = np.cumsum(counts[order]) - counts[order]
    inside -= firsts[adapter_of]
    longest = int(sizes.max())
    if longest <= EVEN_TOKENS and longest * adapters <= EVEN_WASTE * sizes.sum():
        firsts, sizes = np.arange(adapters) * longest, np.full(adapters, longest)
    groups = tuple((s, int(a), int(a + n)) for s, (a, n) in enumerate(zip(firsts, sizes, strict=True)) if n)
    return _Span(inside + firsts[adapter_of], groups, int(firsts[-1] + sizes[-1]))


def _angles(frequencies: torch.Tensor, positions: int) -> Turn:
    half = torch.arange(positions).unsqueeze(1).float() * frequencies
    angle = torch.cat((half, half), 1)
    return angle.cos(), angle.sin()


def _bucket_rows(lengths: np.ndarray, heads: int) -> list[np.ndarray]:
    """Rows by length, cut where the next is too much shorter than the longest of its bucket, or it is full."""
    by_length = np.argsort(-lengths, kind="stable")
    buckets: list[np.ndarray] = []
    first = 0
    for i in range(1, len(by_length) + 1):
        longest = int(lengths[by_length[first]])
        full = i - first >= max(1, BUCKET_SCORES // (heads * longest**2))
        if i == len(by_length) or full or lengths[by_length[i]] < (1 - BUCKET_SLACK) * longest:
            buckets.append(by_length[first:i])
            first = i
    return buckets


def _full_stage(rows: _Rows, buckets: Sequence[np.ndarray] | None, shape: DecoderShape) -> Stage:
    """Asked at all tokens; without buckets in compiled loops."""
    return Stage(
        None, rows.span.groups, _whole_rows(rows) if buckets is None else _buckets(rows, buckets, shape)
    )


def _whole_rows(rows: _Rows) -> RowLayout:
    runs = rows.runs(rows.span.start, rows.length)
    return lay_out_rows(runs, runs, None, (rows.span.total, rows.span.total), rows.angles)


def _buckets(rows: _Rows, buckets: Sequence[np.ndarray], shape: DecoderShape) -> BucketLayout:
    tokens = [_padded(rows.span.start[b], rows.length[b], rows.span.total) for b in buckets]
    made: list[Bucket] = []
    start = 0
    for members, table in zip(buckets, tokens, strict=True):
        length = table.shape[1]
        turn = _turn(rows, members, np.arange(length))
        mask = _mask(rows.batch, members, length)
        made.append(Bucket(len(members), length, length, start, start, _scaled(turn), turn, mask))
        start += table.size * shape.heads
    query_index, query_inverse = head_items(tokens, shape.heads, shape.heads, 1, rows.span.total)
    key_index, key_inverse = head_items(tokens, shape.heads, shape.kv_heads, 2, rows.span.total)
    return BucketLayout(tuple(made), query_index, key_index, query_inverse, key_inverse)


def _last_stage(
    rows: _Rows, buckets: Sequence[np.ndarray] | None, shape: DecoderShape, adapters: int
) -> tuple[Stage, torch.Tensor]:
    """Asked at the scored positions; with the place of each of them among the stage's queries."""
    source = rows.batch.source.numpy()
    counts = np.bincount(source[:, 0], minlength=len(rows.length))
    span = _span(counts, rows.adapter, rows.order, adapters)
    by_row = np.argsort(source[:, 0], kind="stable")
    place = np.empty(len(source), np.int64)
    place[by_row] = np.repeat(span.start, counts) + steps(counts)
    position, chosen = np.zeros(span.total + 1, np.int64), np.zeros(span.total, np.int64)
    position[place] = source[:, 1]
    chosen[place] = rows.span.start[source[:, 0]] + source[:, 1]
    asked = _Asked(span, counts, position)
    if buckets is None:
        layout = lay_out_rows(
            rows.runs(span.start, counts), rows.runs(rows.span.start, rows.length), position[:-1],
            (span.total, rows.span.total), rows.angles,
        )  # fmt: skip
    else:
        layout = _asked_buckets(rows, asked, buckets, shape)
    return Stage(torch.from_numpy(chosen), span.groups, layout), torch.from_numpy(place)


@dataclass(frozen=True)
class _Asked:
    """The queries of the last block: where each row's lie, how many, and the place of each in its row."""

    span: _Span
    counts: np.ndarray
    position: np.ndarray


def _asked_buckets(
    rows: _Rows, asked: _Asked, buckets: Sequence[np.ndarray], shape: DecoderShape
) -> BucketLayout:
    made: list[Bucket] = []
    queries, keys = [], []
    start = key_start = 0
    for members in buckets:
        places = _padded(asked.span.start[members], asked.counts[members], asked.span.total)
        table = _padded(rows.span.start[members], rows.length[members], rows.span.total)
        made.append(_asked_bucket(rows, members, asked.position[places], table.shape[1], start, key_start))
        start, key_start = start + places.size * shape.heads, key_start + table.size * shape.heads
        queries.append(places)
        keys.append(table)
    query_index, query_inverse = head_items(queries, shape.heads, shape.heads, 1, asked.span.total)
    key_index, key_inverse = head_items(keys, shape.heads, shape.kv_heads, 2, rows.span.total)
    return BucketLayout(tuple(made), query_index, key_index, query_inverse, key_inverse)


def _asked_bucket(
    rows: _Rows, members: np.ndarray, at: np.ndarray, length: int, start: int, key_start: int
) -> Bucket:
    place = torch.from_numpy(at)
    if rows.batch.mask is None:
        later = torch.from_numpy(np.arange(length) > at[:, :, None])
        mask = torch.zeros(later.shape).masked_fill_(later, -torch.inf).unsqueeze(1)
    else:
        whole = rows.batch.mask[torch.from_numpy(members), 0, :, :length]
        mask = whole.gather(1, place.unsqueeze(2).expand(-1, -1, length)).unsqueeze(1)
    asked, keys = _turn(rows, members, at), _turn(rows, members, np.arange(length))
    return Bucket(len(members), at.shape[1], length, start, key_start, _scaled(asked), keys, mask)


def _padded(start: np.ndarray, length: np.ndarray, pad: int) -> np.ndarray:
    """(rows, longest) consecutive indices from each start, `pad` behind each length."""
    step = np.arange(max(1, int(length.max())))
    return np.where(step < length[:, None], start[:, None] + step, pad)


def _turn(rows: _Rows, members: np.ndarray, at: np.ndarray) -> Turn:
    """The angles of places `at`, (length,) for all members alike or (members, length)."""
    if rows.batch.positions is None and at.ndim == 1:
        return rows.angles[0][: len(at)], rows.angles[1][: len(at)]
    place = torch.from_numpy(np.broadcast_to(at, (len(members), at.shape[-1])).copy())
    if rows.batch.positions is not None:
        place = rows.batch.positions[torch.from_numpy(members)].gather(1, place)
    return rows.angles[0][place].unsqueeze(1), rows.angles[1][place].unsqueeze(1)


def _scaled(turn: Turn) -> Turn:
    scale = turn[0].shape[-1] ** -0.5
    return turn[0] * scale, turn[1] * scale


def _mask(batch: Batch, members: np.ndarray, length: int) -> torch.Tensor:
    if batch.mask is None:
        return torch.full((length, length), -torch.inf).triu_(1)
    return batch.mask[torch.from_numpy(members), :, :length, :length]
