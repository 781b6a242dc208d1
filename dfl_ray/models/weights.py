"""The frozen base model's weights as plain arrays, and what is to be said of how they were read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.models.classifier import PEFT_HEADS, class_names
from dfl_ray.models.decoder import DecoderShape, read_decoder

if TYPE_CHECKING:
    import torch


FOUR_BIT_BLOCK = 64
"""Values that share one constant in a 4-bit weight."""
FOUR_BIT_BYTES = 0.5 + 4 / FOUR_BIT_BLOCK
"""Bytes of one of its values, with its share of the block's float32 constant."""


@dataclass(frozen=True)
class FourBitTensor:
    """A linear layer's weight in 4 bits; see `dfl_ray.models.four_bit`.

    Attributes:
        packed: (ceil(values / 2), 1) uint8, two levels a byte.
        absmax: (blocks,) float32, the largest magnitude of each block of `FOUR_BIT_BLOCK` values.
        shape: (outputs, inputs) of the weight.
    """

    packed: np.ndarray
    absmax: np.ndarray
    shape: tuple[int, int]


@dataclass(frozen=True)
class BaseWeights:
    """A base model as data, so that an object store can hold it once and every process map it.

    Attributes:
        config_json: The `transformers` configuration.
        arrays: Parameter name -> array; bfloat16 is stored as uint16 bits.
        dtype: "float32" or "bfloat16".
        trust_remote_code: Whether code shipped with a hub model may run.
        buffers: Persistent buffer name -> array, in the buffer's own type; they are part of the file.
        aliases: Further names of tied parameters -> the name they are stored under.
        notes: What the user should be told about the folder, in words.
        code: Folder or hub id whose own code makes the model; empty where `transformers` has it.
        four_bit: Parameter name -> weight in 4 bits, in the place of its array (`model.load_in_4bit`).
        longest: Most tokens that a row may have (`model.max_tokens`); None where nobody says.
    """

    config_json: str
    arrays: Mapping[str, np.ndarray]
    dtype: str
    trust_remote_code: bool = False
    buffers: Mapping[str, np.ndarray] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    code: str = ""
    four_bit: Mapping[str, FourBitTensor] = field(default_factory=dict)
    longest: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all parameters and persistent buffers."""
        packed = [a for t in self.four_bit.values() for a in (t.packed, t.absmax)]
        return sum(a.nbytes for a in (*self.arrays.values(), *self.buffers.values(), *packed))

    @property
    def parameters(self) -> int:
        """Number of parameters, those held in 4 bits included."""
        return sum(prod(x.shape) for x in (*self.arrays.values(), *self.four_bit.values()))

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of a sequence classifier's classes; None for a language model."""
        return class_names(self.config_json)

    @property
    def head(self) -> dict[str, np.ndarray] | None:
        """Name -> float32 values of a classifier's head as PEFT keeps it; None for a language model."""
        if self.classes is None:
            return None
        named = {n: a for n, a in self.arrays.items() if n.partition(".")[0] in PEFT_HEADS}
        return {n: a if a.dtype != np.uint16 else _widened(a) for n, a in named.items()}

    @property
    def decoder(self) -> DecoderShape | None:
        """The Llama-family decoder that these arrays fill exactly, or None."""
        shape = None if self.classes else read_decoder(self.config_json, self.longest)
        return shape if shape is not None and set(self.arrays) == set(shape.parameter_shapes()) else None


def _widened(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def own_head_note(path: str | Path) -> str:
    """Say that a configuration ties the head to the embedding and the file holds another head, which is used."""
    return (
        f"`model.name`: the configuration of {path} says tie_word_embeddings=true, but the file holds an output head "
        "that differs from the embedding; the file's head is used, as `transformers` 5 does."
    )


def fewer_layers_note(path: str | Path, layers: int, beyond: Iterable[int]) -> str:
    """Say that a file holds more layers than its configuration asks for.

    Args:
        path: The model.
        layers: Number of layers of the configuration.
        beyond: Numbers of the layers that are not used, counted from 0.

    Returns:
        One sentence.
    """
    unused = ", ".join(map(str, sorted(set(beyond))))
    return (
        f"`model.name`: the configuration of {path} asks for {layers} layers and the file holds more; layers {unused} "
        "(counted from 0) are not used."
    )


def as_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Turn CPU tensors into arrays over the same memory; bfloat16 becomes its bits as uint16.

    Args:
        tensors: Name -> tensor, contiguous and on the CPU.

    Returns:
        Name -> array of the same shape.
    """
    import torch

    return {n: (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy() for n, t in tensors.items()}
