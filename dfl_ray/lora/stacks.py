"""Down- and up-projections as adapters take them: one stack a layer, cut from the draw without copying where it can."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import torch

from dfl_ray.lora.layout import Layout

GATHERED_BYTES = 2**25
"""Most memory of stacks that are gathered once and kept; larger ones are gathered layer by layer when asked for."""


class TaskStacks(Sequence[torch.Tensor]):
    """For every layer the (owners, r, d) stack of A of the owners' tasks, over the memory of the run's draw.

    A stack of neighbouring tasks is a view. Any other is a copy, made when the layer is asked for, so that many
    adapters of a large model never hold their A all at once.

    Args:
        projections: One (T, r, d) float32 a layer.
        tasks: The task of each owner.
    """

    def __init__(self, projections: Sequence[torch.Tensor], tasks: Sequence[int]) -> None:
        self._projections = projections
        self._tasks = tuple(tasks)
        first = self._tasks[0]
        neighbours = self._tasks == tuple(range(first, first + len(self._tasks)))
        self._view = slice(first, first + len(self._tasks)) if neighbours else None

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._projections)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[torch.Tensor]: ...

    def __getitem__(self, index: int | slice) -> torch.Tensor | list[torch.Tensor]:
        """The stack of a layer, or those of several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        whole = self._projections[index]
        return whole[self._view] if self._view is not None else whole[list(self._tasks)]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The stacks in the order of the layers."""
        return (self[i] for i in range(len(self)))


def task_stacks(projections: Sequence[torch.Tensor], tasks: Sequence[int]) -> Sequence[torch.Tensor]:
    """Cut the stacks of some owners' tasks from a run's projections.

    Args:
        projections: One (T, r, d) float32 a layer.
        tasks: The task of each owner, at least one.

    Returns:
        One (owners, r, d) stack a layer: a list where they are small, else gathered when they are asked for.
    """
    stacks = TaskStacks(projections, tasks)
    one_task = sum(p[0].numel() * p.element_size() for p in projections)
    return list(stacks) if one_task * len(tasks) <= GATHERED_BYTES else stacks


def tensors_of(arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Make tensors over arrays that nobody writes to, without copying.

    Args:
        arrays: The arrays, read-only ones included.

    Returns:
        One tensor an array, of the same type and shape.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return [torch.from_numpy(a) for a in arrays]


def up_factors(layout: Layout, flat: torch.Tensor) -> list[torch.Tensor]:
    """Give B of every layer as a reader needs it: views where it is stored, the product U C where a core C is.

    Args:
        layout: Where the factors lie, and U^T.
        flat: (adapters, size) storage of several adapters.

    Returns:
        One (adapters, m, r) a layer.
    """
    if "c" not in layout.trains:
        return layout.views(flat, "b")
    ups = [u.T.to(flat.device) for u in tensors_of(layout.ups)]
    return [u @ c for u, c in zip(ups, layout.views(flat, "c"), strict=True)]
