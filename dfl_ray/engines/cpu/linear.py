"""Frozen linear layers with each adapter merged in: W_k = W0 + s B_k A_k, one plain product an adapter.

Merging costs 2 m d r operations an adapter and saves the two thin products per token, their activations and their
backward: with n tokens an adapter the share is r / n of the layer's own product. The gradients come back the same
way, through the adapter's whole weight gradient G = dy^T x: dB = s G A^T, dA = s B^T G.

Source: Hu et al. 2021 (arXiv 2106.09685), equation 3 and section 4.1 (scale s = alpha / r).
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
    """The adapters of a pass; empty sequences stand for the bare base model.

    Attributes:
        a: One (S, r, d) stack a layer.
        b: One (S, m, r) stack a layer.
        scale: s = alpha / r.
    """

    a: Sequence[torch.Tensor]
    b: Sequence[torch.Tensor]
    scale: float


@dataclass(frozen=True)
class Joined:
    """Linear layers that read the same input, as one layer.

    Attributes:
        parts: The layers, whose outputs stand one behind the other.
    """

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(p.weight.numel() for p in self.parts)

    def bias(self) -> torch.Tensor | None:
        """Join the biases, zeros where a part has none.

        Returns:
            (m,) over all parts, or None if no part has a bias.
        """
        if all(p.bias is None for p in self.parts):
            return None
        return torch.cat(
            [p.weight.new_zeros(len(p.weight)) if p.bias is None else p.bias for p in self.parts]
        )

    def merge(self, factors: Factors) -> torch.Tensor:
        """Add each adapter to the frozen weights: W_k = W0 + s B_k A_k.

        Args:
            factors: The adapters.

        Returns:
            (S, m, d), or (1, m, d) where nothing is adapted, which then serves all adapters.
        """
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
        """Turn the gradient G of the merged weights into those of the factors: dA = s B^T G and dB = s G A^T.

        Args:
            whole: (S, m, d), or None where nothing is adapted.
            factors: The adapters.
            wanted: For all A and then all B whether a gradient is wanted.
            into: Where they go, in the same order, (S, r, d) and (S, m, r).
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
    """What a merged layer is applied to, and the layer.

    Attributes:
        x: (tokens, d), sorted by adapter.
        weight: (S, m, d), or (1, m, d) for all adapters alike.
        bias: (m,), or None.
        groups: The adapters' token ranges.
    """

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    groups: Groups


def to_features(given: Input, *, spare: int) -> torch.Tensor:
    """Compute y = W_k x + bias, laid out feature by feature, with k the adapter of each token.

    Args:
        given: Input and layer.
        spare: Number of zero columns behind the last token.

    Returns:
        (m, tokens + spare).
    """
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

    Returns:
        (tokens + spare, m).
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
    """Compute the gradient of a merged layer's input, dx = W_k^T dy, with k the adapter of each token.

    Args:
        dy: (tokens, m).
        weight: (S, m, d), or (1, m, d) for all adapters alike.
        groups: The adapters' token ranges.
        out: (tokens, d) to which dx is added in place; None makes a new tensor.

    Returns:
        (tokens, d).
    """
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
    """Compute the gradient of each adapter's whole weight, G_k = dy_k^T x_k over the adapter's own tokens.

    Args:
        dy: (tokens, m).
        x: (tokens, d).
        adapters: S.
        groups: The adapters' token ranges.

    Returns:
        (S, m, d), zero for adapters without tokens.
    """
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
