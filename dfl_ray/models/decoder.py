"""Which checkpoints are plain Llama-family decoders, read from their configuration alone.

A configuration that asks for anything not implemented exactly (another activation, a sliding window in force,
scaled position embeddings other than Llama 3's, a key nobody here knows) is refused, and the caller falls back to
`transformers`: a wrong guess would cost accuracy silently, the fallback only costs start-up time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfl_ray.lora.layout import LayerShape

if TYPE_CHECKING:  # the driver reads shapes and never computes with them
    import torch

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_WITHOUT_EFFECT = frozenset(
    {
        "_attn_implementation_autoset", "_model_name_or_path", "_name_or_path", "architectures", "attention_dropout",
        "bos_token_id", "chunk_size_feed_forward", "cls_token_id", "dtype", "eos_token_id", "id2label",
        "initializer_range", "is_llama_config", "label2id", "max_window_layers", "model_type", "name_or_path",
        "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type", "return_dict",
        "sep_token_id", "tokenizer_class", "torch_dtype", "transformers.js_config", "transformers_version",
        "unk_token_id", "use_cache",
    }
)  # fmt: skip
"""Keys that change nothing in evaluation mode without a cache."""
_WINDOW = 4096
"""Tokens of the sliding window where a type has one and its configuration does not say how long."""
_READ = frozenset(
    {
        *_SIZES, "attention_bias", "head_dim", "hidden_act", "is_encoder_decoder", "layer_types",
        "max_position_embeddings", "mlp_bias", "num_key_value_heads", "rms_norm_eps", "rope_interleaved",
        "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings", "use_sliding_window",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's scaling of low rotary frequencies; names as in its configuration.

    See `DecoderShape.inverse_frequencies` for the equation.

    Attributes:
        factor: By how much the lowest frequencies are divided.
        low_freq_factor: Turns within the original length below which a frequency is divided by the whole factor.
        high_freq_factor: Turns within the original length above which a frequency is left as it is.
        original_max_position_embeddings: The original length in tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class DecoderShape:
    """A decoder of the Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    Attributes:
        vocab_size: Tokens.
        hidden_size: Width d.
        intermediate_size: Width of the gated layer.
        layers: Number of blocks.
        heads: Query heads.
        kv_heads: Key and value heads; divides `heads`.
        head_dim: Width of one head.
        eps: RMSNorm's epsilon.
        tied: Whether the head is the embedding.
        qkv_bias: Bias in the query, key and value projections.
        o_bias: Bias in the output projection.
        mlp_bias: Bias in the gated layer.
        qk_norm: RMSNorm over each head of queries and keys (Qwen3).
        rope_theta: Base of the rotary frequencies.
        scaling: Llama 3's scaling of them, or None.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    rope_theta: float
    scaling: Llama3Scaling | None

    def inverse_frequencies(self) -> torch.Tensor:
        """Compute the rotary frequencies f_i = theta^(-2i/head_dim), the low ones divided as in Llama 3.1 if asked.

        With n = f original_max_position_embeddings / (2 pi) turns within the original length, f becomes f / factor
        for n below low_freq_factor, stays f for n above high_freq_factor, and is (1 - w) f / factor + w f between
        them with w = (n - low_freq_factor) / (high_freq_factor - low_freq_factor).

        Source: Su et al. 2021 (arXiv 2104.09864), equation 15; the Llama 3.1 reference implementation.

        Returns:
            (head_dim / 2,) float32, radians per position.
        """
        import torch

        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        plain = 1.0 / (self.rope_theta**exponent)
        if self.scaling is None:
            return plain
        s = self.scaling
        turns = s.original_max_position_embeddings * plain / (2 * math.pi)
        slowed = torch.where(turns < s.low_freq_factor, plain / s.factor, plain)
        share = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
        between = (turns >= s.low_freq_factor) & (turns <= s.high_freq_factor)
        return torch.where(between, (1 - share) * plain / s.factor + share * plain, slowed)

    def linear_layers(self) -> list[LayerShape]:
        """List all linear layers but the head, in the order of the model's modules.

        Returns:
            Seven layers a block, each with its name and (outputs, inputs).
        """
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        width, inner = self.hidden_size, self.intermediate_size
        one_block = {
            "self_attn.q_proj": (queries, width), "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width), "self_attn.o_proj": (width, queries),
            "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner),
        }  # fmt: skip
        return [
            LayerShape(f"model.layers.{k}.{name}", *sizes)
            for k in range(self.layers)
            for name, sizes in one_block.items()
        ]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """List every parameter, a tied head left out.

        Returns:
            Name, as in `transformers` -> shape; weights of linear layers are (outputs, inputs).
        """
        biased = {
            "q_proj": self.qkv_bias,
            "k_proj": self.qkv_bias,
            "v_proj": self.qkv_bias,
            "o_proj": self.o_bias,
        }
        out: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
        }
        for layer in self.linear_layers():
            out[f"{layer.name}.weight"] = (layer.out_features, layer.in_features)
            if biased.get(layer.name.rsplit(".", 1)[-1], self.mlp_bias):
                out[f"{layer.name}.bias"] = (layer.out_features,)
        norms = {"input_layernorm": self.hidden_size, "post_attention_layernorm": self.hidden_size}
        if self.qk_norm:
            norms |= {"self_attn.q_norm": self.head_dim, "self_attn.k_norm": self.head_dim}
        for k in range(self.layers):
            out |= {f"model.layers.{k}.{name}.weight": (width,) for name, width in norms.items()}
        return out if self.tied else out | {"lm_head.weight": (self.vocab_size, self.hidden_size)}


