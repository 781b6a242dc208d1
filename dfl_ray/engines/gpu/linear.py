"""Frozen linear layers that read the same input, as one product, with each adapter beside it.

y = W x + bias + B (s A x). The thin product s A x -> z (r numbers a token) is made for all joined layers at once;
B z is written first and the frozen product is added onto it, so that the wide output is written once more and never
read for the adapters alone, and rounding touches only the adapters' own part.

Backward, with g = dy: dz = g B, dB = g^T z, dA = s dz^T x, dx = g W + dz (s A). A frozen A needs no x, only z.

Source: Hu et al. 2021 (arXiv 2106.09685), equation 3 and section 4.1 (scale s = alpha / r).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Part:
    """Some outputs of a joined layer.

    Attributes:
        start: First output.
        stop: Output behind the last.
        index: Number of the adapted layer, or None where nothing is adapted.
    """

    start: int
    stop: int
    index: int | None


@dataclass(frozen=True)
class Joined:
    """Frozen layers that read the same input, as one layer.

    Attributes:
        weights: The (m, d) weight in the precision of the products, cut along its outputs into what lies in memory
            together: all of it on a GPU, one tensor a layer on a CPU, where the base is mapped and not copied.
        bias: (m,), or None.
        parts: Which outputs are whose.
    """

    weights: tuple[torch.Tensor, ...]
    bias: torch.Tensor | None
    parts: tuple[Part, ...]

    @property
    def outputs(self) -> int:
        """m."""
        return sum(len(w) for w in self.weights)

    def _cuts(self) -> Iterator[tuple[slice, torch.Tensor]]:
        start = 0
        for weight in self.weights:
            yield slice(start, start + len(weight)), weight
            start += len(weight)

    def add_product_(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add x W^T to `out`, in place.

        Args:
            out: (tokens, m).
            x: (tokens, d).

        Returns:
            `out`.
        """
        for outputs, weight in self._cuts():
            out[:, outputs].addmm_(x, weight.t())
        return out

    def add_pulled_back_(self, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        """Add dy W to `dx`, in place.

        Args:
            dx: (tokens, d).
            dy: (tokens, m).

        Returns:
            `dx`.
        """
        for outputs, weight in self._cuts():
            dx.addmm_(dy[:, outputs], weight)
        return dx

    @property
    def adapted(self) -> tuple[Part, ...]:
        """The parts with adapters."""
        return tuple(p for p in self.parts if p.index is not None)


@dataclass(frozen=True)
class Adapters:
    """One joined layer's adapters in the precision of the products.

    Attributes:
        a: (K, parts * r, d) scaled factors s A of all adapted parts, one under the other.
        b: One (K, m, r) factor an adapted part.
    """

    a: torch.Tensor
    b: tuple[torch.Tensor, ...]

    @property
    def rank(self) -> int:
        """r, frozen directions included."""
        return self.b[0].shape[2]


class Gradients:
    """Where the factors' gradients go: flat storage in float32 (or float64).

    Args:
        a: One (S, r, d) view a layer, or None where A is not trained.
        b: One (S, m, r) view a layer.
        used: (K,) int64 adapters of the batch among the S, or None when they are all of them in order.
        scale: s = alpha / r.
    """

    def __init__(
        self,
        a: Sequence[torch.Tensor] | None,
        b: Sequence[torch.Tensor],
        used: torch.Tensor | None,
        scale: float,
    ) -> None:
        self.a, self.b, self.used, self.scale = a, b, used, scale

    @property
    def wants_a(self) -> bool:
        """Whether A is trained."""
        return self.a is not None

    def put(self, into: torch.Tensor, gradient: torch.Tensor) -> None:
        """Write the gradients of the batch's adapters into flat storage.

        Directions behind the trained rank are frozen and left out.

        Args:
            into: (S, rows, columns), one of the views.
            gradient: (K, at least rows, at least columns); what is beyond the view's rows and columns is not written.
        """
        own = gradient[:, : into.shape[1], : into.shape[2]]
        if self.used is None:
            into.copy_(own)
        else:
            into.index_copy_(0, self.used, own.to(into.dtype))


def cast_adapters(
    joined: Joined, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], scale: float
) -> Adapters | None:
    """Make the adapters of one joined layer from the master copies of all layers.

    Args:
        joined: The frozen layers.
        a: One (K, r, d) factor an adapted layer of the model.
        b: One (K, m, r) factor an adapted layer of the model.
        scale: s = alpha / r, with which A is multiplied.

    Returns:
        The adapters in the precision of the frozen weights, or None where nothing is adapted.
    """
    own = [p.index for p in joined.parts if p.index is not None]
    if not own:
        return None
    dtype = joined.weights[0].dtype
    stacked = torch.cat([a[i] for i in own], 1) if len(own) > 1 else a[own[0]]
    return Adapters((stacked * scale).to(dtype), tuple(b[i].to(dtype) for i in own))


