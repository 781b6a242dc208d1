"""Frozen linear layers with every adapter's adapter merged in: W_s = W0 + scale B_s A_s, one plain product an adapter.

Merging costs 2 m d r operations an adapter and saves the two thin products per token, their activations and their
backward: with n tokens an adapter the share is r / n of the layer's own product. The gradients come back the same way,
through the adapter's whole weight gradient G = dy^T x: dB = scale G A^T, dA = scale B^T G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Groups = tuple[tuple[int, int, int], ...]
"""(adapter, first token, token behind the last) of every adapter that has tokens."""


@dataclass(frozen=True)
class Part:
    """One frozen linear layer inside a joined one.

    Attributes:
        weight: (m, d), shared with the base model.
        bias: (m,), or None.
        index: Number of the adapted layer, or None where nothing is adapted.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    index: int | None


@dataclass(frozen=True)
class Factors:
    """The adapters of a pass: one (S, r, d) and one (S, m, r) stack a layer, and the scale; empty = bare base."""

    a: Sequence[torch.Tensor]
    b: Sequence[torch.Tensor]
    scale: float


@dataclass(frozen=True)
class Joined:
    """Linear layers that read the same input, as one."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(p.weight.numel() for p in self.parts)

    def bias(self) -> torch.Tensor | None:
        """The joined bias, or None if no part has one."""
        if all(p.bias is None for p in self.parts):
            return None
        return torch.cat(
            [p.weight.new_zeros(len(p.weight)) if p.bias is None else p.bias for p in self.parts]
        )

    def merge(self, factors: Factors) -> torch.Tensor:
        """(S, m, d) weights with each adapter's adapters added; (1, m, d) where nothing is adapted."""
        if not factors.b or all(p.index is None for p in self.parts):
            return torch.cat([p.weight for p in self.parts]).unsqueeze(0)
        adapters = factors.b[0].shape[0]
        rows = sum(len(p.weight) for p in self.parts)
        out = self.parts[0].weight.new_empty(adapters, rows, self.parts[0].weight.shape[1])
        first = 0
        for part in self.parts:
            into = out[:, first : first + len(part.weight)]
            if part.index is None:
                into.copy_(part.weight)
            else:
                change = torch.bmm(factors.b[part.index], factors.a[part.index])
                torch.add(part.weight, change, alpha=factors.scale, out=into)
            first += len(part.weight)
        return out

    def add_gradients(
        self,
        whole: torch.Tensor | None,
        factors: Factors,
        wanted: Sequence[bool],
        into: list[torch.Tensor | None],
    ) -> None:
        """Turn the gradient of the merged weights into those of the factors that want one.

        Args:
            whole: (S, m, d), or None where nothing is adapted.
            factors: The adapters.
            wanted: For all A and then all B whether a gradient is wanted.
            into: Where they go, in the same order.
        """
        layers, first = len(factors.b), 0
        for part in self.parts:
            if whole is not None and part.index is not None:
                own = whole[:, first : first + len(part.weight)]
                a, b = factors.a[part.index], factors.b[part.index]
                if wanted[part.index]:
                    into[part.index] = torch.bmm(b.transpose(1, 2), own).mul_(factors.scale)
                if wanted[layers + part.index]:
                    into[layers + part.index] = torch.bmm(own, a.transpose(1, 2)).mul_(factors.scale)
            first += len(part.weight)


@dataclass(frozen=True)
class Input:
    """What a merged layer is applied to: x (tokens, d) by adapter, weight (S, m, d), bias, the adapters' tokens."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    groups: Groups


def to_features(given: Input, *, spare: int) -> torch.Tensor:
    """W_adapter x + bias laid out feature by feature, (m, tokens + spare), the spare columns zero."""
    x, weight, groups = given.x, given.weight, given.groups
    out = x.new_empty(weight.shape[1], len(x) + spare)
    out[:, len(x) :].zero_()
    if _even(weight, groups):
        by_adapter = out[:, : len(x)].unflatten(1, (len(groups), -1)).transpose(0, 1)
        by_adapter.copy_(torch.bmm(weight, _by_adapter(x, groups).transpose(1, 2)))
    else:
        for adapter, start, stop in _ranges(weight, groups, len(x)):
            torch.mm(weight[adapter], x[start:stop].t(), out=out[:, start:stop])
    if given.bias is not None:
        out[:, : len(x)].add_(given.bias.unsqueeze(1))
    return out


def apply_merged(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: Groups, *, spare: int = 0
) -> torch.Tensor:
    """Y = W_adapter x + bias for tokens sorted by adapter.

    Args:
        x: (tokens, d).
        weight: (S, m, d), or (1, m, d) for all adapters alike.
        bias: (m,) or None.
        groups: The adapters' token ranges.
        spare: Rows of zeros put behind the last token.
    """
    out = x.new_empty(len(x) + spare, weight.shape[1])
    if spare:
        out[len(x) :].zero_()
    if _even(weight, groups):
        torch.bmm(_by_adapter(x, groups), weight.transpose(1, 2), out=_by_adapter(out[: len(x)], groups))
    else:
        for adapter, start, stop in _ranges(weight, groups, len(x)):
            torch.mm(x[start:stop], weight[adapter].t(), out=out[start:stop])
    if bias is not None:
        out[: len(x)].add_(bias)
    return out


def pull_back(
    dy: torch.Tensor, weight: torch.Tensor, groups: Groups, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Dx = W_adapter^T dy, or added to `out` where one is given."""
    if out is None:
        out = dy.new_empty(len(dy), weight.shape[2])
        if _even(weight, groups):
            torch.bmm(_by_adapter(dy, groups), weight, out=_by_adapter(out, groups))
            return out
        for adapter, start, stop in _ranges(weight, groups, len(dy)):
            torch.mm(dy[start:stop], weight[adapter], out=out[start:stop])
        return out
    if _even(weight, groups):
        _by_adapter(out, groups).baddbmm_(_by_adapter(dy, groups), weight)
        return out
    for adapter, start, stop in _ranges(weight, groups, len(dy)):
        out[start:stop].addmm_(dy[start:stop], weight[adapter])
    return out


def weight_gradient(dy: torch.Tensor, x: torch.Tensor, adapters: int, groups: Groups) -> torch.Tensor:
    """G = dy^T x of each adapter, (S, m, d); zero for adapters without tokens."""
    if len(groups) == adapters and _equal(groups):
        return torch.bmm(_by_adapter(dy, groups).transpose(1, 2), _by_adapter(x, groups))
    made = torch.empty if len(groups) == adapters else torch.zeros
    out = made(adapters, dy.shape[1], x.shape[1], dtype=x.dtype)
    for adapter, start, stop in groups:
        torch.mm(dy[start:stop].t(), x[start:stop], out=out[adapter])
    return out


def _equal(groups: Groups) -> bool:
    """Whether all ranges are equally long."""
    return len({stop - start for _, start, stop in groups}) == 1


def _even(weight: torch.Tensor, groups: Groups) -> bool:
    """Whether one batched product does: every adapter has its own weight and as many tokens as the others."""
    return len(weight) == len(groups) > 1 and _equal(groups)


def _by_adapter(x: torch.Tensor, groups: Groups) -> torch.Tensor:
    """(S, tokens of an adapter, width) over the same memory."""
    return x.view(len(groups), -1, x.shape[1])


def _ranges(weight: torch.Tensor, groups: Groups, tokens: int) -> Groups:
    return groups if len(weight) > 1 else ((0, 0, tokens),)
