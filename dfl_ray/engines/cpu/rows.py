"""Causal attention row by row in compiled loops: no padding, no copies into heads, no scores in memory.

Queries, keys and values are made feature by feature, (features, tokens), with a vector's width of spare columns
behind the last token, since a vector may read past a row's end. `kernels` has the loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dfl_ray.engines.cpu.linear import Input, to_features
from dfl_ray.models.decoder import DecoderShape

WIDEST_HEAD = 32
"""Wider heads are left to batched products, which are good at them; a vector for each feature would not fit."""

Turn = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines by feature, (head_dim / 2, columns)."""


@dataclass(frozen=True)
class Attended:
    """What backward needs; the columns are tokens with the spare ones behind them.

    Attributes:
        q: (heads * head_dim, query columns), rotated and times 1/sqrt(head_dim).
        k: (kv_heads * head_dim, key columns), rotated.
        kv: (2 * kv_heads * head_dim, key columns): keys before their rotation, then values.
        out: (heads * head_dim, query columns), the result.
        largest: (heads, query columns), largest score m of each softmax.
        inverse: (heads, query columns), 1 / l with l the sum of exp(score - m).
    """

    q: torch.Tensor
    k: torch.Tensor
    kv: torch.Tensor
    out: torch.Tensor
    largest: torch.Tensor
    inverse: torch.Tensor


