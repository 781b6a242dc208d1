"""A model of which only the configuration is here: its parameters' shapes, so that a run of it can be planned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.models.checks import check_kind
from dfl_ray.models.decoder import read_decoder
from dfl_ray.models.folder import WEIGHTS
from dfl_ray.models.shapes import StoredModel, StoredTensor


def only_described(folder: Path) -> bool:
    """Whether a folder holds a configuration and no weights of any kind.

    Args:
        folder: The folder.
    """
    if not (folder / "config.json").is_file():
        return False
    return not any(p.suffix in WEIGHTS for p in folder.iterdir())


def described_model(folder: Path) -> StoredModel:
    """The shapes that a configuration alone gives.

    Of the Llama family they follow from its sizes; other models are made by `transformers` on torch's `meta` device,
    where parameters have shapes and no memory. A tied head is no parameter of its own.

    Args:
        folder: Holds config.json.

    Returns:
        The model; its tensors have no bytes.

    Raises:
        InputError: It is no model that writes or classifies, or `transformers` does not know it.
    """
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8")
    check_kind(text, str(folder))
    shape = read_decoder(text)
    shapes = _made(text, folder).parameters if shape is None else shape.parameter_shapes()
    return StoredModel(
        folder, text, {name: StoredTensor(path, sizes, 0, 0) for name, sizes in shapes.items()}
    )


def made_layers(model: StoredModel, parameters: int) -> list[LayerShape] | None:
    """The linear layers that a run finds in a model: those of its modules, which its files may name otherwise.

    `transformers` may join what files hold apart: the experts of a mixture become one parameter, which is adapted by
    nobody.

    Args:
        model: A model outside the Llama family.
        parameters: Number of values in its files.

    Returns:
        The layers in model order; None where `transformers` makes no model of that many values from the configuration.
    """
    if model.config_json is None:
        return None
    try:
        made = _made(model.config_json, model.folder)
    except InputError:
        return None
    return made.layers if sum(map(prod, made.parameters.values())) == parameters else None


@dataclass(frozen=True)
class _Made:
    parameters: dict[str, tuple[int, ...]]
    layers: list[LayerShape]


@lru_cache(maxsize=4)
def _made(text: str, folder: Path) -> _Made:
    from dfl_ray.lora.inject import linear_layers
    from dfl_ray.models.build import empty_transformer

    try:
        model = empty_transformer(json.loads(text), "float32")
        model.tie_weights()
    except Exception as error:  # the library raises anything for what it can't make
        said = str(error).strip().splitlines() or [""]
        raise InputError(
            f"The sizes of the model in {folder} can't be told from its config.json",
            got=f"{type(error).__name__}: {said[0][:300]}",
            expected="a configuration of which `transformers` makes a causal language model or a classifier",
            change="Add the model's safetensors files, whose headers tell the sizes.",
        ) from error
    return _Made({name: tuple(p.shape) for name, p in model.named_parameters()}, linear_layers(model))
