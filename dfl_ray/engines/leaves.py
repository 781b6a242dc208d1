"""The trained factors of many adapters as autograd leaves, over the flat storage that the optimiser steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.lora.stacks import tensors_of


class Leaves:
    """Leaf tensors over the flat parameters, and one flat buffer for their gradients."""

    def __init__(
        self,
        layout: Layout,
        state: AdapterState,
        static_a: Sequence[torch.Tensor] | None,
        frozen: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> None:
        self.gradient = torch.zeros_like(state.theta)
        factors = {
            f: [v.detach().requires_grad_() for v in layout.views(state.theta, f)] for f in layout.trains
        }
        self.a: Sequence[torch.Tensor] = factors["a"] if static_a is None else static_a
        self._b: Sequence[torch.Tensor] = factors.get("b", ())
        self._cores: Sequence[torch.Tensor] = factors.get("c", ())
        self._ups = [u.T.to(state.theta.device) for u in tensors_of(layout.ups)] if self._cores else []
        self.frozen = frozen
        self._leaves = [leaf for f in layout.trains for leaf in factors[f]]
        self.into = {f: layout.views(self.gradient, f) for f in layout.trains}
        self._targets = [view for f in layout.trains for view in self.into[f]]
        if self._cores:
            self.into["b"] = [u.new_zeros(len(state.theta), *u.shape) for u in self._ups]

    @property
    def b(self) -> Sequence[torch.Tensor]:
        """B of every layer: a leaf, or U C of a leaf C."""
        return [u @ c for u, c in zip(self._ups, self._cores, strict=True)] if self._cores else self._b

    def factors(self, used: torch.Tensor | None) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """A and B of every layer, frozen part included, of the adapters `used` (None = all)."""
        a, b = self.a, self.b
        if self.frozen is not None:
            a = [torch.cat([x, f[0]], dim=1) for x, f in zip(a, self.frozen, strict=True)]
            b = [torch.cat([x, f[1]], dim=2) for x, f in zip(b, self.frozen, strict=True)]
        return (a, b) if used is None else ([x[used] for x in a], [x[used] for x in b])

    def differentiate(self, loss: torch.Tensor) -> None:
        """Write the gradient of `loss` into the flat buffer."""
        for target, gradient in zip(self._targets, torch.autograd.grad(loss, self._leaves), strict=True):
            target.copy_(gradient)

    def fold(self) -> None:
        """Where a core C is trained, bring the gradients that were written for B = U C to it: dL/dC = U^T dL/dB."""
        for up, target, of_b in zip(self._ups, self.into.get("c", ()), self.into["b"], strict=False):
            torch.matmul(up.T, of_b, out=target)
