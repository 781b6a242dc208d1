"""A linear layer whose frozen weight is held in 4 bits (`dfl_ray.models.four_bit` says how); needs bitsandbytes."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import torch
from torch import nn

from dfl_ray.models.weights import FOUR_BIT_BLOCK

LEVELS = "nf4"


def functional() -> Any:
    """The functions of bitsandbytes, which is an extra."""
    return import_module("bitsandbytes.functional")


class FourBitLinear(nn.Linear):
    """y = W x + bias with W held in 4 bits.

    It is a `torch.nn.Linear` to whoever asks, PEFT among them; the weight is no parameter and can't be written to.

    Args:
        packed: (ceil(values / 2), 1) uint8, two levels a byte, the first in the upper half.
        absmax: (blocks,) float32, see `dfl_ray.models.weights.FourBitTensor`.
        shape: (out_features, in_features).
        bias: (out_features,), or None.
        dtype: Precision to which the weight is taken back.
    """

    def __init__(
        self, packed: torch.Tensor, absmax: torch.Tensor, shape: tuple[int, int], bias: nn.Parameter | None,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.out_features, self.in_features = shape
        self.weight_dtype = dtype
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("absmax", absmax, persistent=False)
        self.register_buffer(
            "levels", functional().get_4bit_type(LEVELS, device=packed.device), persistent=False
        )
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight taken back, (out_features, in_features); a copy that is made anew at every access."""
        # Given flat: with rows that are no multiple of a block, the CPU kernel of bitsandbytes 0.50 takes the constants
        # of other blocks.
        state = functional().QuantState(
            absmax=self.get_buffer("absmax"), shape=torch.Size((self.out_features * self.in_features,)),
            code=self.get_buffer("levels"), blocksize=FOUR_BIT_BLOCK, quant_type=LEVELS, dtype=self.weight_dtype,
        )  # fmt: skip
        flat = functional().dequantize_4bit(self.get_buffer("packed"), state)
        return flat.view(self.out_features, self.in_features)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Compute (..., out_features) for an input (..., in_features); its gradient is that of W as held."""
        y = cast("torch.Tensor", _Product.apply(input, self))
        return y if self.bias is None else y + self.bias


class _Product(torch.autograd.Function):
    """x W^T, for which backward keeps no W: it is taken back once more."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FourBitLinear) -> torch.Tensor:
        ctx.layer = layer
        return x @ layer.weight.to(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.weight.to(gradient.dtype), None
