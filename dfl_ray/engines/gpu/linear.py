"""Frozen linear layers that read the same input, as one layer, with each adapter beside it.

On a GPU their weights are one matrix and so is their output; on a CPU each layer keeps its own, since products and
passes over memory are slower there where rows lie apart. An output is therefore a tuple, one matrix a weight.

y = W x + bias + B (s A x). The thin product s A x -> z (r numbers a token) is made for all joined layers at once;
B z is written first and the frozen product is added onto it, so that the wide output is written once more and never
read for the adapters alone, and rounding touches only the adapters' own part.

Backward, with g = dy: dz = g B, dB = g^T z, dA = s dz^T x, dx = g W + dz (s A). A frozen A needs no x, only z.

Source: Hu et al. 2021 (arXiv 2106.09685), equation 3 and section 4.1 (scale s = alpha / r).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

from dfl_ray.engines.cpu.activations import Empty, fresh

Outputs = tuple[torch.Tensor, ...]
"""One (tokens, outputs) a weight."""


@dataclass(frozen=True)
class Part:
    """Some outputs of a joined layer.

    Attributes:
        piece: Number of the weight they come from.
        start: First output of that weight.
        stop: Output behind the last.
        index: Number of the adapted layer, or None where nothing is adapted.
    """

    piece: int
    start: int
    stop: int
    index: int | None

    def of(self, outputs: Outputs, groups: int) -> torch.Tensor:
        """Their columns.

        Args:
            outputs: Of the joined layer.
            groups: Number of adapters K.

        Returns:
            (K, tokens of an adapter, columns), a view.
        """
        whole = outputs[self.piece]
        return whole.view(groups, -1, whole.shape[1])[:, :, self.start : self.stop]


@dataclass(frozen=True)
class Joined:
    """Frozen layers that read the same input, as one layer.

    Attributes:
        weights: The (m, d) weight in the precision of the products, cut along its outputs into what lies in memory
            together: all of it on a GPU, one tensor a layer on a CPU, where the base is mapped and not copied.
        biases: One (outputs,) a weight, or None.
        parts: Which outputs are whose.
        updates: One (m, d) a weight that a device has merged into its own base (`own_base`); None where there is none.
            Beside the weight and not in it: a sum would be rounded to what the weight is stored in.
    """

    weights: tuple[torch.Tensor, ...]
    biases: tuple[torch.Tensor, ...] | None
    parts: tuple[Part, ...]
    updates: tuple[torch.Tensor, ...] | None = None

    def add_product_(self, out: Outputs, x: torch.Tensor) -> Outputs:
        """Add x W^T to `out`, in place.

        Args:
            out: (tokens, outputs) a weight.
            x: (tokens, d).

        Returns:
            `out`.
        """
        for weights in filter(None, (self.weights, self.updates)):
            for into, weight in zip(out, weights, strict=True):
                into.addmm_(x, weight.t())
        return out

    def add_pulled_back_(self, dx: torch.Tensor, dy: Outputs) -> torch.Tensor:
        """Add dy W to `dx`, in place.

        Args:
            dx: (tokens, d).
            dy: (tokens, outputs) a weight.

        Returns:
            `dx`.
        """
        for weights in filter(None, (self.weights, self.updates)):
            for own, weight in zip(dy, weights, strict=True):
                dx.addmm_(own, weight)
        return dx

    def bias_of(self, part: Part) -> torch.Tensor | None:
        """(columns,) of a part, or None."""
        return None if self.biases is None else self.biases[part.piece][part.start : part.stop]

    @property
    def adapted(self) -> tuple[Part, ...]:
        """The parts with adapters."""
        return tuple(p for p in self.parts if p.index is not None)


@dataclass(frozen=True)
class Adapters:
    """One joined layer's adapters in the precision of the products.

    Ranks r_p are those of each part, frozen directions included: what was merged into a base has the full rank of its
    layer, and layers that read the same input may have different numbers of outputs.

    Attributes:
        a: (K, sum of r_p, d) scaled factors s A of all adapted parts, one under the other.
        b: One (K, m, r_p) factor an adapted part.
    """

    a: torch.Tensor
    b: tuple[torch.Tensor, ...]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First row of each adapted part in `a`, and the first behind it."""
        ends = list(accumulate(b.shape[2] for b in self.b))
        return list(zip([0, *ends], ends, strict=False))


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
    joined: Joined, x: torch.Tensor, adapters: Adapters | None, empty: Empty = fresh
) -> tuple[Outputs, torch.Tensor | None]:
    """Compute y = W x + bias + B z with z = s A x.

    Args:
        joined: The frozen layers.
        x: (tokens, d), adapter by adapter, equally many tokens each.
        adapters: What is added, or None.
        empty: Gives the memory of the outputs.

    Returns:
        (tokens, outputs) a weight, and z (K, tokens of an adapter, sum of r_p) for backward, or None without adapters.
    """
    count = 1 if adapters is None else len(adapters.a)
    z = None if adapters is None else torch.bmm(x.view(count, -1, x.shape[1]), adapters.a.transpose(1, 2))
    out = tuple(empty(x, len(x), len(w)) for w in joined.weights)
    number = 0
    for part in joined.parts:
        into, bias = part.of(out, count), joined.bias_of(part)
        if part.index is None or adapters is None or z is None:
            into.zero_() if bias is None else into.copy_(bias.expand_as(into))
            continue
        first, last = adapters.spans[number]
        _write(into, z[:, :, first:last], adapters.b[number].transpose(1, 2), bias)
        number += 1
    return joined.add_product_(out, x), z


