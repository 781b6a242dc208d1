"""What compiled loops are told of a tensor: where it lies and what its elements are."""

from __future__ import annotations

from typing import Any

import torch

KINDS = (torch.float32, torch.bfloat16)
"""Precisions that compiled loops read and write; they compute in float32."""


def element(x: torch.Tensor) -> Any:
    """The type of a tensor's elements in compiled loops.

    Args:
        x: float32 or bfloat16.

    Returns:
        FLOAT or BFLOAT of `vector_ir`.

    Raises:
        TypeError: Another precision.
    """
    from dfl_ray.engines.cpu.vector_ir import BFLOAT, FLOAT

    if x.dtype not in KINDS:
        raise TypeError(f"compiled loops take float32 and bfloat16, not {x.dtype}")
    return FLOAT if x.dtype == torch.float32 else BFLOAT


def address(x: torch.Tensor) -> int:
    """Where a tensor's first element lies; its last dimension must be without gaps.

    Args:
        x: On the CPU.

    Raises:
        ValueError: The last dimension has gaps.
    """
    if x.dim() and x.stride(-1) != 1 and x.shape[-1] > 1:
        raise ValueError(f"the last dimension must lie without gaps, not with stride {x.stride(-1)}")
    return x.data_ptr()


def lanes_dividing(width: int) -> int:
    """The widest vector of this processor that divides a width, so that no vector overlaps another.

    Args:
        width: Features of a row, >= 1.

    Returns:
        1, 2, 4, 8 or 16.
    """
    from dfl_ray.engines.cpu import vector_ir

    return min(vector_ir.width(), width & -width)
