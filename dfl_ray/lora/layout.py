"""Where each layer's factors lie in the flat vector of one adapter.

An adapter is one row of a (adapters, size) tensor: flat storage makes averaging, masks, the codec, AdamW and
checkpoints one operation each, and keeps the cost of an adapter independent of how many there are.

Where only a core C between two frozen bases is trained (`fed_sb`), C (r, r) is stored in B's place, B = U C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the driver lays adapters out and never computes with them
    import numpy as np
    import torch

Factor = Literal["a", "b", "c"]


@dataclass(frozen=True)
class LayerShape:
    """One adapted linear layer W0 of shape (out_features, in_features).

    Attributes:
        name: Module path inside the base model.
        out_features: m, rows of B.
        in_features: d, columns of A.
    """

    name: str
    out_features: int
    in_features: int


def dense_values(layers: Sequence[LayerShape]) -> int:
    """Number of values of a dense update of some layers: the sum of m d."""
    return sum(s.out_features * s.in_features for s in layers)


def dense_of(layers: Sequence[LayerShape], flat: np.ndarray) -> list[np.ndarray]:
    """Take a dense update apart.

    Args:
        layers: Its layers.
        flat: (`dense_values`,) the (m, d) of all layers, one after the other.

    Returns:
        One (m, d) view a layer.
    """
    out: list[np.ndarray] = []
    start = 0
    for layer in layers:
        stop = start + dense_values([layer])
        out.append(flat[start:stop].reshape(layer.out_features, layer.in_features))
        start = stop
    return out


@dataclass(frozen=True)
class Segment:
    """One factor of one layer inside the flat vector: `flat[start:stop].reshape(shape)`.

    Attributes:
        layer: Index of the layer.
        factor: "a", "b" or "c".
        start: First index.
        shape: (r, d) of A, (m, r) of B, (r, r) of C.
    """

    layer: int
    factor: Factor
    start: int
    shape: tuple[int, int]

    @property
    def stop(self) -> int:
        """First index behind the segment."""
        return self.start + self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Layout:
    """The order of the trained factors in one adapter's flat vector.

    Attributes:
        layers: The adapted layers, in model order.
        rank: r, the rank of every factor.
        trains: Which factors are stored (and may be trained): ("b",) for a static A, ("a", "b") for plain LoRA, ("c",)
            for a core.
        ups: U^T of a core, one (r, m) float32 a layer; empty elsewhere, and where nobody computes with it.
    """

    layers: tuple[LayerShape, ...]
    rank: int
    trains: tuple[Factor, ...]
    ups: Sequence[np.ndarray] = field(default=(), compare=False)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All segments in storage order: for each layer A (r, d), B (m, r) and C (r, r) where stored."""
        out: list[Segment] = []
        start = 0
        for i, layer in enumerate(self.layers):
            shapes: dict[Factor, tuple[int, int]] = {
                "a": (self.rank, layer.in_features),
                "b": (layer.out_features, self.rank),
                "c": (self.rank, self.rank),
            }
            for factor in self.trains:
                out.append(Segment(i, factor, start, shapes[factor]))
                start = out[-1].stop
        return tuple(out)

    @cached_property
    def size(self) -> int:
        """Number of values of one adapter: the sum over layers of r d for A, m r for B, r r for C."""
        return self.segments[-1].stop if self.segments else 0

    def of(self, factor: Factor) -> tuple[Segment, ...]:
        """The segments of one factor, one a layer, in layer order."""
        return tuple(s for s in self.segments if s.factor == factor)

    def views(self, flat: torch.Tensor, factor: Factor) -> list[torch.Tensor]:
        """Views of one factor in every layer.

        Args:
            flat: (adapters, size) storage of several adapters.
            factor: "a", "b" or "c"; must be stored.

        Returns:
            One (adapters, rows, columns) view a layer; writing to it writes to `flat`.
        """
        return [flat[:, s.start : s.stop].view(flat.shape[0], *s.shape) for s in self.of(factor)]
