"""Rows of B shared out among tasks, so that no row belongs to two: the option `disjoint` of sparse-and-orthogonal.

The author of each task publishes, once and before pruning starts, what every row of B is worth to the task: the
norm of the row over the sum of its layer's norms, in float16. When an author holds all tasks' bids it works out the
same assignment as every other author: row-proposing deferred acceptance (Gale and Shapley 1962), layer by layer,
in which each task may own its equal share of the rows. Masks are announced only from then on, inside the rows a
task owns, so Delta W_i and Delta W_j touch different outputs and B_i^T B_j = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dfl_ray.lora.layout import Layout
from dfl_ray.methods import published
from dfl_ray.methods.base import Context, Device
from dfl_ray.wire.codec import CodecError, decode_values, encode_values
from dfl_ray.wire.message import Kind, Message, MessageError, Refusal


def row_worths(values: np.ndarray, layout: Layout) -> list[np.ndarray]:
    """Compute what every row of B is worth to a task: |B_k| / sum_l |B_l| over the rows of its layer.

    Args:
        values: (size,) values of one adapter.
        layout: Where the layers' B lie.

    Returns:
        One (m,) float64 a layer, each summing to 1; equal shares where B is 0.
    """
    out: list[np.ndarray] = []
    for s in layout.of("b"):
        norms = np.linalg.norm(values[s.start : s.stop].reshape(s.shape).astype(np.float64), axis=1)
        total = norms.sum()
        out.append(norms / total if total > 0 else np.full(len(norms), 1 / len(norms)))
    return out


def share_out(worths: np.ndarray) -> np.ndarray:
    """Decide which task owns each row of one layer, by row-proposing deferred acceptance.

    Every row asks the tasks in the order of its worth to them; a task holds on to the best of those that ask, up to
    its share floor(m / T), one more for the first m mod T tasks. No row and task would rather have each other. Equal
    worths go to the task, and the row, of the lower index.

    Source: Gale and Shapley 1962, "College admissions and the stability of marriage".

    Args:
        worths: (T, m), finite.

    Returns:
        (m,) int64 task of each row.
    """
    tasks, rows = worths.shape
    capacity = [rows // tasks + (t < rows % tasks) for t in range(tasks)]
    open_to = worths.astype(np.float64).copy()
    while True:
        asked = open_to.argmax(axis=0)
        refused = False
        for task in range(tasks):
            mine = np.flatnonzero(asked == task)
            over = mine[np.argsort(-worths[task, mine], kind="stable")[capacity[task] :]]
            open_to[task, over] = -np.inf
            refused |= bool(len(over))
        if not refused:
            return asked


class Bidding:
    """Bids of all tasks' authors, and the rows they lead to.

    Args:
        context: The run.
        layout: Where the layers' B lie.
    """

    def __init__(self, context: Context, layout: Layout) -> None:
        self.context = context
        self.layout = layout
        self.rows = sum(s.shape[0] for s in layout.of("b"))

    def message(self, device: Device[Any], task: int, adapter_index: int, round_index: int) -> Message:
        """Make the bid of a task this device is the author of: `row_worths` of all layers in float16.

        Args:
            device: The author.
            task: The task.
            adapter_index: Row of the device's adapters that holds the task.
            round_index: The round, which becomes the version.

        Returns:
            The message.
        """
        worths = np.concatenate(row_worths(device.state.theta[adapter_index].cpu().numpy(), self.layout))
        body = encode_values(worths.astype(np.float32), "float16")
        return Message(Kind.BID, task, device.index, round_index, self.context.run, 0, "float16", body)

    def check(self, message: Message) -> None:
        """Refuse a bid that does not decode.

        Args:
            message: The bid.

        Raises:
            MessageError: Wrong length, or values that are negative, NaN or infinite.
        """
        self._decode(message)

    def owned(self, device: Device[Any], task: int) -> np.ndarray | None:
        """Work out the entries of B in the rows that a task owns.

        Args:
            device: The device, whose held bids are used; all authors come to the same result from the same bids.
            task: The task.

        Returns:
            (size,) bool; None until the bids of all tasks in the device's part of the graph are there.
        """
        present = [t for t in range(self.context.tasks) if (t, device.index) in self.context.graph.authority]
        bids = [published.held(device.memory, Kind.BID, t) for t in present]
        if any(b is None for b in bids):
            return None
        worths = np.stack([self._decode(b) for b in bids if b is not None])
        keep = np.zeros(self.layout.size, bool)
        start = 0
        for s in self.layout.of("b"):
            owner = share_out(worths[:, start : start + s.shape[0]])
            keep[s.start : s.stop] = np.repeat(owner == present.index(task), s.shape[1])
            start += s.shape[0]
        return keep

    def _decode(self, message: Message) -> np.ndarray:
        try:
            worths = decode_values(message.body, message.precision, self.rows)
        except CodecError as error:
            raise MessageError(Refusal.CORRUPTED, str(error)) from error
        if not np.isfinite(worths).all() or (worths < 0).any():
            raise MessageError(Refusal.NOT_FINITE, f"bids of task {message.task}")
        return worths
