"""GGUF files of `transformers` models, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 258
_NORMS_PLUS_ONE = ("gemma2", "gemma3")


def tokens() -> list[str]:
    """The 256 bytes in GPT-2's spelling, one merge, and an end token."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + n) for n in range(256 - len(plain))]
    return [*map(chr, plain), *others, "ab", "<|end|>"]


def add_tokenizer(out: Any) -> None:
    """Write the keys of a byte-level tokenizer of `VOCABULARY` tokens."""
    out.add_tokenizer_model("gpt2")
    out.add_token_list(tokens())
    out.add_token_types([1] * 257 + [3])
    out.add_token_merges(["a b"])
    for add in (out.add_bos_token_id, out.add_eos_token_id, out.add_pad_token_id):
        add(257)


def stored(model: Any, architecture: str) -> dict[str, np.ndarray]:
    """A model's weights under the file's names and in the file's order of rows; a tied head is left out."""
    import gguf

    arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    heads = {"q": model.config.num_attention_heads, "k": model.config.num_key_value_heads}
    out: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        stem, suffix = name.rsplit(".", 1)
        value = parameter.detach().numpy()
        if architecture == "llama" and stem.endswith(("q_proj", "k_proj")):
            # Rotary pairs are neighbours there and half a head apart in `transformers`.
            n = heads[stem[-6]]
            value = value.reshape(n, 2, value.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(value.shape)
        if architecture in _NORMS_PLUS_ONE and "norm" in stem:
            value = value + 1
        out[f"{names.get_name(stem)}.{suffix}"] = np.ascontiguousarray(value, np.float32)
    return out


def write_model(
    path: Path,
    model: Any,
    architecture: str,
    more: Callable[[Any], None] = lambda _out: None,
    tensors: Mapping[str, np.ndarray] | None = None,
    drop: tuple[str, ...] = (),
) -> dict[str, np.ndarray]:
    """Write a float32 file of a model.

    Args:
        path: The file.
        model: A causal language model of `VOCABULARY` tokens.
        architecture: llama.cpp's name of it.
        more: Writes further keys.
        tensors: Further tensors.
        drop: Tensors to leave out.

    Returns:
        All tensors of the file.
    """
    import gguf

    config = model.config
    out: Any = gguf.GGUFWriter(path, architecture)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "rms_norm_eps"):
        out.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        out.add_layer_norm_eps(config.norm_epsilon)
    ropes = config.rope_parameters
    out.add_rope_freq_base(ropes.get("full_attention", ropes)["rope_theta"])
    add_tokenizer(out)
    more(out)
    written = {**stored(model, architecture), **(tensors or {})}
    written = {n: v for n, v in written.items() if n not in drop}
    for name, value in written.items():
        out.add_tensor(name, value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return written
