"""Shapes of a model's linear layers from the headers of its weight files, without loading a model."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.models.classifier import in_head, is_classifier
from dfl_ray.models.folder import weight_files

_NOT_ADAPTED = ("embed", "wte", "wpe", "lm_head", "norm", "ln_")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a weight file, not read.

    Attributes:
        path: The file.
        shape: Its shape as stored.
        start: Its first byte in the file.
        stop: The byte behind its last.
    """

    path: Path
    shape: tuple[int, ...]
    start: int
    stop: int

    def bytes(self) -> np.ndarray:
        """Map its (stop - start,) uint8 bytes; none of a model that is only described."""
        if self.start == self.stop:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", self.start, (self.stop - self.start,))


@dataclass(frozen=True)
class StoredModel:
    """A local model folder, its weights not read.

    Attributes:
        folder: The folder.
        config_json: Text of its config.json; None where there is none.
        tensors: Parameter name -> where it lies; linear weights are (outputs, inputs) but for models that store them
            transposed.
    """

    folder: Path
    config_json: str | None
    tensors: Mapping[str, StoredTensor]

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration; empty where there is no file."""
        return {} if self.config_json is None else json.loads(self.config_json)

    @cached_property
    def layers_not_used(self) -> frozenset[int]:
        """Numbers of the layers of the files that the configuration does not ask for, counted from 0."""
        return layers_not_used(self.config, self.tensors)


def read_headers(folder: Path) -> StoredModel:
    """Read the configuration and the headers of the files that are the model (`models.folder.weight_files`).

    Args:
        folder: Local model folder.

    Returns:
        The model.

    Raises:
        InputError: No such files; a hub id has to be downloaded first.
    """
    if not folder.is_dir():
        raise InputError(
            f"The shapes of `{folder}` are not known",
            got="no folder at that path",
            expected="`embedded`, a local folder with a model or its config.json, or a hub id whose sizes dfl-ray "
            "ships (dfl_ray/models/published_shapes.py)",
            change="Give `model.name` a local folder; planning does not download.",
        )
    out: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        out |= {
            name: StoredTensor(
                path, tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"])
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    described = folder / "config.json"
    return StoredModel(folder, described.read_text(encoding="utf-8") if described.is_file() else None, out)


def number_of_layers(config: Mapping[str, Any]) -> int | None:
    """Find how many layers a configuration asks for; None where it does not say so by a common name.

    Args:
        config: The model's configuration; `text_config` inside it is looked at too.

    Returns:
        The number of layers, or None.
    """
    text = config.get("text_config")
    for described in (config, text if isinstance(text, dict) else {}):
        for key in _LAYER_KEYS:
            if isinstance(described.get(key), int):
                return int(described[key])
    return None


def layers_not_used(config: Mapping[str, Any], names: Iterable[str]) -> frozenset[int]:
    """Find the layers of a file that lie behind the last one of its configuration.

    The first number in a tensor's name is taken as its layer's, if a layer that is used has a tensor of that name.

    Args:
        config: The model's configuration.
        names: Names of the file's tensors.

    Returns:
        Their numbers, counted from 0.
    """
    layers, there = number_of_layers(config), frozenset(names)
    if layers is None:
        return frozenset()
    found = ((name, _NUMBER.search(name)) for name in there)
    behind = ((name, m) for name, m in found if m is not None and int(m[0]) >= layers)
    return frozenset(
        int(m[0])
        for name, m in behind
        if any(f"{name[: m.start()]}{k}{name[m.end() :]}" in there for k in range(layers))
    )


def all_linear_layers(model: StoredModel) -> tuple[list[LayerShape], int]:
    """Every layer that might be adapted, and the number of the model's parameters.

    Two-dimensional `.weight` entries that are no embedding, head or norm count as linear layers (out, in). Models
    that store theirs transposed (GPT-2) give the same sizes, since only m + d and m matter up to that. Layers of the
    file that the configuration does not ask for are left out.

    Args:
        model: A local model folder.

    Returns:
        The layers in the order of the files' headers, and the number of values in all tensors that are used.
    """
    shapes = {
        name: tensor.shape
        for name, tensor in model.tensors.items()
        if (m := _NUMBER.search(name)) is None or int(m[0]) not in model.layers_not_used
    }
    classifier = model.config_json is not None and is_classifier(model.config_json)
    layers = [
        LayerShape(name.removesuffix(".weight"), shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 2
        and not any(word in name for word in _NOT_ADAPTED)
        and not (classifier and in_head(name))
    ]
    return layers, sum(prod(shape) for shape in shapes.values())
