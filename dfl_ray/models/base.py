"""The frozen base model as data: read once, shared as plain arrays; `dfl_ray.models.build` makes a model of it.

Reading a float32 model of the Llama family needs no torch, which would cost the driver seconds and 130 MB.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.models.decoder import DecoderShape, read_decoder

if TYPE_CHECKING:
    import torch

_NUMPY_READS = frozenset({"F16", "F32", "F64"})


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

    @property
    def decoder(self) -> DecoderShape | None:
        """The Llama-family decoder that these arrays fill exactly, or None."""
        shape = read_decoder(self.config_json)
        return shape if shape is not None and set(self.arrays) == set(shape.parameter_shapes()) else None


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
        arrays = None if shape is None else _read_arrays(folder, shape.parameter_shapes(), dtype)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None  # `transformers` says what is wrong better than we could
    return None if arrays is None else BaseWeights(config_json, arrays, dtype)


def _read_arrays(
    folder: Path, wanted: Mapping[str, tuple[int, ...]], dtype: str
) -> dict[str, np.ndarray] | None:
    """The wanted parameters, or None if some are missing or of another shape."""
    from safetensors import safe_open

    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        where = dict.fromkeys(wanted, single.name)
    else:
        listed = json.loads(index.read_bytes())["weight_map"]
        where = {n: listed[n] for n in wanted if n in listed}
    out: dict[str, np.ndarray] = {}
    for name in sorted(set(where.values())):
        with safe_open(folder / name, framework="np") as file:
            there = set(file.keys())
            keys = [n for n, f in where.items() if f == name and n in there]
            plain = dtype == "float32" and all(file.get_slice(k).get_dtype() in _NUMPY_READS for k in keys)
            if plain:
                out |= {k: np.ascontiguousarray(file.get_tensor(k), np.float32) for k in keys}
        if not plain:
            out |= _read_with_torch(folder / name, keys, dtype)
    right = all(n in out and out[n].shape == s for n, s in wanted.items())
    return {n: out[n] for n in wanted} if right else None


def _read_with_torch(path: Path, keys: Sequence[str], dtype: str) -> dict[str, np.ndarray]:
    """Parameters stored or wanted in bfloat16, which numpy does not have."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return _as_arrays({k: file.get_tensor(k).to(getattr(torch, dtype)).contiguous() for k in keys})


def _load_with_transformers(path: str | Path, dtype: str, trust_remote_code: bool) -> BaseWeights:
    import torch
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
    import torch

    return {n: (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy() for n, t in tensors.items()}
