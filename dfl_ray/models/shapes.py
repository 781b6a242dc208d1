"""Shapes of a model's linear layers from the headers of its weight files, without loading a model."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from math import prod
from pathlib import Path

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.targets import choose_layers

_NOT_ADAPTED = ("embed", "wte", "wpe", "lm_head", "norm", "ln_")


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape, from the headers of all safetensors files of a folder.

    Args:
        folder: Local model folder.

    Returns:
        Shapes as stored; linear weights are (outputs, inputs) but for models that store them transposed.

    Raises:
        InputError: No such files; a hub id has to be downloaded first.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise InputError(
            f"The shapes of `{folder}` are not known",
            got="no safetensors file at that path",
            expected="`embedded` or a local model folder",
            change="Give `model.name` a local folder; planning does not download.",
        )
    out: dict[str, tuple[int, ...]] = {}
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        out |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return out


def linear_layers(folder: Path, target_modules: str | Sequence[str]) -> tuple[list[LayerShape], int]:
    """The layers that would be adapted, and the number of the model's parameters.

    Two-dimensional `.weight` entries that are no embedding, head or norm count as linear layers (out, in). Models
    that store theirs transposed (GPT-2) give the same sizes, since only m + d and m matter up to that.

    Args:
        folder: Local model folder.
        target_modules: As in the config.

    Returns:
        The layers in the order of the files' headers, and the number of values in all tensors.

    Raises:
        InputError: No such files, or nothing matches.
    """
    shapes = weight_shapes(folder)
    layers = [
        LayerShape(name.removesuffix(".weight"), shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and not any(word in name for word in _NOT_ADAPTED)
    ]
    return choose_layers(layers, target_modules), sum(prod(shape) for shape in shapes.values())
