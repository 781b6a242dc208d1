"""The base model rebuilt around its plain arrays, without copying them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dfl_ray.models.classifier import is_classifier
from dfl_ray.models.decoder import DecoderShape
from dfl_ray.models.llama import empty_decoder
from dfl_ray.models.weights import BaseWeights


def build_model(weights: BaseWeights, device: str = "cpu") -> Any:
    """Rebuild the model around the arrays: on the CPU the parameters *are* the arrays, nothing is copied.

    The Llama family is built from the project's own modules, which need torch alone; anything else by
    `transformers`.

    Args:
        weights: What `load_base` gave; read-only arrays are welcome.
        device: "cpu" or a CUDA device.

    Returns:
        The model in evaluation mode, frozen, with scaled-dot-product attention: a `CausalDecoder` or a
        `PreTrainedModel`.
    """
    shape = weights.decoder
    return build_transformer(weights, device) if shape is None else build_decoder(weights, shape, device)


def build_transformer(weights: BaseWeights, device: str = "cpu") -> Any:
    """Build the `transformers` model around the arrays, whatever its kind; see `build_model`.

    Args:
        weights: The arrays; `aliases` are tied again and `buffers` are copied.
        device: "cpu" or a CUDA device.

    Returns:
        The `PreTrainedModel` in evaluation mode, frozen.
    """
    config = json.loads(weights.config_json)
    model = empty_transformer(
        config, weights.dtype, trust_remote_code=weights.trust_remote_code, code=weights.code
    )
    _fill(model, weights, device)
    for name, stored in weights.aliases.items():
        _set(model, name, model.get_parameter(stored))
    if any(p.is_meta for p in model.parameters()):
        model.tie_weights()
    for name, array in weights.buffers.items():
        _set(model, name, shared_tensor(array).to(device).clone())
    return model.to(device).eval().requires_grad_(False)


def build_decoder(weights: BaseWeights, shape: DecoderShape, device: str = "cpu") -> Any:
    """Build the project's own decoder around the arrays; see `build_model`.

    Args:
        weights: The arrays.
        shape: The decoder that they fill.
        device: "cpu" or a CUDA device.

    Returns:
        The `CausalDecoder` in evaluation mode, frozen.
    """
    model = empty_decoder(shape)
    _fill(model, weights, device)
    if shape.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.register_buffer("frequencies", shape.inverse_frequencies().to(device), persistent=False)
    return model.eval().requires_grad_(False)


def empty_transformer(
    config: Mapping[str, Any], dtype: str, *, trust_remote_code: bool = False, code: str = ""
) -> Any:
    """A model of `transformers` whose parameters have shapes and no memory.

    Args:
        config: Its configuration, with `model_type`.
        dtype: Precision of its parameters.
        trust_remote_code: Run code shipped with it.
        code: Where that code is, if the model is made by it.

    Returns:
        The model; its parameters lie on torch's `meta` device, its buffers in memory.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    made = (
        AutoConfig.from_pretrained(code, trust_remote_code=trust_remote_code)
        if code
        else AutoConfig.for_model(**config)
    )
    with init_empty_weights(include_buffers=False):
        model = auto_class(made.to_dict()).from_config(
            made, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
    # Buffers that no file has, such as tables of sines, are computed in the model's precision there; as
    # `from_pretrained` does, they are computed anew in float32.
    for module in model.modules():
        if module._non_persistent_buffers_set:
            model._init_weights(module)
    return model


def auto_class(config: Mapping[str, Any]) -> Any:
    """Find the class of `transformers` that a model of a configuration is loaded by.

    Args:
        config: The configuration; `architectures` tells a classifier.

    Returns:
        `AutoModelForSequenceClassification` or `AutoModelForCausalLM`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    classifier = is_classifier(json.dumps({"architectures": config.get("architectures")}))
    return AutoModelForSequenceClassification if classifier else AutoModelForCausalLM


def _fill(model: Any, weights: BaseWeights, device: str) -> None:
    for name, array in weights.arrays.items():
        tensor = shared_tensor(array).to(device)
        _set(model, name, torch.nn.Parameter(tensor, requires_grad=False))
    if weights.four_bit:
        _fill_four_bit(model, weights, device)


def _fill_four_bit(model: Any, weights: BaseWeights, device: str) -> None:
    from dfl_ray.models.four_bit_linear import FourBitLinear

    dtype = getattr(torch, weights.dtype)
    for name, held in weights.four_bit.items():
        layer = name.removesuffix(".weight")
        packed, absmax = (shared_tensor(a).to(device) for a in (held.packed, held.absmax))
        bias = model.get_submodule(layer).bias
        _set(model, layer, FourBitLinear(packed, absmax, held.shape, bias, dtype))


def _set(model: Any, name: str, part: torch.Tensor | torch.nn.Module) -> None:
    parent_name, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent_name), leaf, part)


def shared_tensor(array: np.ndarray) -> torch.Tensor:
    """Make a tensor over an array's own memory, read-only memory included (nothing ever writes to the base).

    Args:
        array: The array; uint16 stands for the bits of bfloat16, since a model may hold some parameters in another
            type.

    Returns:
        The tensor, of the same shape.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
