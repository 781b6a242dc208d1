"""The frozen base model: read once, shared as plain arrays, rebuilt around them without copying."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfl_ray.errors import InputError
from dfl_ray.models.decoder import DecoderShape, read_decoder
from dfl_ray.models.llama import empty_decoder, parameter_shapes


@dataclass(frozen=True)
class BaseWeights:
    """A base model as data, so that an object store can hold it once and every process map it.

    Attributes:
        config_json: The `transformers` configuration.
        arrays: Parameter name -> array; bfloat16 is stored as uint16 bits.
        dtype: "float32" or "bfloat16".
        trust_remote_code: Whether code shipped with a hub model may run.
    """

    config_json: str
    arrays: Mapping[str, np.ndarray]
    dtype: str
    trust_remote_code: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(a.nbytes for a in self.arrays.values())


def load_base(path: str | Path, *, dtype: str = "float32", trust_remote_code: bool = False) -> BaseWeights:
    """Read a causal language model's folder (or hub id) into plain arrays.

    A folder of the Llama family is read straight from its safetensors; anything else goes through `transformers`.

    Args:
        path: Folder with config.json and safetensors weights, or a hub id.
        dtype: Precision to hold the weights in.
        trust_remote_code: Run code shipped with the model.

    Raises:
        InputError: The model can't be loaded; the message holds the library's reason.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        direct = _load_decoder(folder, dtype)
        if direct is not None:
            return direct
    return _load_with_transformers(path, dtype, trust_remote_code)


def _load_decoder(folder: Path, dtype: str) -> BaseWeights | None:
    """A Llama-family folder's weights, or None if it is of another kind or not whole."""
    from safetensors import SafetensorError

    try:
        config_json = (folder / "config.json").read_text(encoding="utf-8")
        shape = read_decoder(config_json)
        tensors = None if shape is None else _read_tensors(folder, parameter_shapes(shape), dtype)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None  # `transformers` says what is wrong better than we could
    return None if tensors is None else BaseWeights(config_json, _as_arrays(tensors), dtype)


def _read_tensors(
    folder: Path, wanted: Mapping[str, torch.Size], dtype: str
) -> dict[str, torch.Tensor] | None:
    """The wanted tensors, or None if some are missing or of another shape."""
    from safetensors import safe_open

    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        where = dict.fromkeys(wanted, single.name)
    else:
        listed = json.loads(index.read_bytes())["weight_map"]
        where = {n: listed[n] for n in wanted if n in listed}
    out: dict[str, torch.Tensor] = {}
    for name in sorted(set(where.values())):
        with safe_open(folder / name, framework="pt") as file:
            there = set(file.keys())
            for key in (n for n, f in where.items() if f == name and n in there):
                out[key] = file.get_tensor(key).to(getattr(torch, dtype)).contiguous()
    right = all(n in out and out[n].shape == s for n, s in wanted.items())
    return {n: out[n] for n in wanted} if right else None


def _load_with_transformers(path: str | Path, dtype: str, trust_remote_code: bool) -> BaseWeights:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InputError(
            f"The base model `{path}` can't be loaded",
            got=reason,
            expected="a folder that AutoModelForCausalLM.from_pretrained reads, with safetensors weights",
            change="Check `model.name`.",
        ) from error
    tensors = {n: p.detach().contiguous() for n, p in model.named_parameters()}
    config_json = json.dumps(model.config.to_dict(), default=str)
    return BaseWeights(config_json, _as_arrays(tensors), dtype, trust_remote_code)


def _as_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays over the same memory, bfloat16 as its bits."""
    return {n: (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy() for n, t in tensors.items()}


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
    shape = read_decoder(weights.config_json)
    if shape is not None and set(weights.arrays) == set(parameter_shapes(shape)):
        return build_decoder(weights, shape, device)
    return build_transformer(weights, device)


def build_transformer(weights: BaseWeights, device: str = "cpu") -> Any:
    """The `transformers` model around the arrays, whatever its kind; see `build_model`."""
    model = _empty_transformer(weights)
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


def _empty_transformer(weights: BaseWeights) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    raw: dict[str, Any] = json.loads(weights.config_json)
    config = AutoConfig.for_model(**raw)
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, weights.dtype), trust_remote_code=weights.trust_remote_code
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
