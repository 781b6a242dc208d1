"""The frozen base model: read once, shared as plain arrays, rebuilt around them without copying."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dfl_ray.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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

    Args:
        path: Folder with config.json and safetensors weights, or a hub id.
        dtype: Precision to hold the weights in.
        trust_remote_code: Run code shipped with the model.

    Raises:
        InputError: The model can't be loaded; the message holds the library's reason.
    """
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
    arrays = {
        n: (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy() for n, t in tensors.items()
    }
    config_json = json.dumps(model.config.to_dict(), default=str)
    return BaseWeights(config_json, arrays, dtype, trust_remote_code)


def build_model(weights: BaseWeights, device: str = "cpu") -> PreTrainedModel:
    """Rebuild the model around the arrays: on the CPU the parameters *are* the arrays, nothing is copied.

    Args:
        weights: What `load_base` gave; read-only arrays are welcome.
        device: "cpu" or a CUDA device.

    Returns:
        The model in evaluation mode, frozen, with scaled-dot-product attention.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    raw: dict[str, Any] = json.loads(weights.config_json)
    config = AutoConfig.for_model(**raw)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, weights.dtype), trust_remote_code=weights.trust_remote_code
        )
    for name, array in weights.arrays.items():
        parent_name, _, leaf = name.rpartition(".")
        tensor = shared_tensor(array, weights.dtype).to(device)
        setattr(model.get_submodule(parent_name), leaf, torch.nn.Parameter(tensor, requires_grad=False))
    model.tie_weights()
    return model.to(device).eval().requires_grad_(False)


def shared_tensor(array: np.ndarray, dtype: str) -> torch.Tensor:
    """A tensor over the array's own memory, read-only memory included (nothing ever writes to the base)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
