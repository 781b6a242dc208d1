"""The base model rebuilt around its plain arrays, without copying them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dfl_ray.models.base import BaseWeights
from dfl_ray.models.decoder import DecoderShape
from dfl_ray.models.llama import empty_decoder


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
    """The `transformers` model around the arrays, whatever its kind; see `build_model`."""
    config = json.loads(weights.config_json)
    model = empty_transformer(config, weights.dtype, trust_remote_code=weights.trust_remote_code)
    _fill(model, weights, device)
    model.tie_weights()
    return model.to(device).eval().requires_grad_(False)


def build_decoder(weights: BaseWeights, shape: DecoderShape, device: str = "cpu") -> Any:
    """The project's own decoder around the arrays; see `build_model`."""
    model = empty_decoder(shape)
    _fill(model, weights, device)
    if shape.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.register_buffer("frequencies", shape.inverse_frequencies().to(device), persistent=False)
    return model.eval().requires_grad_(False)


def empty_transformer(config: Mapping[str, Any], dtype: str, *, trust_remote_code: bool = False) -> Any:
    """A model of `transformers` whose parameters have shapes and no memory.

    Args:
        config: Its configuration, with `model_type`.
        dtype: Precision of its parameters.
        trust_remote_code: Run code shipped with it.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )


def _fill(model: Any, weights: BaseWeights, device: str) -> None:
    for name, array in weights.arrays.items():
        parent_name, _, leaf = name.rpartition(".")
        tensor = shared_tensor(array, weights.dtype).to(device)
        setattr(model.get_submodule(parent_name), leaf, torch.nn.Parameter(tensor, requires_grad=False))


def shared_tensor(array: np.ndarray, dtype: str) -> torch.Tensor:
    """A tensor over the array's own memory, read-only memory included (nothing ever writes to the base)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
