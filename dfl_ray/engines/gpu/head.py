"""Loss at the scored positions through the frozen output head, a piece of the positions at a time.

All logits of a large step would be larger than the model: 32,768 positions of a vocabulary of 151,936 are 20 GB in
float32. A piece's logits are made, turned into losses and into the gradient in their place, pulled back through the
head and dropped.
"""

from __future__ import annotations

import torch

from dfl_ray.engines.gpu.kernels import Kernels

PIECE_LOGITS = 2**29
"""Most logits that exist at once: 1 GiB in bfloat16."""

PIECE_MULTIPLE = 128
"""Pieces are cut at multiples of this, the height of a matrix unit's tile."""


def piece_rows(rows: int, vocabulary: int, most: int = PIECE_LOGITS) -> int:
    """Positions of one piece, all pieces nearly alike.

    Args:
        rows: Positions in all.
        vocabulary: Logits of one position.
        most: Most logits at once; at least one position is always taken.

    Returns:
        Number of positions, at least 1; a multiple of 128 where that stays within `most`.
    """
    pieces = -(-rows * vocabulary // most)
    even = -(-rows // max(1, pieces))
    rounded = -(-even // PIECE_MULTIPLE) * PIECE_MULTIPLE
    return rounded if rounded * vocabulary <= most else max(1, most // vocabulary)


def loss_and_slope(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    kernels: Kernels,
    most: int = PIECE_LOGITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute losses -log p(target), and the gradient of their weighted sum in the hidden states.

    With logits z = W h, p = softmax(z) and weight w, dh = w W^T (p - onehot(target)).

    Args:
        hidden: (scored, d) behind the final norm.
        head: (vocabulary, d), frozen.
        targets: (scored,) int64.
        weights: (scored,) what each loss counts in the sum.
        kernels: Compiled or plain passes.
        most: Most logits at once.

    Returns:
        (scored,) losses in nats, and (scored, d).
    """
    size = piece_rows(len(hidden), len(head), most)
    losses: list[torch.Tensor] = []
    slope = torch.empty_like(hidden)
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        loss, dlogits = kernels.cross_entropy(hidden[part] @ head.t(), targets[part], weights[part])
        torch.mm(dlogits, head, out=slope[part])
        losses.append(loss)
    return torch.cat(losses), slope