def _write(into: torch.Tensor, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Into = x y (+ bias), without another pass over `into` where there is no bias."""
    if bias is None:
        torch.bmm(x, y, out=into)
    else:
        into.copy_(bias.expand_as(into))
        into.baddbmm_(x, y)


def pull_back(
    joined: Joined, dy: Outputs, adapters: Adapters | None, *, needed: bool = True
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Compute the gradients of a joined layer's input and thin product: dz = dy B and dx = dy W + dz (s A).

    Args:
        joined: The frozen layers.
        dy: (tokens, outputs) a weight.
        adapters: As in `apply`.
        needed: Whether dx is.

    Returns:
        dx (tokens, d) or None, and dz (K, tokens of an adapter, sum of r_p) or None.
    """
    if adapters is None:
        bare = dy[0].new_zeros(len(dy[0]), joined.weights[0].shape[1]) if needed else None
        return (None if bare is None else joined.add_pulled_back_(bare, dy)), None
    count = len(adapters.a)
    dz = dy[0].new_empty(count, len(dy[0]) // count, adapters.a.shape[1])
    for part, b, (first, last) in zip(joined.adapted, adapters.b, adapters.spans, strict=True):
        dz[:, :, first:last] = _thin(part.of(dy, count), b)
    if not needed:
        return None, dz
    dx = torch.bmm(dz, adapters.a).view(len(dy[0]), -1)
    return joined.add_pulled_back_(dx, dy), dz


def _thin(dy: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute dy B, (K, tokens, r), turned round where that is faster.

    With few columns in the result products are up to three times slower than with few rows, except in bfloat16 on a
    CPU, where turning costs more than it saves.
    """
    if dy.dtype == torch.bfloat16 and not dy.is_cuda:
        return torch.stack([torch.mm(x, y) for x, y in zip(dy, b, strict=True)])
    return torch.bmm(b.transpose(1, 2), dy.transpose(1, 2)).transpose(1, 2)


def put_b(
    joined: Joined, dy: Outputs, z: torch.Tensor | None, adapters: Adapters | None, into: Gradients
) -> None:
    """Compute the gradients of all B of a joined layer, dB = dy^T z, and write them.

    Args:
        joined: The frozen layers.
        dy: (tokens, outputs) a weight.
        z: The second result of `apply`.
        adapters: As in `apply`; None writes nothing.
        into: Takes the gradients.
    """
    if adapters is None or z is None:
        return
    for part, (first, _) in zip(joined.adapted, adapters.spans, strict=True):
        target = into.b[part.index]  # type: ignore[index]
        own = z[:, :, first : first + target.shape[2]]
        # z^T dy and not dy^T z, which takes ten times as long on a CPU at rank 8; the same sums.
        into.put(target, exact_product(own.transpose(1, 2), part.of(dy, len(z))).transpose(1, 2))


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
    for part, (first, _) in zip(joined.adapted, adapters.spans, strict=True):
        into.put(into.a[part.index], whole[:, first:])  # type: ignore[index]


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
