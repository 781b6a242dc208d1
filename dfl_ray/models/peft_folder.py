"""Adapters as folders that `peft.PeftModel.from_pretrained` reads, written without importing peft."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from dfl_ray.lora.layout import LayerShape


def write_peft_folder(
    folder: Path,
    layers: Sequence[LayerShape],
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    *,
    scale: float,
    base_model: str,
    head: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write one adapter y = W0 x + s B A x.

    PEFT computes s as lora_alpha / r, so lora_alpha = s * rank is stored; the rank may be any, also T * r of a
    merged multi-task adapter.

    Args:
        folder: Folder to make.
        layers: The adapted layers.
        a: One (rank, in_features) factor a layer.
        b: One (out_features, rank) factor a layer.
        scale: s.
        base_model: Path or id of the base model, for the adapter's config.
        head: Name -> values of a classifier's head, which PEFT expects in its adapters; None for a language model.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank = a[0].shape[0]
    tensors: dict[str, np.ndarray] = {}
    for layer, down, up in zip(layers, a, b, strict=True):
        prefix = f"base_model.model.{layer.name}"
        tensors[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(down, np.float32)
        tensors[f"{prefix}.lora_B.weight"] = np.ascontiguousarray(up, np.float32)
    for name, values in (head or {}).items():
        tensors[f"base_model.model.{name}"] = np.ascontiguousarray(values)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if head is None else "SEQ_CLS",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": [layer.name for layer in layers],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
    return folder


def read_peft_folder(
    folder: Path, layers: Sequence[LayerShape]
) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Read back what `write_peft_folder` wrote.

    Args:
        folder: The folder.
        layers: The adapted layers.

    Returns:
        One (rank, in_features) and one (out_features, rank) factor a layer, and the scale.
    """
    tensors = load_file(folder / "adapter_model.safetensors")
    said = json.loads((folder / "adapter_config.json").read_bytes())
    a, b = (
        [tensors[f"base_model.model.{layer.name}.lora_{factor}.weight"] for layer in layers]
        for factor in "AB"
    )
    return a, b, said["lora_alpha"] / said["r"]