@dataclass(frozen=True)
class RowLayout:
    """A stage's rows inside attention, in blocks of a vector's width.

    Attributes:
        query_blocks: (blocks, 4) int64: first query, queries, first key of the row, keys they see at most.
        key_blocks: (blocks, 5) int64: first key, keys, place of the first in its row, first query that may see them,
            query behind the last.
        positions: (query columns,) int32 place of each query in its row.
        query_turn: Rotation of the queries times 1/sqrt(head_dim).
        key_turn: Rotation of the keys.
        spare: Spare columns, a vector's width.
        longest: Keys of the longest row.
    """

    query_blocks: np.ndarray
    key_blocks: np.ndarray
    positions: torch.Tensor
    query_turn: Turn
    key_turn: Turn
    spare: int
    longest: int

    @property
    def bytes(self) -> int:
        """Bytes that its tables hold."""
        tensors = (self.positions, *self.query_turn, *self.key_turn)
        return (
            sum(t.numel() * t.element_size() for t in tensors)
            + self.query_blocks.nbytes
            + self.key_blocks.nbytes
        )

    def attend(self, asked: Input, seen: Input, shape: DecoderShape) -> tuple[torch.Tensor, Attended]:
        """Project to queries, keys and values, and attend.

        Args:
            asked: Makes the queries.
            seen: Makes keys, then values.
            shape: The model.

        Returns:
            (queries, heads * head_dim) and what backward needs.
        """
        from dfl_ray.engines.cpu.kernels import forward_kernel

        q = _turned(to_features(asked, spare=self.spare), self.query_turn, shape.head_dim)
        kv = to_features(seen, spare=self.spare)
        k = _turned(kv[: len(kv) // 2], self.key_turn, shape.head_dim)
        out = torch.zeros_like(q)
        largest, inverse = q.new_zeros(2, shape.heads, q.shape[1]).unbind(0)
        scores = q.new_empty(self.longest, self.spare)
        forward_kernel(shape.head_dim, self.spare)(
            *_addresses(q, k, kv[len(k) :], out, largest, inverse, scores, self.positions, self.query_blocks),
            len(self.query_blocks), shape.heads, shape.heads // shape.kv_heads, q.shape[1], k.shape[1],
        )  # fmt: skip
        return out[:, : len(asked.x)].t(), Attended(q, k, kv, out, largest, inverse)

    def pull(self, dy: Input, saved: Attended, shape: DecoderShape) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of queries, keys and values.

        Args:
            dy: Gradient of what follows the heads, with the weight that the heads went through.
            saved: What `attend` kept.
            shape: The model.

        Returns:
            dq (queries, heads * head_dim) and dkv (tokens, 2 * kv_heads * head_dim).
        """
        from dfl_ray.engines.cpu.kernels import key_kernel, query_kernel

        turned_weight = Input(dy.x, dy.weight.transpose(1, 2), None, dy.groups)
        dout = to_features(turned_weight, spare=self.spare)
        q, k, v = saved.q, saved.k, saved.kv[len(saved.k) :]
        dq, dkv, product = torch.zeros_like(q), torch.zeros_like(saved.kv), torch.zeros_like(saved.largest)
        sizes = (shape.heads // shape.kv_heads, q.shape[1], k.shape[1])
        query_kernel(shape.head_dim, self.spare)(
            *_addresses(q, k, v, saved.out, dout, saved.largest, saved.inverse, dq, product, self.positions,
                        self.query_blocks),
            len(self.query_blocks), shape.heads, *sizes,
        )  # fmt: skip
        key_kernel(shape.head_dim, self.spare)(
            *_addresses(q, k, v, dout, saved.largest, saved.inverse, product, dkv, dkv[len(k) :], self.positions,
                        self.key_blocks),
            len(self.key_blocks), shape.kv_heads, *sizes,
        )  # fmt: skip
        dkv[: len(k)] = _turned(dkv[: len(k)], self.key_turn, shape.head_dim, back=True)
        dq = _turned(dq, self.query_turn, shape.head_dim, back=True)
        return dq[:, : len(dy.x)].t(), dkv[:, : k.shape[1] - self.spare].t()


def compile_attention(head_dim: int) -> None:
    """Compile the loops for one width of heads, so that their first use need not.

    Args:
        head_dim: Features of one head.
    """
    from dfl_ray.engines.cpu.kernels import forward_kernel, key_kernel, query_kernel
    from dfl_ray.engines.cpu.vector_ir import width

    for kernel in (forward_kernel, query_kernel, key_kernel):
        kernel(head_dim, width())


def _turned(x: torch.Tensor, turn: Turn, head_dim: int, *, back: bool = False) -> torch.Tensor:
    """X (heads * head_dim, columns) rotated; `back` is the gradient's way."""
    halves = x.view(-1, 2, head_dim // 2, x.shape[1])
    out = halves * turn[0].unsqueeze(0)
    sign = -1.0 if back else 1.0
    out[:, 0].addcmul_(halves[:, 1], turn[1], value=-sign)
    out[:, 1].addcmul_(halves[:, 0], turn[1], value=sign)
    return out.view(x.shape)


def _addresses(*arrays: Any) -> list[int]:
    return [a.data_ptr() if isinstance(a, torch.Tensor) else a.ctypes.data for a in arrays]


def lay_out_rows(
    queries: tuple[np.ndarray, np.ndarray], keys: tuple[np.ndarray, np.ndarray], positions: np.ndarray | None,
    columns: tuple[int, int], angles: Turn,
) -> RowLayout:  # fmt: skip
    """Lay out rows for the compiled loops.

    Args:
        queries: First query and number of queries of each row.
        keys: First token and number of tokens of each row.
        positions: (query columns,) place of each query in its row; None where all tokens ask.
        columns: Query columns and key columns, without spare ones.
        angles: Cosines and sines of all positions, (positions, head_dim).

    Returns:
        The layout, with the processor's vector width as block size.
    """
    from dfl_ray.engines.cpu.vector_ir import width

    lanes = width()
    asked, q_row, _ = _blocks(queries, lanes)
    seen, k_row, k_place = _blocks(keys, lanes)
    key_places = _places(keys, columns[1])
    at = key_places if positions is None else positions
    last = np.maximum.reduceat(at, asked[:, 0])  # blocks lie in order; what lies between them has place 0
    query_blocks = np.column_stack((asked, keys[0][q_row], last + 1))
    skipped = k_place if positions is None else np.zeros_like(k_place)
    first_query = queries[0][k_row]
    key_blocks = np.column_stack((seen, k_place, first_query + skipped, first_query + queries[1][k_row]))
    half = angles[0].shape[1] // 2
    scale = angles[0].shape[1] ** -0.5
    return RowLayout(
        np.ascontiguousarray(query_blocks, np.int64), np.ascontiguousarray(key_blocks, np.int64),
        torch.from_numpy(np.pad(at, (0, lanes)).astype(np.int32)),
        _turn(angles, at, lanes, half, scale), _turn(angles, key_places, lanes, half, 1.0), lanes, int(keys[1].max()),
    )  # fmt: skip


def steps(counts: np.ndarray) -> np.ndarray:
    """Count 0, 1, 2, ... anew for each of the counts.

    Args:
        counts: (n,) int64, none negative.

    Returns:
        (sum of counts,) int64; (2, 3) gives 0, 1, 0, 1, 2.
    """
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _blocks(runs: tuple[np.ndarray, np.ndarray], lanes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of items cut into blocks: (first, items) of each, its run, and its place in the run, in order of items."""
    starts, counts = runs
    pieces = -(-counts // lanes)
    row = np.repeat(np.arange(len(counts)), pieces)
    place = steps(pieces) * lanes
    return np.column_stack((starts[row] + place, np.minimum(lanes, counts[row] - place))), row, place


def _places(runs: tuple[np.ndarray, np.ndarray], columns: int) -> np.ndarray:
    """The place of every item in its run; 0 for items in none."""
    starts, counts = runs
    step = steps(counts)
    out = np.zeros(columns, np.int64)
    out[np.repeat(starts, counts) + step] = step
    return out


def _turn(angles: Turn, places: np.ndarray, lanes: int, half: int, scale: float) -> Turn:
    index = torch.from_numpy(np.pad(places, (0, lanes)))
    cosines, sines = (a[:, :half].t().contiguous().index_select(1, index).mul_(scale) for a in angles)
    return cosines, sines
