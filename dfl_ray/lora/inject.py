"""Adapters of many devices inside one base model: each row of a batch is driven by its own adapter.

`y = W0 x + s * B_a (A_a x)`, with the rows of one batch spread over S adapters. The base product
is one GEMM for all rows; the adapter is two batched products over (S, r, d) and (S, m, r) stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.targets import choose_layers


@dataclass
class Binding:
    """The adapters of one forward pass.

    Attributes:
        a: One (S, r, d) stack a layer.
        b: One (S, m, r) stack a layer.
        adapter_index: (rows,) int64, the adapter of each row of the batch; None when the rows are sorted by adapter,
            with equally many rows each, which needs no gather.
        scale: s = alpha / r.
        observe: Called with (layer index, input (rows, length, d)) before the product; for sketches.
        gate: Called with (layer index, input (rows, length, d), A x (rows, length, r)); what it gives takes the
            place of A x. For rules that weigh experts anew for every prompt or token.
    """

    a: Sequence[torch.Tensor]
    b: Sequence[torch.Tensor]
    adapter_index: torch.Tensor | None
    scale: float
    observe: Callable[[int, torch.Tensor], None] | None = None
    gate: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor] | None = None


class BindingCell:
    """Holds the binding of the forward pass under way; shared by all adapted layers of one model."""

    def __init__(self) -> None:
        self.current: Binding | None = None


class AdaptedLinear(nn.Module):
    """A frozen linear layer with the adapters of the current binding added."""

    def __init__(self, base: nn.Module, index: int, cell: BindingCell) -> None:
        super().__init__()
        self.base = base
        self.index = index
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`W0 x + s B_a A_a x` for x of shape (rows, length, d)."""
        y = self.base(x)
        binding = self.cell.current
        if binding is None:
            return y
        if binding.observe is not None:
            binding.observe(self.index, x)
        if not binding.b:
            return y
        return _add_adapters(y, x, binding, self.index)


def _add_adapters(y: torch.Tensor, x: torch.Tensor, binding: Binding, index: int) -> torch.Tensor:
    # Adapters are kept in float32 whatever the base's precision.
    a, b = binding.a[index].to(x.dtype), binding.b[index].to(x.dtype)
    if binding.adapter_index is not None:
        a, b = a[binding.adapter_index], b[binding.adapter_index]
    groups = a.shape[0]
    grouped = x.reshape(groups, -1, x.shape[-1])
    z = torch.bmm(grouped, a.transpose(1, 2))
    if binding.gate is not None:
        z = binding.gate(index, x, z.view(*x.shape[:-1], -1)).view_as(z)
    out = torch.baddbmm(y.reshape(groups, -1, y.shape[-1]), z, b.transpose(1, 2), alpha=binding.scale)
    return out.view_as(y)


def _features(module: nn.Module) -> tuple[int, int] | None:
    """(out_features, in_features) of a linear layer, GPT-2's transposed Conv1D included; None for others."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D":
        inputs, outputs = cast(torch.Tensor, module.weight).shape
        return int(outputs), int(inputs)
    return None


def find_targets(model: nn.Module, target_modules: str | Sequence[str]) -> list[LayerShape]:
    """The linear layers to adapt.

    Args:
        model: A causal language model.
        target_modules: "all-linear" for every linear layer but the output head (as in PEFT), or name suffixes.

    Raises:
        InputError: Nothing matches.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    linear = [(n, m, _features(m)) for n, m in model.named_modules()]
    return choose_layers(
        [LayerShape(n, *f) for n, m, f in linear if f is not None and m is not head], target_modules
    )


def inject(model: nn.Module, layers: Sequence[LayerShape]) -> BindingCell:
    """Replace the named layers by adapted ones, in place, and freeze the model.

    Returns:
        The cell through which a binding is given to the next forward pass.
    """
    model.requires_grad_(False)
    cell = BindingCell()
    for index, layer in enumerate(layers):
        parent_name, _, child = layer.name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, AdaptedLinear(getattr(parent, child), index, cell))
    return cell
