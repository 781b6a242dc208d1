"""Memory of what a training step keeps for backward on a CPU: one block, which every step writes anew.

What a step keeps is most of what it holds: 0.4 MB a token in a model of 135 million parameters. Taken from the C
library tensor by tensor, in sizes that follow the tokens of the step, it leaves a heap full of holes, which grew from
round to round to three times what was in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Empty = Callable[..., torch.Tensor]
"""What gives memory for a tensor: called with one like it, and the shape."""

ALIGNED_BYTES = 64
"""Tensors begin at multiples of this, a cache line."""


class ActivationMemory:
    """A block of memory that is handed out from its beginning in every step."""

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._tokens = 0
        self._token_bytes = 0.0

    @property
    def bytes(self) -> int:
        """Bytes of the block."""
        return len(self._block)

    def begin(self, tokens: int) -> None:
        """Begin a step: all that was handed out before is free again, and must not be used any more.

        The block is made as large as the largest step so far had need of, by bytes a token; the first step of a model
        finds it empty and only tells how much it needs.

        Args:
            tokens: Tokens of the step, padding included, >= 1.
        """
        if self._tokens:
            self._token_bytes = max(self._token_bytes, self._used / self._tokens)
        self._used, self._tokens = 0, tokens
        wanted = math.ceil(self._token_bytes * tokens)
        if wanted > len(self._block):
            self.release()  # before the larger one is taken
            self._block = torch.empty(wanted, dtype=torch.uint8)

    def empty(self, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """Hand out memory that holds anything, until the next `begin`.

        Args:
            like: Tells the type, and the device where the block has no more room.
            shape: Shape of the tensor.

        Returns:
            A tensor in the block; beyond its end one of its own.
        """
        size = math.prod(shape) * like.element_size()
        start = self._used
        self._used += -(-size // ALIGNED_BYTES) * ALIGNED_BYTES
        if self._used > len(self._block):
            return like.new_empty(shape)
        return self._block[start : start + size].view(like.dtype).view(shape)

    def release(self) -> None:
        """Give the block back to the system; the next step takes one again."""
        self._block = torch.empty(0, dtype=torch.uint8)


def fresh(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Memory of its own for each tensor, as `ActivationMemory.empty` where nothing is kept from step to step.

    Args:
        like: Tells type and device.
        shape: Shape of the tensor.

    Returns:
        A tensor that holds anything.
    """
    return like.new_empty(shape)
