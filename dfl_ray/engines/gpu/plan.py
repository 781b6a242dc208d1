"""How a batch lies in memory on the large path: each adapter's tokens together, all adapters padded to equally many.

Everything but attention works on tokens one after another, (adapters, tokens of an adapter, width), so that one
product with the frozen weights serves all and the low-rank parts are batched products over adapters. Rows stand end
to end inside their adapter: a short row costs what it holds, only an adapter with fewer tokens than the fullest is
padded. What follows attention in the last block is computed for the scored tokens alone, laid out the same way.
Attention needs rows as rows: rows of similar length form a bucket, padded on the right with copies of their own last
token, which plain causal attention never shows to a real one. Where all rows are equally long and all adapters hold
equally many, nothing is padded and nothing is moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.engines.batches import Batch

BUCKET_SLACK = 0.25
"""A bucket holds rows down to this share shorter than its longest; another bucket costs a dozen small kernels."""

SLOT_MULTIPLE = 8
"""Slots are padded to a multiple of this: matrix units want operands aligned to 16 bytes."""


@dataclass(frozen=True)
class Bucket:
    """Rows of similar length inside attention.

    Attributes:
        rows: R.
        length: Positions of each row, padding included.
        source: (R * length,) int64 token in each place, a padded place naming its row's last token; None where
            the bucket is all tokens in their order.
        padded: (R * length, 1, 1) bool, True at padding; None where there is none.
        target: (R * length,) int64 token in each place, a padded place naming the one behind the last token; None
            as for `source`.
    """

    rows: int
    length: int
    source: torch.Tensor | None
    padded: torch.Tensor | None
    target: torch.Tensor | None


@dataclass(frozen=True)
class Asked:
    """The tokens whose output is scored, adapter by adapter, padded to equally many.

    Attributes:
        source: (K * m,) int64 token in each place, 0 at padding.
        target: (K * m,) int64 token in each place, the one behind the last token at padding.
    """

    source: torch.Tensor
    target: torch.Tensor

    def pick(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The asked tokens' rows.

        Args:
            x: (K * n, width).
            out: (K * m, width) that takes them, or None.

        Returns:
            (K * m, width).
        """
        return torch.index_select(x, 0, self.source, out=out)

    def put_back(self, x: torch.Tensor, tokens: int) -> torch.Tensor:
        """The asked tokens' rows among all tokens, 0 for the others.

        Args:
            x: (K * m, width), what stands at padding is dropped.
            tokens: K * n.

        Returns:
            (K * n, width).
        """
        return x.new_zeros(tokens + 1, x.shape[1]).index_copy_(0, self.target, x)[:-1]


@dataclass(frozen=True)
class Plan:
    """A batch laid out for the large path.

    Attributes:
        adapters: K, those that hold rows.
        ids: (K * n,) int64 token ids, adapter by adapter, 0 at padding.
        cos: (K * n, 1, head_dim) float32 cosines of the rotary angles.
        sin: The sines.
        buckets: Rows inside attention.
        asked: Tokens whose output is scored.
        scored: (scored,) int64 place among the asked whose output predicts a scored token.
        targets: (scored,) int64 tokens to predict.
        owner: (scored,) int64 adapter of each scored token.
        counts: (K,) float64 number of scored tokens of each adapter.
    """

    adapters: int
    ids: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    buckets: tuple[Bucket, ...]
    asked: Asked
    scored: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    counts: torch.Tensor


