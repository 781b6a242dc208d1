"""Keys and values of rows that grow by a token a step, so that each step computes the new tokens alone."""

from __future__ import annotations

import torch


class KeyValueCache:
    """Keys and values of all blocks, for rows of different lengths.

    The first pass fills it with the rows' prompts, padded on the right; each later pass brings one token a row, which
    takes the place behind the row's last, so that padding is overwritten and never seen.

    Args:
        lengths: (rows,) int64 tokens of each prompt, at least 1.
        capacity: Most tokens of a row, padding included.

    Attributes:
        lengths: (rows,) int64 tokens of each row so far.
        filled: Whether the first pass is over.
    """

    def __init__(self, lengths: torch.Tensor, capacity: int) -> None:
        self.lengths = lengths
        self._capacity = capacity
        self.filled = False
        self._longest = int(lengths.max())
        self._rows = torch.arange(len(lengths), device=lengths.device)
        self._blocks: list[tuple[torch.Tensor, torch.Tensor]] = []

    def positions(self) -> torch.Tensor:
        """(rows, 1) int64 positions of the tokens that the next step brings."""
        return self.lengths.unsqueeze(1)

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Make the additive mask of the next step.

        Args:
            dtype: Its precision.

        Returns:
            (rows, 1, 1, longest row with its new token): 0 for a row's own tokens, the new one included, else -inf.
        """
        places = torch.arange(self._longest + 1, device=self.lengths.device)
        later = places > self.lengths.unsqueeze(1)
        return torch.zeros(later.shape, dtype=dtype, device=later.device).masked_fill_(later, -torch.inf)[
            :, None, None
        ]

    def extend(self, block: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a pass's keys and values of one block.

        Args:
            block: The block, counted from 0; the first pass goes through them in order.
            k: (rows, kv_heads, length, head_dim), rotated; length is 1 after the first pass.
            v: The same shape.

        Returns:
            Keys and values that the pass attends to: in the first pass k and v themselves, then those of all places up
            to the longest row's new token.
        """
        if not self.filled:
            made = tuple(t.new_zeros(*t.shape[:2], self._capacity, t.shape[3]) for t in (k, v))
            for whole, new in zip(made, (k, v), strict=True):
                whole[:, :, : new.shape[2]] = new
            self._blocks.append((made[0], made[1]))
            return k, v
        keys, values = self._blocks[block]
        keys[self._rows, :, self.lengths] = k[:, :, 0]
        values[self._rows, :, self.lengths] = v[:, :, 0]
        return keys[:, :, : self._longest + 1], values[:, :, : self._longest + 1]

    def advance(self) -> None:
        """Note that a pass is over: behind the first the prompts are filled in, behind others each row is longer."""
        if self.filled:
            self.lengths = self.lengths + 1
            self._longest += 1
        self.filled = True

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows.

        Args:
            rows: (kept,) int64 their places among the present rows.
        """
        if len(rows) == len(self.lengths):
            return
        self.lengths = self.lengths.index_select(0, rows)
        self._longest = int(self.lengths.max())
        self._rows = self._rows[: len(rows)]
        self._blocks = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self._blocks]
