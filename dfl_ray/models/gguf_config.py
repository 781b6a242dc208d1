"""What a GGUF file says of its model, put into the `transformers` configuration and held against it.

`transformers` maps some of a file's keys, leaves its own defaults in the place of others and drops what it has no name
for. Here a key is one of four: put into the configuration, found there with the file's value, held by the tensors'
shapes, or the file is refused by that key's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.models.checks import shortened
from dfl_ray.models.gguf_header import GgufHeader

LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""The scaling of Llama 3.1 to 3.3 but for its factor, which is the largest of those in the file."""
FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that are no weights: factors of the rotary frequencies, kept in the configuration."""

_NAMES: dict[str, tuple[str, ...]] = {
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "num_attention_heads", "n_head"),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "use_parallel_residual": ("use_parallel_residual",),
    "attention.relative_buckets_count": ("relative_attention_num_buckets",),
}
"""Key of the file -> names that its value has in configurations."""
_SHAPES = frozenset(
    {
        "block_count", "embedding_length", "expert_feed_forward_length", "expert_shared_feed_forward_length",
        "feed_forward_length", "full_attention_interval", "shortconv.l_cache", "ssm.conv_kernel", "ssm.group_count",
        "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank", "vocab_size",
    }
)  # fmt: skip
"""Keys whose value is in the shapes or names of tensors, which are all held against the model."""
_WITHOUT_EFFECT = frozenset(
    {
        "context_length", "nextn_predict_layers", "rope.dimension_sections", "rope.scaling.finetuned",
        "rope.scaling.original_context_length", "tensor_data_layout",
    }
)  # fmt: skip
"""Keys that change nothing by themselves; an original length counts with a scaling, which takes it."""
_EXPERTS = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_NEUTRAL_AT_ONE = frozenset(
    {"rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"}
)
_YARN = {"rope.scaling.yarn_beta_fast": "beta_fast", "rope.scaling.yarn_beta_slow": "beta_slow"}
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_LAYERS_27B = {"gemma2": 46, "gemma3": 62}
"""Layers of the Gemma models that scale their scores by width / heads and not by a head's width, as llama.cpp tells."""


def fit_config(config: Any, header: GgufHeader, factors: Mapping[str, np.ndarray], path: Path) -> None:
    """Put into a configuration what the file says and `transformers` leaves out; then hold every key against it.

    Args:
        config: The `transformers` configuration as read from the file; changed in place.
        header: The file's header.
        factors: The file's tensors among `FACTORS`, float32.
        path: The file, for messages.

    Raises:
        InputError: The file asks for something that the configuration can't say; it names the keys.
    """
    keys = dict(header.model_keys)
    _fill(keys, config)
    config.tie_word_embeddings = "output.weight" not in header.names
    for name, leaf in (("attention_bias", "attn_q.bias"), ("mlp_bias", "ffn_up.bias")):
        if hasattr(config, name):
            setattr(config, name, any(tensor.endswith(leaf) for tensor in header.names))
    for key in (*(k for k in _CAPS if hasattr(config, k)), "attention.sliding_window"):
        if key in keys and _windowed(key, config):
            setattr(config, _NAMES[key][0], keys[key] or None)
    for key, name in _EXPERTS.items():
        if key in keys and hasattr(config, name):
            setattr(config, name, keys[key])
    if hasattr(config, "head_dim") and isinstance(keys.get("attention.key_length"), int):
        config.head_dim = keys["attention.key_length"]
    if header.architecture in _LAYERS_27B:
        wide = config.num_hidden_layers == _LAYERS_27B[header.architecture]
        width = config.hidden_size // config.num_attention_heads if wide else config.head_dim
        config.query_pre_attn_scalar = width
    taken = _fit_rope(config, keys, factors, path)
    wrong = {k: v for k, v in keys.items() if k not in taken and not _held(k, v, config)}
    if wrong:
        told = shortened(f"{header.architecture}.{key} = {value!r}" for key, value in wrong.items())
        raise _refused(path, f"{told} (model_type {config.model_type!r})")


def _refused(path: Path, got: str) -> InputError:
    return InputError(
        f"The GGUF file {path} asks for what `transformers` does not compute from it",
        got=got,
        expected="keys and tensors that all have a place in the model that is computed",
        change="Give `model.name` the model's safetensors folder or hub id instead.",
    )


