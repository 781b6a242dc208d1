"""The frozen base model as data: read once, shared as plain arrays; `dfl_ray.models.build` makes a model of it.

Reading a float32 model of the Llama family needs no torch, which would cost the driver seconds and 130 MB.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.models.checks import (
    check_finite,
    check_kind,
    layers_beyond,
    require_bitsandbytes,
    rests_of_old_files,
)
from dfl_ray.models.classifier import classifier_note, is_classifier
from dfl_ray.models.decoder import DecoderShape, read_decoder
from dfl_ray.models.folder import weight_files
from dfl_ray.models.weights import BaseWeights, as_arrays, fewer_layers_note, own_head_note

if TYPE_CHECKING:
    pass

_NUMPY_READS = frozenset({"F16", "F32", "F64"})
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def load_base(
    path: str | Path, *, dtype: str = "float32", trust_remote_code: bool = False, load_in_4bit: bool = False,
    longest: int | None = None,
) -> BaseWeights:  # fmt: skip
    """Read a causal language model's or a classifier's folder (or hub id) into plain arrays.

    A folder of the Llama family is read straight from its safetensors; anything else goes through `transformers`.
    Either way the file holds all that the model computes with: nothing is drawn at random and nothing is dropped
    without a note.

    Args:
        path: Folder with config.json and safetensors weights, or a hub id.
        dtype: Precision to hold the weights in.
        trust_remote_code: Run code shipped with the model.
        load_in_4bit: Hold its linear layers in 4 bits (`dfl_ray.models.four_bit`).
        longest: Most tokens that a row may have; None takes every sliding window for one in force.

    Returns:
        The weights, with notes on what the user should know.

    Raises:
        InputError: The model can't be loaded, is no causal decoder, lacks weights or has others than its
            configuration says, is stored quantised, holds values that are not finite, or can't be held in 4 bits.
    """
    if load_in_4bit:
        require_bitsandbytes()
    folder = Path(path)
    weights = None
    if (folder / "config.json").is_file():
        said = (folder / "config.json").read_bytes()
        check_kind(said, str(path))
        weights = None if is_classifier(said) else _load_decoder(folder, dtype, longest)
    if weights is None:
        from dfl_ray.models.pretrained import load_pretrained

        weights = load_pretrained(path, dtype, trust_remote_code)
    check_finite({**weights.arrays, **weights.buffers}, str(path))
    if load_in_4bit:
        from dfl_ray.models.four_bit import in_four_bits

        weights = in_four_bits(weights, str(path))
    notes = (*weights.notes, *classifier_note(weights.config_json), *adapter_note(folder))
    return replace(weights, notes=notes, longest=longest)


def adapter_note(folder: Path) -> tuple[str, ...]:
    """Say that a model's folder holds an adapter too, which is not loaded; nothing where there is none.

    Args:
        folder: The model's folder.

    Returns:
        One sentence, or none.
    """
    if not (folder / "adapter_config.json").is_file():
        return ()
    return (
        f"`model.name`: {folder} also holds an adapter (adapter_config.json), which is not loaded: the run starts from "
        "the base weights alone. Merge it into the base and save that to start from both.",
    )


def _load_decoder(folder: Path, dtype: str, longest: int | None) -> BaseWeights | None:
    """A Llama-family folder's weights, or None if it is of another kind or holds anything but just these."""
    from safetensors import SafetensorError

    try:
        config_json = (folder / "config.json").read_text(encoding="utf-8")
        shape = read_decoder(config_json, longest)
        return None if shape is None else _read_decoder_arrays(folder, config_json, shape, dtype)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None  # `transformers` says what is wrong better than we could


def _read_decoder_arrays(
    folder: Path, config_json: str, shape: DecoderShape, dtype: str
) -> BaseWeights | None:
    files = _tensor_files(folder)
    untied = replace(shape, tied=False).parameter_shapes() if _HEAD in files else shape.parameter_shapes()
    extra = [n for n in files if n not in untied and not rests_of_old_files(n)]
    beyond, unknown = layers_beyond(extra, files, shape.layers)
    arrays = None if unknown else _read_arrays(folder, untied, files, dtype)
    if arrays is None:
        return None
    notes = () if not beyond else (fewer_layers_note(folder, shape.layers, beyond),)
    if not shape.tied:
        return BaseWeights(config_json, arrays, dtype, notes=notes)
    if _HEAD in arrays and not np.array_equal(arrays[_HEAD], arrays[_EMBEDDING]):
        config = json.loads(config_json) | {"tie_word_embeddings": False}
        return BaseWeights(json.dumps(config), arrays, dtype, notes=(*notes, own_head_note(folder)))
    arrays.pop(_HEAD, None)
    return BaseWeights(config_json, arrays, dtype, aliases={_HEAD: _EMBEDDING}, notes=notes)


def _tensor_files(folder: Path) -> dict[str, str]:
    """Name of every tensor of a folder -> the file it stands in."""
    from safetensors import safe_open

    out: dict[str, str] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="np") as file:
            out |= dict.fromkeys(file.keys(), path.name)
    return out


def _read_arrays(
    folder: Path, wanted: Mapping[str, tuple[int, ...]], files: Mapping[str, str], dtype: str
) -> dict[str, np.ndarray] | None:
    """The wanted parameters, or None if some are missing or of another shape."""
    from safetensors import safe_open

    if not set(wanted) <= set(files):
        return None
    out: dict[str, np.ndarray] = {}
    for name in sorted({files[n] for n in wanted}):
        keys = [n for n in wanted if files[n] == name]
        with safe_open(folder / name, framework="np") as file:
            plain = dtype == "float32" and all(file.get_slice(k).get_dtype() in _NUMPY_READS for k in keys)
            if plain:
                out |= {k: np.ascontiguousarray(file.get_tensor(k), np.float32) for k in keys}
        if not plain:
            out |= _read_with_torch(folder / name, keys, dtype)
    right = all(out[n].shape == s for n, s in wanted.items())
    return {n: out[n] for n in wanted} if right else None


def _read_with_torch(path: Path, keys: Sequence[str], dtype: str) -> dict[str, np.ndarray]:
    """Parameters stored or wanted in bfloat16, which numpy does not have."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return as_arrays({k: file.get_tensor(k).to(getattr(torch, dtype)).contiguous() for k in keys})
