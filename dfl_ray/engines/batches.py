"""Token rows collated into one batch; only the positions whose next token is an answer's are scored.

Rows are padded on the right. Causal attention never looks to the right, so padding changes no result and no
attention mask is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dfl_ray.engines.memory import PAD_MULTIPLE
from dfl_ray.tasks.tokens import TokenRows


@dataclass(frozen=True)
class Batch:
    """Rows ready for the model.

    Attributes:
        input_ids: (rows, length) int64, padded on the right with 0.
        source: (scored, 2) int64, (row, position) whose output predicts a scored token.
        targets: (scored,) int64, the tokens to predict.
        tokens: Real tokens in the batch, padding not counted.
        mask: Additive attention mask (rows, 1, length, length), or None for plain causal attention.
        positions: (rows, length) int64 position ids, or None for 0, 1, 2, ...
        lengths: (rows,) int64 real tokens of each row, or None where nothing is padding.
    """

    input_ids: torch.Tensor
    source: torch.Tensor
    targets: torch.Tensor
    tokens: int
    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    lengths: np.ndarray | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Move the batch's tensors to another device; `lengths` stays a NumPy array.

        Args:
            device: The torch device.

        Returns:
            The batch with its tensors there.
        """
        names = ("input_ids", "source", "targets", "mask", "positions")
        tensors = {n: getattr(self, n) for n in names}
        return replace(self, **{n: t.to(device) for n, t in tensors.items() if t is not None})


def padded_length(longest: int) -> int:
    """Round a length up to the next multiple of 8, so that few different shapes occur.

    Args:
        longest: Tokens of the longest row.

    Returns:
        The length of the padded batch in tokens.
    """
    return -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE


def collate(rows: Sequence[tuple[TokenRows, int]]) -> Batch:
    """Collate training rows; every answer token (and the end token) is a target.

    Args:
        rows: (table, row index) of each row, in batch order.

    Returns:
        The batch. A row of n tokens gives n - 1 inputs; scored are the positions from the one before the answer's
        first token to the row's last input, each with the next token as its target.
    """
    begin = np.array([t.offsets[i] for t, i in rows])
    lengths = np.array([t.offsets[i + 1] for t, i in rows]) - begin - 1
    first = np.array([t.answer_start[i] for t, i in rows], np.int64) - 1
    padded = np.zeros((len(rows), padded_length(int(lengths.max()))), np.int64)
    for k, (table, _) in enumerate(rows):
        padded[k, : lengths[k]] = table.ids[begin[k] : begin[k] + lengths[k]]
    scored = lengths - first
    row = np.repeat(np.arange(len(rows)), scored)
    at = np.arange(len(row)) + np.repeat(first - np.cumsum(scored) + scored, scored)
    last = np.array([t.ids[t.offsets[i + 1] - 1] for t, i in rows])
    following = np.append(padded, np.zeros((len(rows), 1), np.int64), axis=1)[:, 1:]
    following[np.arange(len(rows)), lengths - 1] = last
    return Batch(
        torch.from_numpy(padded),
        torch.from_numpy(np.stack([row, at], axis=1)),
        torch.from_numpy(following[row, at]),
        int(lengths.sum()),
        lengths=lengths,
    )


def within(batch: Batch, most: int | None) -> Batch:
    """The batch with less padding, if it reaches past a model's positions and its rows do not.

    Args:
        batch: Rows padded on the right.
        most: Number of positions the model has; None = any.

    Returns:
        The batch cut to max(most, longest row) positions, or the batch itself where nothing has to be cut.
    """
    width = batch.input_ids.shape[1]
    if most is None or width <= most or batch.lengths is None:
        return batch
    kept = max(most, int(batch.lengths.max()))
    return replace(
        batch,
        input_ids=batch.input_ids[:, :kept],
        mask=None if batch.mask is None else batch.mask[..., :kept, :kept],
        positions=None if batch.positions is None else batch.positions[:, :kept],
    )


def prompt_batch(
    rows: Sequence[np.ndarray], *, most: int | None = None, every: bool = False
) -> tuple[Batch, torch.Tensor]:
    """Collate rows of token ids that are only read, padded on the right with 0.

    Args:
        rows: Token ids of each row.
        most: Number of positions the model has, past which padding must not reach; None = any.
        every: Whether all real tokens are scored positions, row by row; else the first alone, as a place-holder.

    Returns:
        The batch, whose targets are all 0, and the (rows, length) bool mask of real tokens.
    """
    longest = max(len(r) for r in rows)
    length = padded_length(longest) if most is None else max(longest, min(padded_length(longest), most))
    ids = np.zeros((len(rows), length), np.int64)
    real = np.zeros((len(rows), length), bool)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
        real[k, : len(row)] = True
    source = torch.from_numpy(np.argwhere(real)) if every else torch.zeros((1, 2), dtype=torch.int64)
    batch = Batch(
        torch.from_numpy(ids), source, torch.zeros(len(source), dtype=torch.int64), int(real.sum()),
        lengths=real.sum(axis=1),
    )  # fmt: skip
    return batch, torch.from_numpy(real)
