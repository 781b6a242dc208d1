"""The start of every device's adapter where it is one that was trained before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.lora.layout import Layout

if TYPE_CHECKING:  # the driver reads it and never computes with it
    import torch


@dataclass(frozen=True)
class WarmStart:
    """Factors that all devices start with, in the run's own scale s.

    Attributes:
        factors: Index of a layer -> A (r0, d) and B (m, r0) float32, r0 at most the rank of every device.
    """

    factors: Mapping[int, tuple[np.ndarray, np.ndarray]]

    def note(self, place: str, layers: int) -> tuple[str, ...]:
        """Say what devices start from.

        Args:
            place: Where the adapter lies.
            layers: Number of adapted layers.

        Returns:
            One sentence.
        """
        rank = max((len(a) for a, _ in self.factors.values()), default=0)
        return (
            f"Every device starts from the adapter {place}: rank {rank}, in {len(self.factors)} of {layers} adapted "
            "layers.",
        )

    def put(self, layout: Layout, theta: torch.Tensor) -> None:
        """Write the factors into adapters that were drawn as usual: s B A becomes the earlier adapter's.

        The first r0 rows of A and columns of B are replaced; behind them A keeps its draw and B its zeros, so that
        the further ranks start as those of a new adapter. A is left alone where it is not stored (`common_a`).

        Args:
            layout: Where the factors lie.
            theta: (adapters, size) float32, changed in place.
        """
        import torch

        down = dict(enumerate(layout.views(theta, "a"))) if "a" in layout.trains else {}
        up = layout.views(theta, "b")
        for index, (a, b) in self.factors.items():
            if down:
                down[index][:, : len(a)] = torch.from_numpy(a)
            up[index][:, :, : len(a)] = torch.from_numpy(b)

    def common_a(self, drawn: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Give the common A of methods that never train it: the earlier adapter's rows, and behind them the drawn ones.

        Args:
            drawn: One (r, d) a layer.

        Returns:
            One (r, d) a layer.
        """
        out = [a.copy() for a in drawn]
        for index, (a, _) in self.factors.items():
            out[index][: len(a)] = a
        return out

    def is_in(self, common: Sequence[np.ndarray]) -> bool:
        """Whether the first rows of a common A, one (r, d) a layer, are those that `common_a` puts there."""
        pairs = ((common[index][: len(a)], a) for index, (a, _) in self.factors.items())
        return all(np.array_equal(there, a) for there, a in pairs)
