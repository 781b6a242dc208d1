"""Tiny random models of every causal architecture in the registry of the installed `transformers`.

Nothing is listed by hand: names come from `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES`, and a configuration is made small by
what its keys are called, nested configurations included. What can't be made small that way says why.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

VOCABULARY = 64
POSITIONS = 96
WINDOW = 8
MOST_PARAMETERS = 7_000_000
LAYERS = 4

SIZES: tuple[tuple[tuple[str, ...], int], ...] = (
    (("vocab_size", "vocab_size_per_layer_input", "n_tokens", "entity_vocab_size"), VOCABULARY),
    (("hidden_size", "d_model", "n_embd", "embedding_size", "n_embed", "dim", "model_dim", "emb_dim"), 32),
    (("attention_hidden_size", "word_embed_proj_dim", "lru_width", "attention_dim"), 32),
    (("hidden_size_per_layer_input",), 8),
    (("intermediate_size", "ffn_dim", "d_inner", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    (("ffn_hidden_size", "expert_ffn_hidden_size", "dim_ff"), 48),
    (("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    (("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), LAYERS),
    (("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
      "encoder_attention_heads"), 4),
    (("num_key_value_heads", "num_kv_heads", "n_kv_heads"), 2),
    (("head_dim", "kv_channels", "v_head_dim", "qk_nope_head_dim", "global_head_dim", "attention_head_dim"), 8),
    (("qk_rope_head_dim", "rotary_dim"), 8),
    (("qk_head_dim",), 16),
    (("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    (("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), POSITIONS),
    (("max_sequence_length",), POSITIONS),
    (("sliding_window", "sliding_window_size", "window_size", "attention_window_size", "attention_chunk_size"), WINDOW),
    (("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    (("num_experts_per_tok", "moe_k", "num_experts_per_token", "moe_top_k", "top_k"), 2),
    (("n_group", "topk_group"), 1),
    (("first_k_dense_replace", "num_dense_layers", "n_shared_experts"), 1),
    (("num_kv_shared_layers",), 0),
    (("state_size", "ssm_state_size", "mamba_d_state"), 8),
    (("time_step_rank", "mamba_dt_rank"), 4),
    (("mamba_n_heads", "mamba_num_heads"), 8),
    (("mamba_d_head", "mamba_head_dim"), 8),
    (("mamba_n_groups", "n_groups"), 2),
    (("linear_num_key_heads", "linear_num_value_heads"), 2),
    (("linear_key_head_dim", "linear_value_head_dim"), 8),
    (("index_n_heads",), 2),
    (("index_head_dim",), 16),
    (("index_topk",), 4),
    (("altup_num_inputs", "laurel_rank"), 2),
    (("type_vocab_size",), 2),
    (("chunk_size", "mamba_chunk_size"), 8),
)  # fmt: skip
"""Key -> value, whatever architecture it stands in."""

ALSO: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "zaya": {"num_experts_per_tok": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
}
"""What a configuration checks against other keys."""

_SMALL = {key: value for keys, value in SIZES for key in keys}


def causal_types() -> list[str]:
    """All model types that the registry names for causal language modelling."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small_values(config: Any) -> dict[str, Any]:
    """Arguments that make a configuration of this class small."""
    there = config.to_dict()
    names = set(inspect.signature(type(config).__init__).parameters) | set(there)
    out: dict[str, Any] = {}
    for name in names & set(_SMALL):
        present = there.get(name)
        if present is None and name not in (
            "head_dim",
            "num_key_value_heads",
            "num_experts_per_tok",
            "n_routed_experts",
        ):
            continue
        if not isinstance(present, (bool, list, dict)):
            out[name] = _SMALL[name]
    if "kv_lora_rank" in out and "num_key_value_heads" in out:
        out["num_key_value_heads"] = _SMALL["num_attention_heads"]  # latent attention has no groups
    out |= {n: k for k, n in enumerate(("bos_token_id", "eos_token_id"), start=1) if n in names}
    if "pad_token_id" in names:
        out["pad_token_id"] = 0
    return out


def tiny_config(model_type: str) -> Any:
    """A small configuration of a model type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _shrunk(CONFIG_MAPPING[model_type])


def _shrunk(kind: type) -> Any:
    config = kind()
    values = small_values(config)
    for name, sub in getattr(kind, "sub_configs", {}).items():
        found = getattr(config, name, None)
        if found is not None and sub is not None and type(found).__name__ != "AutoConfig":
            values[name] = _shrunk(type(found)).to_dict()
    return kind(**values | ALSO.get(kind.model_type, {}))


def tiny_model(model_type: str, seed: int = 0) -> Any:
    """A small model with random weights, every parameter drawn; raises what `transformers` raises."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    config = tiny_config(model_type)
    with init_empty_weights(include_buffers=False):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.1
        parameter.data.add_(drawn)
    return model.eval().requires_grad_(False)


def settings(config: Any) -> Mapping[str, Any]:
    """The configuration as plain values."""
    return config.to_dict()