def make_plan(
    batch: Batch, rows_of_adapter: Sequence[int], frequencies: torch.Tensor, device: torch.device
) -> Plan:
    """Lay out a batch whose rows are sorted by adapter.

    Args:
        batch: Training rows (`collate`), no mask.
        rows_of_adapter: Rows of each adapter, none 0.
        frequencies: (head_dim / 2,) rotary frequencies in radians per position.
        device: Where the plan is to live.

    Returns:
        The plan, its tensors on `device`.
    """
    lengths = (
        np.full(len(batch.input_ids), batch.input_ids.shape[1]) if batch.lengths is None else batch.lengths
    )
    adapter = np.repeat(np.arange(len(rows_of_adapter)), rows_of_adapter)
    start, per_adapter = _places(lengths, adapter, len(rows_of_adapter))
    total = per_adapter * len(rows_of_adapter)
    step = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = np.repeat(start, lengths) + step
    ids, position = np.zeros(total, np.int64), np.zeros(total, np.int64)
    position[place] = step
    ids[place] = batch.input_ids.numpy()[np.repeat(np.arange(len(lengths)), lengths), step]
    source = batch.source.numpy()
    owner = adapter[source[:, 0]]
    counts = np.bincount(owner, minlength=len(rows_of_adapter))
    asked, scored = _asked(start[source[:, 0]] + source[:, 1], owner, counts, (per_adapter, total), device)
    cos, sin = _angles(frequencies, torch.from_numpy(position).to(device))
    buckets = tuple(_buckets(lengths, start, total, device))
    return Plan(
        len(rows_of_adapter), torch.from_numpy(ids).to(device), cos, sin, buckets, asked, scored,
        batch.targets.to(device), torch.from_numpy(owner).to(device),
        torch.from_numpy(counts.astype(np.float64)).to(device),
    )  # fmt: skip


def _asked(
    tokens: np.ndarray, owner: np.ndarray, counts: np.ndarray, sizes: tuple[int, int], device: torch.device
) -> tuple[Asked, torch.Tensor]:
    """The scored tokens by adapter, and the place of each; `sizes` are an adapter's tokens and all."""
    per_adapter, total = sizes
    slots = int(counts[0]) if len(np.unique(counts)) == 1 else min(per_adapter, _slots(counts))
    by_adapter = np.argsort(owner, kind="stable")
    place = np.empty(len(tokens), np.int64)
    place[by_adapter] = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
    place += owner * slots
    source, target = np.zeros(slots * len(counts), np.int64), np.full(slots * len(counts), total)
    source[place] = target[place] = tokens
    return Asked(*(torch.from_numpy(x).to(device) for x in (source, target))), torch.from_numpy(place).to(
        device
    )


def _places(lengths: np.ndarray, adapter: np.ndarray, adapters: int) -> tuple[np.ndarray, int]:
    """First token of every row, and tokens of an adapter with padding."""
    sizes = np.bincount(adapter, weights=lengths, minlength=adapters).astype(np.int64)
    even = len(np.unique(sizes)) == 1 and len(np.unique(lengths)) == 1
    per_adapter = int(sizes.max()) if even else _slots(sizes)
    before = np.cumsum(lengths) - lengths
    return before - (np.cumsum(sizes) - sizes)[adapter] + adapter * per_adapter, per_adapter


def _slots(sizes: np.ndarray) -> int:
    """Slots of an adapter, of which the fullest has so many to fill."""
    return -(-int(sizes.max()) // SLOT_MULTIPLE) * SLOT_MULTIPLE


def _angles(frequencies: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    half = position.unsqueeze(1).float() * frequencies.to(position.device)
    angle = torch.cat((half, half), 1).unsqueeze(1)
    return angle.cos(), angle.sin()


def _buckets(lengths: np.ndarray, start: np.ndarray, total: int, device: torch.device) -> list[Bucket]:
    if len(np.unique(lengths)) == 1 and int(lengths.sum()) == total:
        return [Bucket(len(lengths), int(lengths[0]), None, None, None)]
    by_length = np.argsort(-lengths, kind="stable")
    out: list[Bucket] = []
    first = 0
    for i in range(1, len(by_length) + 1):
        longest = int(lengths[by_length[first]])
        if i == len(by_length) or lengths[by_length[i]] < (1 - BUCKET_SLACK) * longest:
            out.append(_bucket(lengths, start, by_length[first:i], total, device))
            first = i
    return out


def _bucket(
    lengths: np.ndarray, start: np.ndarray, members: np.ndarray, total: int, device: torch.device
) -> Bucket:
    step = np.arange(int(lengths[members].max()))
    last = (lengths[members] - 1)[:, None]
    source = start[members][:, None] + np.minimum(step, last)
    padded = step > last
    target = np.where(padded, total, source)
    flat = [torch.from_numpy(x.reshape(-1)).to(device) for x in (source, padded, target)]
    hidden = flat[1].view(-1, 1, 1) if bool(padded.any()) else None
    return Bucket(len(members), len(step), flat[0], hidden, flat[2])