def _fill(keys: dict[str, Any], config: Any) -> None:
    """Add what a file that leaves a key out means by llama.cpp's defaults."""
    heads, width = keys.get("attention.head_count"), keys.get("embedding_length")
    if hasattr(config, "num_key_value_heads") and isinstance(heads, int):
        keys.setdefault("attention.head_count_kv", heads)
    if hasattr(config, "head_dim") and isinstance(heads, int) and isinstance(width, int):
        keys.setdefault("attention.key_length", width // heads)
    if getattr(config, "rope_parameters", None):
        keys.setdefault("rope.freq_base", 10_000.0)


def _windowed(key: str, config: Any) -> bool:
    """Whether a window is put into the configuration: not where other keys say whether it is in force."""
    return key in _CAPS or config.model_type in ("gemma2", "gemma3_text", "phi3", "starcoder2")


def _held(key: str, value: object, config: Any) -> bool:
    """Whether the configuration computes what a key says."""
    if key in _SHAPES | _WITHOUT_EFFECT:
        return True
    if key == "attention.causal" or key in _NEUTRAL_AT_ONE:
        return value == 1
    if key in ("attention.key_length", "attention.value_length"):
        return value == _head_dim(config)
    if key == "rope.dimension_count":
        rope = _main_rope(config)
        return rope is not None and value == int(_head_dim(config) * rope.get("partial_rotary_factor", 1.0))
    if key == "rope.freq_base_swa":
        rope = (getattr(config, "rope_parameters", None) or {}).get("sliding_attention")
        return isinstance(rope, dict) and _same(value, rope.get("rope_theta"))
    if key == "attention.head_count_kv" and isinstance(value, tuple):
        return max(value) == getattr(config, "num_key_value_heads", None) and _by_layer(value, config)
    there = [getattr(config, name) for name in _NAMES.get(key, ()) if hasattr(config, name)]
    return _same(value, there[0]) if there else not value and not isinstance(value, str)


def _by_layer(heads: tuple[object, ...], config: Any) -> bool:
    """Whether key heads by layer are as many everywhere but in the layers without attention."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(heads)
    there = [kind == "full_attention" for kind in kinds]
    return len(set(heads) - {0}) == 1 and [h != 0 for h in heads] == there


def _same(value: object, there: object) -> bool:
    if isinstance(value, float) and isinstance(there, int | float):
        return math.isclose(value, there, rel_tol=1e-6)
    return value == there or (not value and not there)


def _head_dim(config: Any) -> int:
    heads = getattr(config, "num_attention_heads", None) or 1
    return getattr(config, "head_dim", None) or config.hidden_size // heads


def _main_rope(config: Any) -> dict[str, Any] | None:
    """The rotary settings, of layers that see everything where they differ by layer; None without any."""
    ropes = getattr(config, "rope_parameters", None) or None
    return None if ropes is None else ropes.get("full_attention", ropes)


def _fit_rope(
    config: Any, keys: Mapping[str, Any], factors: Mapping[str, np.ndarray], path: Path
) -> frozenset[str]:
    """Put base and scaling of the rotary positions into the configuration; the keys that are taken by it."""
    rope = _main_rope(config)
    kind = keys.get("rope.scaling.type")
    factor = keys.get("rope.scaling.factor", keys.get("rope.scale_linear", 0.0)) or 1.0
    if kind is None and factor != 1.0:
        kind = "linear"
    if rope is None:
        if factors or kind not in (None, "none"):
            raise _refused(path, f"rotary positions ({shortened([*factors, str(kind)])}), the model has none")
        return frozenset()
    rope["rope_theta"] = keys["rope.freq_base"]
    turned = keys.get("rope.dimension_count")
    if "partial_rotary_factor" in rope and isinstance(turned, int):
        rope["partial_rotary_factor"] = turned / _head_dim(config)
    taken = {"rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"}
    original = keys.get("rope.scaling.original_context_length", keys.get("context_length"))
    scaled: dict[str, Any] = {}
    if kind == "linear" and factor != 1.0:
        scaled = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        scaled = _yarn(keys, factor, original)
        taken |= {*_YARN}
    elif any(name in factors for name in FACTORS[1:]):
        scaled = _longrope(keys, factors, original, path)
        config.original_max_position_embeddings = original  # goes before the one beside the factors
        taken.add("rope.scaling.attn_factor")
    elif kind not in (None, "none", "linear"):
        raise _refused(path, f"rope.scaling.type = {kind!r}")
    if FACTORS[0] in factors and not np.all(factors[FACTORS[0]] == 1.0):
        if scaled:
            raise _refused(path, f"rope.scaling.type = {kind!r} together with {FACTORS[0]}")
        scaled = _llama3(factors[FACTORS[0]], rope, _head_dim(config), path)
    rope.update(scaled)
    return frozenset(taken)


def _yarn(keys: Mapping[str, Any], factor: float, original: object) -> dict[str, Any]:
    """YaRN; the multiplier of cos and sin is 0.1 ln(factor) + 1 in llama.cpp and in `transformers`."""
    there = {name: keys[key] for key, name in _YARN.items() if key in keys}
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **there}


def _longrope(
    keys: Mapping[str, Any], factors: Mapping[str, np.ndarray], original: object, path: Path
) -> dict[str, Any]:
    """Phi 3's factors for rows within and beyond the original length."""
    if not all(name in factors for name in FACTORS[1:]):
        raise _refused(path, f"{shortened(factors)} without the other of {shortened(FACTORS[1:])}")
    return {
        "rope_type": "longrope",
        "long_factor": factors[FACTORS[1]].tolist(),
        "short_factor": factors[FACTORS[2]].tolist(),
        "original_max_position_embeddings": original,
        "attention_factor": keys.get("rope.scaling.attn_factor", 1.0),
    }


def _llama3(stored: np.ndarray, rope: Mapping[str, Any], head_dim: int, path: Path) -> dict[str, Any]:
    """Llama 3.1's scaling, if the factors by which a file divides the frequencies are those of it."""
    scaling: dict[str, Any] = LLAMA3 | {"factor": float(stored.max())}
    theta, half = float(rope["rope_theta"]), head_dim // 2
    turns = scaling["original_max_position_embeddings"] * theta ** (-np.arange(half) / half) / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    meant = 1 / ((1 - share) / scaling["factor"] + share)
    if stored.shape != meant.shape or not np.allclose(stored, meant, rtol=1e-4):
        told = ", ".join(f"{f:.4g}" for f in stored[:6])
        raise _refused(path, f"{FACTORS[0]} ({told}, …), which are not those of Llama 3.1's scaling")
    return scaling
