"""GGUF files of `transformers` models: the same logits come back, or the file is refused by what it asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from dfl_ray.errors import InputError
from dfl_ray.models.base import load_base
from dfl_ray.models.build import build_model
from dfl_ray.models.gguf_folder import gguf_folder
from dfl_ray.models.location import base_path
from tests.gguf_files import VOCABULARY, write_model

gguf = pytest.importorskip("gguf")
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128, "pad_token_id": 257,
    "bos_token_id": 257, "eos_token_id": 257,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(kind: str, **more: Any) -> Any:
    """A model with random weights, biases and norms too."""
    torch.manual_seed(0)
    configs = {"Gemma3": "Gemma3TextConfig"}
    config = getattr(transformers, configs.get(kind, f"{kind}Config"))(**SIZES | more)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def llama3_factors(theta: float, head_dim: int) -> np.ndarray:
    """rope_freqs of Llama 3.1 as `convert_hf_to_gguf.py` computes it, by wavelengths."""
    factor, low, high, old = 8.0, 1.0, 4.0, 8192
    out = []
    for k in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (k / head_dim)
        if wavelength < old / high:
            out.append(1.0)
        elif wavelength > old / low:
            out.append(factor)
        else:
            smooth = (old / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def scaling(kind: Any, *calls: tuple[str, Any]) -> Callable[[Any], None]:
    def write(out: Any) -> None:
        if kind is not None:
            out.add_rope_scaling_type(kind)
        for name, value in calls:
            getattr(out, name)(value)

    return write


TYPES = gguf.RopeScalingType
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": 1e4,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16, "attention_factor": 1.25,
    "long_factor": [1.5 + k for k in range(8)], "short_factor": [1.0 + k / 4 for k in range(8)],
}  # fmt: skip
NAMED = {f"rope_factors_{k}.weight": np.array(LONG[f"{k}_factor"], np.float32) for k in ("long", "short")}
CASES: dict[str, tuple[str, dict[str, Any], str, Callable[[Any], None], dict[str, np.ndarray]]] = {
    "llama": ("Llama", {}, "llama", scaling(None), {}),
    "llama-linear": (
        "Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, "llama",
        scaling(TYPES.LINEAR, ("add_rope_scaling_factor", 4.0)), {},
    ),
    "llama-yarn": (
        "Llama", {"rope_parameters": YARN | {"beta_fast": 8.0}}, "llama",
        scaling(TYPES.YARN, ("add_rope_scaling_factor", 4.0), ("add_rope_scaling_orig_ctx_len", 16),
                ("add_rope_scaling_yarn_beta_fast", 8.0)), {},
    ),
    "llama-llama3": (
        "Llama", {"rope_parameters": LLAMA3}, "llama", scaling(None), {"rope_freqs.weight": llama3_factors(1e4, 16)},
    ),
    "llama-factors-of-one": ("Llama", {}, "llama", scaling(None), {"rope_freqs.weight": np.ones(8, np.float32)}),
    "llama-biases": (
        "Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}, "llama", scaling(None), {},
    ),
    "llama-head-dim": (
        "Llama", {"head_dim": 8}, "llama",
        scaling(None, ("add_key_length", 8), ("add_value_length", 8), ("add_rope_dimension_count", 8)), {},
    ),
    "qwen2-yarn": (
        "Qwen2", {"rope_parameters": YARN}, "qwen2",
        scaling(TYPES.YARN, ("add_rope_scaling_factor", 4.0), ("add_rope_scaling_orig_ctx_len", 16)), {},
    ),
    "qwen3": (
        "Qwen3", {"head_dim": 24}, "qwen3", scaling(None, ("add_key_length", 24), ("add_value_length", 24)), {},
    ),
    "gemma2": (
        "Gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 6, "attn_logit_softcapping": 3.0,
         "final_logit_softcapping": 2.0, "tie_word_embeddings": True}, "gemma2",
        scaling(None, ("add_key_length", 16), ("add_value_length", 16), ("add_sliding_window", 6),
                ("add_attn_logit_softcapping", 3.0), ("add_final_logit_softcapping", 2.0)), {},
    ),
    "gemma3": (
        "Gemma3",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 6, "num_hidden_layers": 7,
         "tie_word_embeddings": True, "rope_parameters": {
             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}, "gemma3",
        scaling(TYPES.LINEAR, ("add_rope_scaling_factor", 8.0), ("add_key_length", 16), ("add_value_length", 16),
                ("add_sliding_window", 6)), {},
    ),
    "phi3": (
        "Phi3", {"sliding_window": 5, "rope_parameters": LONG, "original_max_position_embeddings": 16}, "phi3",
        scaling(None, ("add_rope_scaling_orig_ctx_len", 16), ("add_rope_scaling_attn_factors", 1.25),
                ("add_rope_dimension_count", 16), ("add_sliding_window", 5)), NAMED,
    ),
    "starcoder2": (
        "Starcoder2", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "starcoder2", scaling(None), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_computes_what_its_model_does(name: str, tmp_path: Path) -> None:
    kind, sizes, architecture, more, tensors = CASES[name]
    theirs = made(kind, **sizes)
    write_model(tmp_path / "model.gguf", theirs, architecture, more, tensors)
    same(tmp_path / "model.gguf", theirs)


def same(path: Path, theirs: Any) -> None:
    """Hold the logits of a file against a model's, of rows below and above 16 tokens."""
    ours = build_model(load_base(base_path(str(path))))
    generator = torch.Generator().manual_seed(1)
    for length in (12, 60):
        ids = torch.randint(0, VOCABULARY, (1, length), generator=generator)
        with torch.no_grad():
            found, wanted = (m(input_ids=ids, use_cache=False).logits for m in (ours, theirs))
        torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-4)