def input_of(layer: str) -> str:
    """Name what a decoder's linear layer reads: one name for q, k and v, and one for gate and up.

    Args:
        layer: The layer's name, for example `model.layers.0.self_attn.q_proj`.

    Returns:
        The name of the input, for example `model.layers.0.self_attn.in`.
    """
    block, _, name = layer.rpartition(".")
    return f"{block}.{'in' if name in ('q_proj', 'k_proj', 'v_proj', 'gate_proj', 'up_proj') else name}"


def read_decoder(config_json: str, longest: int | None = None) -> DecoderShape | None:
    """The decoder a `transformers` configuration describes, or None if it is not exactly one of these.

    Args:
        config_json: Contents of config.json.
        longest: Most tokens that a row may have: a sliding window that is not shorter changes nothing. None takes
            every window for one in force; the model's own length is no limit, since rows may be longer.

    Returns:
        Its shape for `model_type` llama, mistral, qwen2 or qwen3; None for anything else.
    """
    raw: dict[str, Any] = json.loads(config_json)
    if not _understood(raw) or _slides(raw, longest):
        return None
    rotation = _rotation(raw)
    if rotation is None:
        return None
    kind, heads, width = raw["model_type"], int(raw["num_attention_heads"]), int(raw["hidden_size"])
    bias = bool(raw.get("attention_bias", False))
    return DecoderShape(
        vocab_size=int(raw["vocab_size"]), hidden_size=width, intermediate_size=int(raw["intermediate_size"]),
        layers=int(raw["num_hidden_layers"]), heads=heads, kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or width // heads), eps=float(raw["rms_norm_eps"]),
        tied=bool(raw.get("tie_word_embeddings", False)), qkv_bias=bias or kind == "qwen2", o_bias=bias,
        mlp_bias=bool(raw.get("mlp_bias", False)), qk_norm=kind == "qwen3", rope_theta=rotation[0],
        scaling=rotation[1],
    )  # fmt: skip


def unknown_keys(config_json: str) -> tuple[str, ...]:
    """Keys for which a model of the Llama family is left to `transformers`, since nobody here knows their meaning.

    Args:
        config_json: Contents of config.json.

    Returns:
        The keys in alphabetical order; none for other kinds of model.
    """
    raw: dict[str, Any] = json.loads(config_json)
    return tuple(sorted(set(raw) - _WITHOUT_EFFECT - _READ)) if raw.get("model_type") in _CLASSES else ()


def _understood(raw: Mapping[str, Any]) -> bool:
    kind = raw.get("model_type")
    if kind not in _CLASSES or not set(raw) <= _WITHOUT_EFFECT | _READ or raw.get("rope_interleaved"):
        return False
    if raw.get("architectures") not in (None, [_CLASSES[kind]]) or raw.get("is_encoder_decoder"):
        return False
    # Types whose defaults are not "as many as query heads" or "width by heads" must say them.
    needed = {"llama": (), "mistral": ("num_key_value_heads",), "qwen2": ("num_key_value_heads",)}.get(
        kind, ("num_key_value_heads", "head_dim")
    )
    if any(raw.get(k) is None for k in (*_SIZES, "rms_norm_eps", "hidden_act", *needed)):
        return False
    if kind in ("mistral", "qwen2") and raw.get("attention_bias"):
        return False
    if kind != "llama" and raw.get("mlp_bias"):
        return False
    return raw["hidden_act"] == "silu" and _divides(raw)


def _slides(raw: Mapping[str, Any], longest: int | None) -> bool:
    """Whether some layer may not see all earlier tokens of a row of `longest` tokens."""
    kinds = set(raw.get("layer_types") or ()) - {"full_attention"}
    if kinds - {"sliding_attention"}:
        return True
    always = raw["model_type"] == "mistral"
    if raw["model_type"] in ("qwen2", "qwen3"):
        always = bool(raw.get("use_sliding_window"))
        if not always and not kinds:
            return False
    window = raw.get("sliding_window", _WINDOW if always else None)
    if window is None:
        return bool(kinds)
    return longest is None or int(window) < longest


def _divides(raw: Mapping[str, Any]) -> bool:
    heads = int(raw["num_attention_heads"])
    head_dim = raw.get("head_dim") or int(raw["hidden_size"]) // heads
    return heads % int(raw.get("num_key_value_heads") or heads) == 0 and int(head_dim) % 2 == 0


def _rotation(raw: Mapping[str, Any]) -> tuple[float, Llama3Scaling | None] | None:
    """Base and scaling of the rotary positions, from the new key or the older pair; None if of another kind."""
    given = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    theta = float(given.pop("rope_theta", None) or raw.get("rope_theta") or 10_000.0)
    names = {given.pop(k) for k in ("rope_type", "type") if k in given}
    if names <= {"default"}:
        return None if given else (theta, None)
    if names != {"llama3"}:
        return None
    given.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    if set(given) != set(Llama3Scaling.__dataclass_fields__) or None in given.values():
        return None
    return theta, Llama3Scaling(**given)
