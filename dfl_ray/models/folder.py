"""Is this folder a model that can be loaded? Asked with the standard library only, before anything heavy."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from dfl_ray.errors import InputError

_CHANGE = "Check model.name."
WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".safetensors")
"""Endings of the files that weights are saved in, whether they are read here or not."""
_TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
)


def check_model_folder(path: str | Path, *, planned: bool = False) -> None:
    """Refuse a folder that `AutoModelForCausalLM` and `AutoTokenizer` could not load from safetensors.

    It must hold `config.json` with a `model_type`, weights as `model.safetensors` or as a sharded index whose
    shards are all there, each whole, and a tokenizer.

    Args:
        path: The folder.
        planned: Only a plan is asked for: a folder without any weights, or without a tokenizer, will do.

    Raises:
        InputError: One for the first thing that is missing or broken.
    """
    folder = Path(path)
    if not folder.exists():
        raise InputError(
            "The model folder does not exist", got=str(path), expected="a folder", change=_CHANGE
        )
    if not folder.is_dir():
        raise InputError(
            "The model is a file, not a folder",
            got=str(path),
            expected="its folder, or a .gguf file",
            change=_CHANGE,
        )
    _check_config(folder)
    if not (planned and not _weight_files(folder)):
        for weights in weight_files(folder):
            check_safetensors(weights)
    if not planned and not has_tokenizer(folder):
        raise InputError(
            f"The model folder {folder} has no tokenizer",
            got=_listing(folder),
            expected="tokenizer.json, tokenizer.model, spiece.model, vocab.txt, or vocab.json and merges.txt",
            change="Save it beside the model: tokenizer.save_pretrained(folder)",
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer.

    Args:
        folder: The folder.
    """
    return any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS)


def stored_values(folder: Path) -> int | None:
    """Number of values in a folder's weights, from the headers of its files.

    Args:
        folder: A model's folder.

    Returns:
        The number; None of a folder without weights.

    Raises:
        InputError: The weights are none that are loaded, or not whole.
    """
    if not _weight_files(folder):
        return None
    return sum(
        prod(entry["shape"])
        for weights in weight_files(folder)
        for key, entry in check_safetensors(weights).items()
        if key != "__metadata__"
    )


def check_safetensors(path: Path) -> dict[str, Any]:
    """Refuse a file that is not whole safetensors: a pointer to large-file storage, or cut short.

    The format is 8 bytes N (little endian), N bytes of JSON, then the data whose end the JSON names.

    Args:
        path: The file.

    Returns:
        Its header: tensor -> dtype, shape and place, and what it says of itself as `__metadata__`.

    Raises:
        InputError: What is wrong with it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 8 + length <= size else b""
    try:
        entries: dict[str, Any] = json.loads(header)
        end = max(
            (entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"), default=0
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(
            f"The weights {path} are not safetensors",
            got=f"{size} bytes without a readable header",
            expected="a file written by safetensors",
            change="If it is a large-file pointer, fetch the file itself.",
        ) from None
    if 8 + length + end != size or end == 0:
        raise InputError(
            f"The weights {path} are {'empty' if end == 0 else 'not whole'}",
            got=f"{size} bytes",
            expected=f"{8 + length + end} bytes" if end else "at least one tensor",
            change="Fetch or copy the file again.",
        )
    return entries


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"The model folder {folder} has no config.json",
            got=_listing(folder),
            expected="a folder written by save_pretrained",
            change=_CHANGE,
        )
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(
            f"The model's {path} is not JSON", got=str(error), expected="a JSON object"
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("model_type"), str):
        raise InputError(
            f"The model's {path} names no model_type",
            expected='a JSON object with "model_type", e.g. "llama"',
        )


def _weight_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix in WEIGHTS)


def weight_files(folder: Path) -> list[Path]:
    """Find the files that are the model: model.safetensors, else the shards of its index.

    Others may lie beside them, the same weights under other names (consolidated.safetensors) or an adapter's.

    Args:
        folder: A model's folder.

    Returns:
        Their paths, by name.

    Raises:
        InputError: There are none, the index is broken, or not all of its shards are there.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return _shards(folder, index)
    others = _weight_files(folder)
    change = _CHANGE
    if any(name.endswith((".bin", ".pt", ".pth")) for name in others):
        change = (
            "Only safetensors are loaded, since the others can run code. Convert a file you trust: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
        )
    elif any(name.endswith(".gguf") for name in others):
        change = "Give the .gguf file itself as model.name."
    raise InputError(
        f"The model folder {folder} has no weights",
        got=", ".join(others) if others else _listing(folder),
        expected="model.safetensors, or model.safetensors.index.json with its shards",
        change=change,
    )


def _shards(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"The index {index} is broken", expected='a JSON object with "weight_map"') from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        got = (
            f"{len(missing)} of {len(names)} shards missing: {', '.join(missing[:5])}"
            if names
            else "no shards"
        )
        raise InputError(
            f"The model folder {folder} is not complete", got=got, expected="all shards of its index"
        )
    return [folder / name for name in names]


def _listing(folder: Path) -> str:
    return ", ".join(sorted(item.name for item in folder.iterdir())[:10]) or "an empty folder"
