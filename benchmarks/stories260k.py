"""stories260K as a `transformers` folder, from the file of llama2.c that holds it.

Karpathy's model of 260,032 parameters, trained on TinyStories, is published as a llama2.c checkpoint of version 0 and a
vocabulary of 512 pieces. Source of both formats: llama2.c, `export.py` (legacy_export) and `tokenizer.py`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.text_sources import TextSource

SOURCE = TextSource(
    "DaveBben/esp32-llm", "934dab4d242d259abd88678488ea3b62d4fca601", {}, {},
    "llama2.c, which made the model, is MIT; this copy has no licence file; origin karpathy/tinyllamas on the hub",
)  # fmt: skip
FILES = ("data/stories260K.bin", "data/tok512.bin")
_SPECIAL = ("<unk>", "<s>", "</s>")


def write_folder(out: Path, checkpoint: bytes, vocabulary: bytes) -> None:
    """Write config, weights and tokenizer.

    Args:
        out: Folder to make.
        checkpoint: The llama2.c file, version 0: seven int32, then float32 weights layer by layer within each kind.
        vocabulary: The tokenizer's file: int32 longest piece, then for each piece float32 score, int32 length, bytes.
    """
    from safetensors.numpy import save_file

    config, weights = read_checkpoint(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer = make_tokenizer(read_vocabulary(vocabulary, config["vocab_size"]))
    settings = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>",
        "model_max_length": config["max_position_embeddings"], "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    generation = {"bos_token_id": 1, "eos_token_id": [1, 2], "pad_token_id": 0}
    texts = {
        "config": config, "tokenizer": tokenizer, "tokenizer_config": settings, "generation_config": generation
    }  # fmt: skip
    for name, data in texts.items():
        (out / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")


def read_checkpoint(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read shape and weights.

    llama2.c rotates neighbouring entries of a head, transformers its two halves, so the rows of q and k are reordered.

    Args:
        data: The file.

    Returns:
        The `config.json` and the tensors by their names in `LlamaForCausalLM`, float32.
    """
    dim, hidden, layers, heads, kv_heads, vocabulary, positions = struct.unpack("7i", data[:28])
    if vocabulary < 0:
        raise ValueError("the output head is not tied to the embedding; stories260K's is")
    values = np.frombuffer(data, dtype="<f4", offset=28)
    place = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return values[place - size : place].reshape(shape).copy()

    kv = dim // heads * kv_heads
    found = {"model.embed_tokens.weight": take(vocabulary, dim)}
    shapes = {
        "input_layernorm": (dim,), "self_attn.q_proj": (dim, dim), "self_attn.k_proj": (kv, dim),
        "self_attn.v_proj": (kv, dim), "self_attn.o_proj": (dim, dim), "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (hidden, dim), "mlp.down_proj": (dim, hidden), "mlp.up_proj": (hidden, dim),
    }  # fmt: skip
    for name, shape in shapes.items():
        for layer, tensor in enumerate(take(layers, *shape)):
            turned = _halves(tensor, dim // heads) if name.endswith(("q_proj", "k_proj")) else tensor
            found[f"model.layers.{layer}.{name}.weight"] = np.ascontiguousarray(turned)
    found["model.norm.weight"] = take(dim)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": dim, "intermediate_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": dim // heads, "vocab_size": vocabulary, "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32",
    }  # fmt: skip
    return config, found


def _halves(weight: np.ndarray, width: int) -> np.ndarray:
    """Rows of each head from pairs (2i, 2i + 1) to halves (i, i + width / 2)."""
    rows, columns = weight.shape
    return weight.reshape(rows // width, width // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def read_vocabulary(data: bytes, count: int) -> list[tuple[str, float]]:
    """Read the pieces and their scores.

    Args:
        data: The file.
        count: Number of pieces.

    Returns:
        Piece and score in the order of their ids, with the word mark `▁` for a blank.
    """
    place, found = 4, []
    for index in range(count):
        score, length = struct.unpack("fi", data[place : place + 8])
        text = data[place + 8 : place + 8 + length].decode("utf-8")
        place += 8 + length
        found.append((_SPECIAL[index] if index < 3 else text.replace(" ", "▁"), score))
    return found


def make_tokenizer(pieces: list[tuple[str, float]]) -> dict[str, Any]:
    """Make the `tokenizer.json` that merges as llama2.c does: of all neighbours, the pair of the best score first.

    Args:
        pieces: Piece and score by id; the first 259 are `<unk>`, `<s>`, `</s>` and the 256 bytes.

    Returns:
        The data of the file.
    """
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    merged = [p for p in sorted(pieces[259:], key=lambda piece: -piece[1]) if len(p[0]) > 1]
    merges = [
        [piece[:cut], piece[cut:]]
        for piece, _ in merged
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    start = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "pre_tokenizer": None,
        "added_tokens": [{"id": n, "content": text, **flags} for n, text in enumerate(_SPECIAL)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "post_processor": {
            "type": "TemplateProcessing", "single": start,
            "pair": [*start, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": ids, "merges": merges,
        },
    }  # fmt: skip