def apply(
    joined: Joined, x: torch.Tensor, adapters: Adapters | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute y = W x + bias + B z with z = s A x.

    Args:
        joined: The frozen layers.
        x: (tokens, d), adapter by adapter, equally many tokens each.
        adapters: What is added, or None.

    Returns:
        (tokens, m), and z (K, tokens of an adapter, parts * r) for backward, or None without adapters.
    """
    if adapters is None:
        bare = x.new_zeros(len(x), joined.outputs)
        return joined.add_product_(bare if joined.bias is None else bare.add_(joined.bias), x), None
    count, r = len(adapters.a), adapters.rank
    z = torch.bmm(x.view(count, -1, x.shape[1]), adapters.a.transpose(1, 2))
    out = x.new_empty(count, z.shape[1], joined.outputs)
    number = 0
    for part in joined.parts:
        into = out[:, :, part.start : part.stop]
        bias = None if joined.bias is None else joined.bias[part.start : part.stop]
        if part.index is None:
            into.zero_() if bias is None else into.copy_(bias.expand_as(into))
            continue
        thin = z[:, :, number * r : (number + 1) * r]
        _write(into, thin, adapters.b[number].transpose(1, 2), bias)
        number += 1
    flat = out.view(len(x), -1)
    return joined.add_product_(flat, x), z


def _write(into: torch.Tensor, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Into = x y (+ bias), without another pass over `into` where there is no bias."""
    if bias is None:
        torch.bmm(x, y, out=into)
    else:
        into.copy_(bias.expand_as(into))
        into.baddbmm_(x, y)


def pull_back(
    joined: Joined, dy: torch.Tensor, adapters: Adapters | None, *, needed: bool = True
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Compute the gradients of a joined layer's input and thin product: dz = dy B and dx = dy W + dz (s A).

    Args:
        joined: The frozen layers.
        dy: (tokens, m).
        adapters: As in `apply`.
        needed: Whether dx is.

    Returns:
        dx (tokens, d) or None, and dz (K, tokens of an adapter, parts * r) or None.
    """
    if adapters is None:
        bare = dy.new_zeros(len(dy), joined.weights[0].shape[1]) if needed else None
        return (None if bare is None else joined.add_pulled_back_(bare, dy)), None
    count, r = len(adapters.a), adapters.rank
    grouped = dy.view(count, -1, dy.shape[1])
    dz = dy.new_empty(count, grouped.shape[1], r * len(adapters.b))
    for number, (part, b) in enumerate(zip(joined.adapted, adapters.b, strict=True)):
        # Turned round: with few columns in the result, products are up to three times slower than with few rows.
        thin = torch.bmm(b.transpose(1, 2), grouped[:, :, part.start : part.stop].transpose(1, 2))
        dz[:, :, number * r : (number + 1) * r] = thin.transpose(1, 2)
    if not needed:
        return None, dz
    dx = torch.bmm(dz, adapters.a).view(len(dy), -1)
    return joined.add_pulled_back_(dx, dy), dz


def put_b(
    joined: Joined, dy: torch.Tensor, z: torch.Tensor | None, adapters: Adapters | None, into: Gradients
) -> None:
    """Compute the gradients of all B of a joined layer, dB = dy^T z, and write them.

    Args:
        joined: The frozen layers.
        dy: (tokens, m).
        z: The second result of `apply`.
        adapters: As in `apply`; None writes nothing.
        into: Takes the gradients.
    """
    if adapters is None or z is None:
        return
    grouped, r = dy.view(len(z), -1, dy.shape[1]), adapters.rank
    for number, part in enumerate(joined.adapted):
        target = into.b[part.index]  # type: ignore[index]
        own = z[:, :, number * r : number * r + target.shape[2]]
        # z^T dy and not dy^T z, which takes ten times as long on a CPU at rank 8; the same sums.
        into.put(
            target, exact_product(own.transpose(1, 2), grouped[:, :, part.start : part.stop]).transpose(1, 2)
        )


def put_a(
    joined: Joined, x: torch.Tensor, dz: torch.Tensor | None, adapters: Adapters | None, into: Gradients
) -> None:
    """Compute the gradients of all A of a joined layer, dA = s dz^T x, and write them where A is trained.

    Args:
        joined: The frozen layers.
        x: (tokens, d), the layer's input.
        dz: The second result of `pull_back`.
        adapters: As in `apply`; None writes nothing.
        into: Takes the gradients.
    """
    if into.a is None or adapters is None or dz is None:
        return
    whole = exact_product((dz * into.scale).transpose(1, 2), x.view(len(dz), -1, x.shape[1]))
    for number, part in enumerate(joined.adapted):
        into.put(into.a[part.index], whole[:, number * adapters.rank :])  # type: ignore[index]


def exact_product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Multiply batches of matrices without rounding the sums to half precision, where the machine can.

    Args:
        x: (K, m, n).
        y: (K, n, d).

    Returns:
        (K, m, d): float32 for bfloat16 and float16 on CUDA, else of the inputs' type.
    """
    if x.is_cuda and x.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(x, y, out_dtype=torch.float32)
    return torch.bmm(x, y)
