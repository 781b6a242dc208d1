"""Adapters of many devices inside one base model: each row of a batch is driven by its own adapter.

`y = W0 x + s * B_a (A_a x)`, with the rows of one batch spread over S adapters. The base product
is one GEMM for all rows; the adapter is two batched products over (S, r, d) and (S, m, r) stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.targets import choose_layers
from dfl_ray.models.classifier import in_head


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
    """What adapted layers need to know of the forward pass under way; shared by all of one model.

    Attributes:
        current: Its binding; None is the bare base model.
        shape: Rows and length of its batch; None where nobody says.
    """

    def __init__(self) -> None:
        self.current: Binding | None = None
        self.shape: tuple[int, int] | None = None


class AdaptedLinear(nn.Module):
    """A frozen linear layer with the adapters of the current binding added.

    To the rest of the model it looks like the layer it stands for: attributes it has not itself (`weight`, `bias`,
    `in_features`) are those of that layer.

    Args:
        base: The linear layer.
        layer: Its name and sizes.
        index: Its place among the adapted layers.
        cell: Says what is bound.
    """

    def __init__(self, base: nn.Module, layer: LayerShape, index: int, cell: BindingCell) -> None:
        super().__init__()
        self.base = base
        self.layer = layer
        self.index = index
        self.cell = cell

    def __getattr__(self, name: str) -> Any:
        """An attribute of the module, else of the layer it stands for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute `y = W0 x + s B_a A_a x` under the current binding, and `y = W0 x` where there is none.

        Source: Hu et al. 2021 (arXiv 2106.09685), equation 3, with an adapter a row and the scale s = alpha / r of
        its section 4.1.

        Args:
            x: (rows, length, d), or (rows * length, d) as the routers of expert layers flatten it.

        Returns:
            (rows, length, m), or (rows * length, m); what the base layer gives.

        Raises:
            InputError: The model gives the layer something else than its batch's tokens in order.
        """
        binding, shape = self.cell.current, self.cell.shape
        if binding is None:
            return self.base(x)
        if binding.observe is not None:  # before the product: the watcher may ask for nothing behind it
            flat = shape is not None and x.dim() == 2 and len(x) == shape[0] * shape[1]
            binding.observe(self.index, x.reshape(*shape, -1) if flat and shape is not None else x)
        y = self.base(x)
        if shape is not None:
            wrong = self.misfit(x, y, shape)
            if wrong:
                raise misfit_error([self.layer.name], wrong)
            if x.dim() == 2:
                x = x.reshape(*shape, -1)
        if not binding.b:
            return y
        return _add_adapters(y, x, binding, self.index)

    def misfit(self, x: torch.Tensor, y: object, shape: tuple[int, int]) -> str:
        """Say what keeps a call from being adapted row by row.

        Args:
            x: What the layer was given.
            y: What it gave.
            shape: Rows and length of the batch.

        Returns:
            The shapes in words; empty if nothing is wrong.
        """
        layer, leading = self.layer, tuple(x.shape[:-1])
        fits = isinstance(y, torch.Tensor) and tuple(y.shape) == (*leading, layer.out_features)
        if fits and leading in (shape, (shape[0] * shape[1],)) and x.shape[-1] == layer.in_features:
            return ""
        given = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
        return (
            f"input {tuple(x.shape)} and output {given} for a batch of {shape[0]} rows of {shape[1]} tokens"
        )


def misfit_error(names: Sequence[str], wrong: str, change: str = "Name others") -> InputError:
    """Make the error for layers that a model does not give its batch's tokens in order.

    Args:
        names: The layers.
        wrong: What `AdaptedLinear.misfit` says of the first.
        change: What to do about it.

    Returns:
        The error, to be raised.
    """
    return InputError(
        "`model.target_modules` names layers that can't be adapted row by row, since the model does not give them its "
        f"tokens in order: {', '.join(names)}",
        got=wrong,
        expected="input and output of one vector a token",
        change=change,
    )


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
    add = torch.baddbmm if torch.is_grad_enabled() else torch.Tensor.baddbmm_  # y is nobody else's
    return add(y.reshape(groups, -1, y.shape[-1]), z, b.transpose(1, 2), alpha=binding.scale).view_as(y)


def _features(module: nn.Module) -> tuple[int, int] | None:
    """(out_features, in_features) of a linear layer, GPT-2's transposed Conv1D included; None for others."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D":
        inputs, outputs = cast(torch.Tensor, module.weight).shape
        return int(outputs), int(inputs)
    return None


def find_targets(model: nn.Module, target_modules: str | Sequence[str]) -> list[LayerShape]:
    """Find the linear layers to adapt.

    Args:
        model: A causal language model.
        target_modules: "all-linear" for every linear layer but the output head (as in PEFT), or name suffixes.

    Returns:
        Their names and sizes, in the order of the model's modules.

    Raises:
        InputError: Nothing matches.
    """
    return choose_layers(linear_layers(model), target_modules)


def linear_layers(model: nn.Module) -> list[LayerShape]:
    """List all linear layers of a model but its output head or a classifier's, GPT-2's transposed `Conv1D` included.

    Args:
        model: A causal language model; `get_output_embeddings` names its head where it has that method.

    Returns:
        Names and sizes, in the order of the model's modules.
    """
    names_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = names_head()
    linear = [(n, m, _features(m)) for n, m in model.named_modules()]
    if classifies(model):
        linear = [entry for entry in linear if not in_head(entry[0])]
    return [LayerShape(n, *f) for n, m, f in linear if f is not None and m is not head]


def classifies(model: nn.Module) -> bool:
    """Tell whether a model is a sequence classifier of `transformers`."""
    return type(model).__name__.endswith("ForSequenceClassification")


def inject(model: nn.Module, layers: Sequence[LayerShape]) -> BindingCell:
    """Replace the named layers by adapted ones, in place, and freeze the model.

    Args:
        model: The base model; none of its parameters needs a gradient any more.
        layers: The layers to adapt; their order gives the layer indices of a `Binding`.

    Returns:
        The cell through which a binding is given to the next forward pass.
    """
    model.requires_grad_(False)
    cell = BindingCell()
    for index, layer in enumerate(layers):
        parent_name, _, child = layer.name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, AdaptedLinear(getattr(parent, child), layer, index, cell))
    return cell
