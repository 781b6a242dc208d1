"""How far apart devices' updates are: sums over devices of folded updates, from which the consensus distance follows.

Two devices agree when their weights do, not when their factors do: (B R^-1)(R A) = B A for every invertible R. So what
is compared is the update of each layer, D = s B A and what the method has merged into the base, all that is added to
W0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from dfl_ray.evaluation.scorer import Adapter
from dfl_ray.lora.layout import LayerShape
from dfl_ray.seeds import Stream, generator

WIDTH = 128
"""Rows and columns of a folded update; a side of at most so many entries is left as it is."""


@dataclass(frozen=True)
class Fold:
    """Adds up entries of one side of a layer with random signs.

    Attributes:
        place: (n,) int64 in [0, width), where each entry goes.
        sign: (n,) float64, 1 or -1.
        width: Entries afterwards.
    """

    place: torch.Tensor
    sign: torch.Tensor
    width: int


@cache
def fold(layer: int, side: int, size: int) -> Fold:
    """Draw one fold, the same in every process; the identity up to `WIDTH` entries.

    Args:
        layer: Index of the layer.
        side: 0 for outputs, 1 for inputs.
        size: n >= 1.

    Returns:
        The fold.
    """
    if size <= WIDTH:
        return Fold(torch.arange(size), torch.ones(size, dtype=torch.float64), size)
    rng = generator(0, Stream.CONSENSUS, layer, side)
    place = torch.from_numpy(rng.integers(WIDTH, size=size))
    return Fold(place, torch.from_numpy(rng.choice([-1.0, 1.0], size=size)), WIDTH)


def folded_update(layers: Sequence[LayerShape], adapter: Adapter, scale: float) -> np.ndarray:
    """Fold s B A of every layer: S B A T^T, which is linear in the update and keeps its norm on average.

    S and T are count sketches: E |S D T^T|^2 = |D|^2 for every D; both are the identity for layers of at most `WIDTH`
    inputs and outputs, where the result is D itself. No (m, d) matrix is formed for larger ones.

    Source: Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams"; Clarkson and Woodruff 2013
    (arXiv 1207.6365) for the norms of products.

    Args:
        layers: The adapted layers.
        adapter: (R, d) and (m, R) of each, what is merged into the base included.
        scale: s.

    Returns:
        (sum over layers of min(m, `WIDTH`) min(d, `WIDTH`),) float64.
    """
    parts: list[np.ndarray] = []
    for index, (layer, a, b) in enumerate(zip(layers, adapter.a, adapter.b, strict=True)):
        rows, columns = fold(index, 0, layer.out_features), fold(index, 1, layer.in_features)
        left = torch.zeros(rows.width, b.shape[1], dtype=torch.float64)
        left.index_add_(0, rows.place, b.detach().cpu().double() * rows.sign[:, None])
        right = torch.zeros(a.shape[0], columns.width, dtype=torch.float64)
        right.index_add_(1, columns.place, a.detach().cpu().double() * columns.sign)
        parts.append((scale * (left @ right)).numpy().ravel())
    return np.concatenate(parts)


Sums = dict[int, tuple[int, np.ndarray, float]]
"""Task, or -1 -> the number of devices, the sum of their folded updates, and the sum of those's squared norms."""


def update_sums(updates: Iterable[tuple[int, np.ndarray]]) -> Sums:
    """Add up the folded updates of a group's devices, task by task.

    Args:
        updates: (task, folded update) of each adapter.

    Returns:
        The sums that `simulation.round_tables.state_metrics` adds up over all groups.
    """
    out: Sums = {}
    for task, values in updates:
        count, total, squares = out.get(task) or (0, np.zeros_like(values), 0.0)
        total += values  # in place: a new sum for each device would be as large as all its layers
        out[task] = (count + 1, total, squares + float(values @ values))
    return out
