"""An adapter that PEFT has trained, read as the start of every device's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfl_ray.config.warm_start import MERGE
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.warm import WarmStart
from dfl_ray.models.checks import shortened

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KINDS = (".lora_A.weight", ".lora_B.weight")

PLAIN = {
    "use_dora": False, "use_qalora": False, "bias": "none", "lora_bias": False, "modules_to_save": None,
    "trainable_token_indices": None, "layer_replication": None, "target_parameters": None, "arrow_config": None,
    "alora_invocation_tokens": None, "use_bdlora": None, "kasa_config": None, "velora_config": None,
    "monteclora_config": None,
}  # fmt: skip
"""Keys of an adapter's configuration, and the value under which it is nothing but s B A on linear layers."""
KEEPING_THE_BASE = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base's weights as they are; others (pissa, olora, …) change them."""


def read_warm_start(
    folder: str | Path, layers: Sequence[LayerShape], *, scale: float, most_rank: int
) -> WarmStart:
    """Read a PEFT LoRA folder in the run's own scale: B is multiplied by s0 / s, so that s B A is the file's s0 B0 A0.

    s0 = alpha / r of each layer, or alpha / sqrt(r) with `use_rslora`; `rank_pattern` and `alpha_pattern` count. Layers
    that the file leaves out start as they would without it, B = 0.

    Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1; Kalajdzievski 2023 (arXiv 2312.03732) for rslora.

    Args:
        folder: Folder with adapter_config.json and adapter_model.safetensors.
        layers: The run's adapted layers.
        scale: s of the run, > 0.
        most_rank: Least rank among the devices' adapters.

    Returns:
        The factors by index of the layer, float32.

    Raises:
        InputError: No such folder, another kind of adapter, layers that the run does not adapt, other sizes, a rank
            that does not fit, or values that are not finite.
    """
    place = Path(folder).expanduser()
    said = _config(place)
    tensors = _tensors(place)
    index = {layer.name: i for i, layer in enumerate(layers)}
    factors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for name in _layer_names(place, tensors, index):
        a, b = (tensors[f"{_PREFIX}{name}{kind}"] for kind in _KINDS)
        layer = layers[index[name]]
        _check_sizes(place, layer, a, b, most_rank)
        factors[index[name]] = (
            a,
            (b.astype(np.float64) * (_scale(said, name, len(a)) / scale)).astype(np.float32),
        )
    return WarmStart(factors)


def _config(place: Path) -> Mapping[str, Any]:
    try:
        said = json.loads((place / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"`model.warm_start`: {place} is no adapter folder",
            got=f"{type(error).__name__}: {error}",
            expected=f"a local folder that PEFT wrote, with {CONFIG} and {TENSORS}",
        ) from None
    odd = [
        f"{key}: {json.dumps(said[key])}" for key, plain in PLAIN.items() if (said.get(key) or plain) != plain
    ]
    if said.get("init_lora_weights", True) not in KEEPING_THE_BASE:
        odd.append(f"init_lora_weights: {json.dumps(said['init_lora_weights'])}")
    if said.get("peft_type") != "LORA" or odd:
        raise InputError(
            f"`model.warm_start`: the adapter in {place} is not plain LoRA",
            got="; ".join(odd) or f"peft_type: {said.get('peft_type')}",
            expected="W0 x + s B A x on linear layers and nothing else",
            change=f"{MERGE}.",
        )
    return said


def _tensors(place: Path) -> dict[str, np.ndarray]:
    """All tensors of the file in float32."""
    from safetensors import SafetensorError, safe_open

    path = place / TENSORS
    if not path.is_file():
        raise InputError(
            f"`model.warm_start`: {place} has no {TENSORS}",
            expected="weights in safetensors; pickled ones (adapter_model.bin) are not read",
            change="Save the adapter once more with save_pretrained.",
        )
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            coarse = any(file.get_slice(n).get_dtype() not in ("F16", "F32", "F64") for n in names)
            found = {} if coarse else {n: file.get_tensor(n) for n in names}
        if coarse:  # NumPy has no bfloat16
            with safe_open(path, framework="pt") as file:
                found = {n: file.get_tensor(n).float().numpy() for n in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"`model.warm_start`: {path} can't be read", got=f"{type(error).__name__}: {error}"
        ) from None
    return {n: np.ascontiguousarray(t, np.float32) for n, t in found.items()}


def _layer_names(place: Path, tensors: Mapping[str, np.ndarray], index: Mapping[str, int]) -> list[str]:
    """The layers that the file adapts; refuses whatever else it holds."""
    names: dict[str, set[str]] = {}
    odd: list[str] = []
    for key in tensors:
        kind = next((k for k in _KINDS if key.endswith(k)), None)
        if kind is None or not key.startswith(_PREFIX):
            odd.append(key)
        else:
            names.setdefault(key[len(_PREFIX) : -len(kind)], set()).add(kind)
    odd += [name for name, kinds in names.items() if len(kinds) < len(_KINDS)]
    if odd or not names:
        raise InputError(
            f"`model.warm_start`: {place / TENSORS} holds something else than pairs A and B of layers",
            got=shortened(odd) if odd else "no tensor",
            expected=f"{_PREFIX}<layer>{_KINDS[0]} and {_KINDS[1]}",
        )
    foreign = sorted(name for name in names if name not in index)
    if foreign:
        raise InputError(
            f"`model.warm_start`: the adapter in {place} changes layers that this run does not adapt",
            got=shortened(foreign),
            expected=f"some of the {len(index)} adapted layers: {shortened(list(index))}",
            change="Name them in `model.target_modules`, or take an adapter of this base model.",
        )
    return sorted(names, key=index.__getitem__)


def _check_sizes(place: Path, layer: LayerShape, a: np.ndarray, b: np.ndarray, most_rank: int) -> None:
    found = f"A {a.shape} and B {b.shape}"
    if a.ndim != 2 or a.shape[1] != layer.in_features or b.shape != (layer.out_features, len(a)):
        raise InputError(
            f"`model.warm_start`: {place} is of another base model: layer `{layer.name}` has other sizes",
            got=found,
            expected=f"A (r, {layer.in_features}) and B ({layer.out_features}, r)",
        )
    if len(a) > most_rank:
        raise InputError(
            f"`model.warm_start`: the adapter in {place} is of a higher rank than the devices' adapters",
            got=f"rank {len(a)} in layer `{layer.name}`",
            expected=f"a rank of at most {most_rank}, the least of the devices",
            change=f"Set method.rank={len(a)} or higher, and so every one of `method.ranks`.",
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError(
            f"`model.warm_start`: the adapter in {place} holds NaN or infinite values", got=layer.name
        )


def _scale(said: Mapping[str, Any], name: str, rank: int) -> float:
    """S0 of a layer, as PEFT computes it from its rank and its alpha."""
    patterns = said.get("alpha_pattern") or {}
    chosen = next((alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), None)
    alpha = float(said["lora_alpha"] if chosen is None else chosen)
    return alpha / (rank**0.5 if said.get("use_rslora") else rank)
