"""What a model folder must hold, asked of its configuration, its tensor names and its values; no torch needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from dfl_ray.errors import InputError

_REMAINS = re.compile(r"(^|\.)rotary_emb\.inv_freq$|\.attn\.(bias|masked_bias)$|(^|\.)position_ids$")
"""Buffers that older versions of `transformers` saved and every version computes anew."""

_QUANTISED = frozenset({"bitsandbytes", "gptq", "awq"})
"""Methods whose files hold packed integers in the place of weights."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_CHUNK = 2**22
_BFLOAT16_EXPONENT = np.uint16(0x7F80)


def check_kind(config_json: bytes | str, path: str) -> None:
    """Refuse what can't be a base model by its own configuration: encoder–decoder models, and quantised weights.

    Encoders and other bidirectional models are found by what they compute; see `dfl_ray.engines.probe`.

    Args:
        config_json: Contents of config.json.
        path: The model, for the message.

    Raises:
        InputError: Naming the kind.
    """
    try:
        raw: Any = json.loads(config_json)
    except ValueError:
        return  # said better where the file itself is checked
    if isinstance(raw, dict) and raw.get("is_encoder_decoder"):
        raise InputError(
            f"The model `{path}` is an encoder–decoder model",
            got=f"model_type {raw.get('model_type')!r} with is_encoder_decoder=true in config.json",
            expected="a causal decoder: prompt and answer are one text, read from left to right",
            change="Choose a decoder-only model for `model.name`",
        )
    stored = raw.get("quantization_config") if isinstance(raw, dict) else None
    if isinstance(stored, dict) and stored.get("quant_method") in _QUANTISED:
        raise InputError(
            f"The model `{path}` is stored quantised",
            got=f"quant_method {stored['quant_method']!r} in config.json",
            expected="weights in full",
            change="Choose the model that it was made of, and set model.load_in_4bit=true to hold that in 4 bits",
        )


def bitsandbytes_missing() -> bool:
    """Whether there is nothing to hold and compute a base in 4 bits with."""
    return find_spec("bitsandbytes") is None


def require_bitsandbytes() -> None:
    """Refuse a base in 4 bits where bitsandbytes is not installed.

    Raises:
        InputError: It is not.
    """
    if bitsandbytes_missing():
        raise InputError(
            "`model.load_in_4bit` needs bitsandbytes",
            got="no package bitsandbytes",
            change="Run: pip install 'dfl-ray[gpu]', or leave `model.load_in_4bit` out.",
        )


def not_causal(model_type: object) -> InputError:
    """Make the error for a model whose earlier positions see later tokens; the caller raises it."""
    return InputError(
        "The base model is not a causal language model",
        got=f"model_type {model_type!r}: changing a later token changes the logits before it (an encoder or another "
        "bidirectional model), so it would read the answer it is asked for",
        expected="a decoder whose logits at a position depend on earlier tokens alone",
        change="Choose a causal model for `model.name`",
    )


def rests_of_old_files(name: str) -> bool:
    """Tell whether a tensor's name is that of a buffer that older files hold and no model reads."""
    return _REMAINS.search(name) is not None


def layers_beyond(
    extra: Iterable[str], there: Iterable[str], layers: int
) -> tuple[frozenset[int], list[str]]:
    """Which of a file's unused tensors belong to layers behind the configuration's last.

    Args:
        extra: Names that the model has no place for.
        there: All names of the file.
        layers: Number of layers of the configuration.

    Returns:
        The layers' numbers, and the names that are something else.
    """
    left = list(extra)
    used = set(there) - set(left)
    numbers: set[int] = set()
    unknown: list[str] = []
    for name in left:
        found = [m for m in _NUMBER.finditer(name) if int(m[0]) >= layers]
        twins = [
            m
            for m in found
            if any(name[: m.start()] + f"{k}" + name[m.end() :] in used for k in range(layers))
        ]
        numbers |= {int(m[0]) for m in twins}
        if not twins:
            unknown.append(name)
    return frozenset(numbers), unknown


def check_finite(arrays: Mapping[str, np.ndarray], path: str) -> None:
    """Refuse NaN and infinite weights.

    Args:
        arrays: Name of a parameter or persistent buffer -> array; bfloat16 as uint16 bits. Integers are finite.
        path: The model, for the message.

    Raises:
        InputError: Naming the tensors.
    """
    bad = [name for name, array in arrays.items() if not _finite(array)]
    if bad:
        raise InputError(
            f"The weights of `{path}` hold NaN or infinite values",
            got=f"in {len(bad)} of {len(arrays)} tensors: {shortened(bad)}",
            expected="finite numbers",
            change="Fetch the file again, or save the model anew from a sound checkpoint",
        )


def _finite(array: np.ndarray) -> bool:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if part.dtype == np.uint16:
            if bool((part & _BFLOAT16_EXPONENT == _BFLOAT16_EXPONENT).any()):
                return False
        elif not bool(np.isfinite(part).all()):
            return False
    return True


def shortened(names: Iterable[str], most: int = 6) -> str:
    """List the first names in sorted order, and say how many more there are.

    Args:
        names: The names.
        most: Number of names to list.

    Returns:
        "a, b", or "a, b and 3 more".
    """
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
