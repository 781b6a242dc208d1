"""An adapter added to the weights of its base, as a plain `transformers` model or a GGUF file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape

if TYPE_CHECKING:
    import torch

    from dfl_ray.models.weights import BaseWeights

CONVERTER = "convert_hf_to_gguf.py"
"""Name of llama.cpp's program that makes a GGUF file of a model folder."""

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.jinja", "*.tiktoken",
)  # fmt: skip


def merged_model(
    weights: BaseWeights,
    layers: Sequence[LayerShape],
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
    scale: float,
) -> Any:
    """W + s B A in every adapted layer, summed in float64; W is taken back from 4 bits where it is held so.

    Args:
        weights: The base model.
        layers: The adapted layers.
        a: One (rank, in_features) factor a layer.
        b: One (out_features, rank) factor a layer.
        scale: s.

    Returns:
        A model of `transformers`.
    """
    import torch

    from dfl_ray.models.build import build_transformer
    from dfl_ray.models.four_bit import in_full

    model = build_transformer(in_full(weights))
    modules: dict[str, Any] = dict(model.named_modules())
    with torch.no_grad():
        for layer, down, up in zip(layers, a, b, strict=True):
            weight = modules[layer.name].weight
            update = scale * (up.double().cpu() @ down.double().cpu())
            # GPT-2's Conv1D holds its weight as (inputs, outputs).
            transposed = type(modules[layer.name]).__name__ == "Conv1D"
            weight.copy_((weight.double() + (update.T if transposed else update)).to(weight.dtype))
    return model


def save_model(model: Any, base: Path, out: Path) -> None:
    """Save a model as `transformers` does, with the tokenizer files of its base.

    Args:
        model: The model.
        base: Folder of the base model; without one no tokenizer is copied.
        out: Folder to make.
    """
    model.save_pretrained(out)
    for pattern in TOKENIZER_FILES:
        for file in base.glob(pattern) if base.is_dir() else ():
            shutil.copy(file, out / file.name)


def find_converter(named: str) -> Path:
    """The converter, found before anything is computed.

    Args:
        named: A path, or a name that is looked for in PATH.

    Returns:
        Its path.

    Raises:
        InputError: It is not there.
    """
    found = shutil.which(named) or (named if Path(named).expanduser().is_file() else None)
    if found is None:
        raise InputError(
            "A GGUF file needs llama.cpp's converter",
            got=f"no `{named}` in PATH and no such file",
            change=f"Get llama.cpp and give the path: --gguf PATH/{CONVERTER}. "
            "`--merged` writes the model folder that it reads.",
        )
    return Path(found).expanduser()


def write_gguf(converter: Path, folder: Path, out: Path) -> None:
    """Have llama.cpp make a GGUF file in float32 of a model folder.

    Args:
        converter: llama.cpp's program, run by this Python.
        folder: The model folder.
        out: File to write.

    Raises:
        InputError: The converter fails, as it does for architectures or tokenizers it does not know.
    """
    words = [sys.executable, str(converter), str(folder), "--outfile", str(out), "--outtype", "f32"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0 or not out.is_file():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        missing = last[0].startswith("ModuleNotFoundError")
        raise InputError(
            f"{converter.name} {'cannot run' if missing else 'cannot convert this model'}",
            got=last[0],
            change=f"Install what it needs for {sys.executable}."
            if missing
            else "Leave --gguf out, or use another version of llama.cpp.",
        )