def test_phi3_turns_a_part_of_a_head(tmp_path: Path) -> None:
    """Phi 4 mini: rope.dimension_count is three quarters of a head's width."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
    theirs = made("Phi3", rope_parameters=rope)
    write_model(tmp_path / "model.gguf", theirs, "phi3", scaling(None, ("add_rope_dimension_count", 12)))
    same(tmp_path / "model.gguf", theirs)


def ones(*names: str) -> dict[str, np.ndarray]:
    return {name: np.ones(32, np.float32) for name in names}


REFUSED: dict[str, tuple[str, Callable[[Any], None], dict[str, np.ndarray], tuple[str, ...], str]] = {
    "missing": ("Llama", scaling(None), {}, ("blk.1.ffn_up.weight",), "1 missing: model.layers.1.mlp.up_proj.weight"),
    "no-norm": ("Llama", scaling(None), {}, ("output_norm.weight",), "1 missing: model.norm.weight"),
    "no-biases": (
        "Qwen2", scaling(None), {}, tuple(f"blk.{k}.attn_{x}.bias" for k in (0, 1) for x in "qkv"), "6 missing: ",
    ),
    "some-biases": (
        "Llama", scaling(None), ones("blk.0.attn_q.bias"), (), "model.layers.0.self_attn.o_proj.bias",
    ),
    "unused": ("Llama", scaling(None), ones("blk.0.attn_q_norm.weight"), (), "not the model's: blk.0.attn_q_norm"),
    "more-layers": ("Llama", scaling(None), ones("blk.2.attn_norm.weight"), (), "blk.2.attn_norm.weight"),
    "factors": (
        "Llama", scaling(None), {"rope_freqs.weight": np.linspace(1, 8, 8).astype(np.float32)}, (), "rope_freqs.weight",
    ),
    "two-scalings": (
        "Llama", scaling(TYPES.LINEAR, ("add_rope_scaling_factor", 2.0)),
        {"rope_freqs.weight": llama3_factors(1e4, 16)}, (), "linear' together with rope_freqs.weight",
    ),
    "window": ("Llama", scaling(None, ("add_sliding_window", 16)), {}, (), "llama.attention.sliding_window = 16"),
    "cap": ("Llama", scaling(None, ("add_final_logit_softcapping", 7.0)), {}, (), "final_logit_softcapping = 7.0"),
    "experts": ("Llama", scaling(None, ("add_expert_count", 4)), {}, (), "llama.expert_count = 4"),
    "part": ("Llama", scaling(None, ("add_rope_dimension_count", 8)), {}, (), "llama.rope.dimension_count = 8"),
    "longrope": ("Llama", scaling(TYPES.LONGROPE), {}, (), "rope.scaling.type = 'longrope'"),
    "yarn-log": (
        "Llama", scaling(TYPES.YARN, ("add_rope_scaling_factor", 4.0), ("add_rope_scaling_yarn_log_mul", 0.1)), {}, (),
        "yarn_log_multiplier",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_be_computed_is_refused_by_name(name: str, tmp_path: Path) -> None:
    kind, more, tensors, drop, told = REFUSED[name]
    write_model(tmp_path / "model.gguf", made(kind), kind.lower(), more, tensors, drop)
    with pytest.raises(InputError) as caught:
        gguf_folder(tmp_path / "model.gguf")
    assert told in str(caught.value) and str(tmp_path / "model.gguf") in str(caught.value)
    assert "safetensors folder or hub id" in str(caught.value)
    assert [p for p in (tmp_path / "cache/dfl-ray/models").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize(
    "key", ["add_expert_count", "add_clamp_kqv", "add_sliding_window", "add_logit_scale"]
)
def test_keys_that_switch_something_off_are_none(key: str, tmp_path: Path) -> None:
    theirs = made("Llama")
    value = 0 if key in ("add_expert_count", "add_sliding_window") else 0.0
    write_model(tmp_path / "model.gguf", theirs, "llama", scaling(TYPES.NONE, (key, value)))
    same(tmp_path / "model.gguf", theirs)
