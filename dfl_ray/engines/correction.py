"""What control variates do in the local steps: a constant added to every gradient, and the gradients as they were."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class Correction:
    """The control variates of adapters that train together; see `methods.variates`.

    Attributes:
        added: (S, size) float32, v_i - c_i.
        sums: (S, size) float32, the sum of the plain gradients over the steps that were made.
        steps: (S,) int64, their number.
    """

    added: torch.Tensor
    sums: torch.Tensor = field(init=False)
    steps: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """No step made yet."""
        self.sums = torch.zeros_like(self.added)
        self.steps = torch.zeros(len(self.added), dtype=torch.int64)
        self._plain = self.sums

    def apply_(self, gradient: torch.Tensor) -> None:
        """Correct the gradients of a step in place, g <- g + v_i - c_i, before they are masked and clipped."""
        self._plain = gradient.clone()
        gradient.add_(self.added)

    def count(self, active: torch.Tensor) -> None:
        """Add up the plain gradients of those adapters, (S,) bool, that make the step."""
        self.sums += torch.where(active.to(self.sums.device)[:, None], self._plain, 0.0)
        self.steps += active.cpu()
