"""What a model that `transformers` computes holds in memory on a CPU, from its configuration alone; no torch imported.

What a block keeps was counted, family by family, by what autograd keeps (`torch.autograd.graph.saved_tensors_hooks`) of
blocks of several widths, heads and lengths; what passes was fitted to the peak of a GPT-NeoX of 58 million parameters
(docs/scaling.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dfl_ray.engines.memory import EVALUATION_TOKENS, PAD_MULTIPLE, STEP_TOKENS

_NAMES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "inner": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff"),
    "vocabulary": ("vocab_size",),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
}
_GATED = frozenset({"silu", "swish", "swiglu"})
_IN_STEPS = frozenset({"gelu_new", "gelu_fast"})
"""Activations that torch computes in several steps, each of which keeps its input."""
LOGITS_COPIES = 4
"""Logits, their logarithms, and the gradients of both."""


class Kept(NamedTuple):
    """How many times a block keeps, of every token, each of its widths, the inner layer left out.

    Attributes:
        width: The model's width d.
        queries: heads * head_dim.
        keys: kv_heads * head_dim.
        scores: heads * length, where attention is no fused kernel.
    """

    width: float
    queries: float = 0.0
    keys: float = 0.0
    scores: float = 0.0


FAMILIES: dict[str, Kept] = {
    "gpt2": Kept(8), "opt": Kept(8), "gpt_neox": Kept(10), "gpt_neo": Kept(8, scores=1), "bloom": Kept(8, scores=1),
    "mpt": Kept(8, scores=1), "falcon": Kept(6, scores=1), "gptj": Kept(6.5, scores=1), "codegen": Kept(6.5, scores=1),
    "phi": Kept(5, keys=2), "phi3": Kept(8, keys=3), "persimmon": Kept(11),
    "gemma": Kept(4, 2, 2), "gemma2": Kept(6, 4, 0, 2), "gemma3_text": Kept(6, 3, 3), "gemma3": Kept(6, 3, 3),
    "glm": Kept(4, 3, 2), "glm4": Kept(6, 3, 2),
    "stablelm": Kept(7, keys=2), "starcoder2": Kept(6, keys=2), "cohere": Kept(5, keys=2), "cohere2": Kept(5, keys=2),
    "olmo": Kept(6, keys=2), "olmo2": Kept(7, keys=3), "granite": Kept(6, keys=2), "smollm3": Kept(6, keys=2),
    "nemotron": Kept(7, keys=2), "mixtral": Kept(7, keys=2), "olmoe": Kept(8, keys=3), "qwen2_moe": Kept(9, keys=2),
    "qwen3_moe": Kept(8, keys=3),
}  # fmt: skip
"""By `model_type`; each within 1 % of what was counted."""
UNKNOWN = Kept(8, keys=2)
"""Of other families: more than most of those above."""


@dataclass(frozen=True)
class ForeignSizes:
    """Sizes of a model outside the Llama family.

    Attributes:
        layers: Number of blocks L.
        width: Width d.
        inner: Width i of the inner layer, of all experts that a token takes.
        vocabulary: Tokens V; 0 where no logits over a vocabulary are made.
        kept: Values of one token that a block keeps for backward, those that grow with the row left out.
        scores: Values that it keeps of one token for every token of its row.
    """

    layers: int
    width: int
    inner: int
    vocabulary: int
    kept: float
    scores: float

    @property
    def passing(self) -> int:
        """Values of one token that exist while one block is computed, forward or backward: 16 (d + i)."""
        return 16 * (self.width + self.inner)


def foreign_sizes(config_json: str | None) -> ForeignSizes | None:
    """Read the sizes by the names that `transformers` usually gives them.

    Args:
        config_json: Contents of config.json.

    Returns:
        The sizes; None where layers or width are not named.
    """
    raw: dict[str, Any] = json.loads(config_json or "{}")
    text = {**raw, **(raw.get("text_config") or {})}
    layers, width, inner, vocabulary, heads = (_named(text, names) for names in _NAMES.values())
    if not layers or not width:
        return None
    family = str(text.get("model_type"))
    head = int(text.get("head_dim") or width // max(1, heads))
    keys = head * int(text.get("num_key_value_heads") or heads) if heads else width
    times = FAMILIES.get(family, UNKNOWN)
    own = times.width * width + times.queries * (heads * head or width) + times.keys * keys
    experts = int(text.get("num_experts_per_tok") or 0)
    shared = int(text.get("shared_expert_intermediate_size") or 0)
    inner = int(text.get("moe_intermediate_size") or inner or 4 * width)
    act = str(text.get("hidden_act") or text.get("hidden_activation") or text.get("activation_function"))
    kept = own + (3 * experts * inner + 4 * shared if experts else _inner_kept(act, family) * inner)
    return ForeignSizes(
        layers, width, max(1, experts) * inner + shared, vocabulary, kept, times.scores * heads
    )


def _inner_kept(act: str, family: str) -> int:
    """How many times a block keeps the width of its inner layer: what goes into each operation behind it."""
    if act in _GATED or family.startswith(("gemma", "glm")):
        return 4
    return 1 if act == "relu" else 2 + 3 * (act in _IN_STEPS)


def _named(text: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((int(text[n]) for n in names if isinstance(text.get(n), int)), 0)


def foreign_mb(
    sizes: ForeignSizes | None, *, rank: int, width_bytes: int, rows: int, row: float, longest: int, scored: float,
    devices: int, evaluated_tokens: float,
) -> float:  # fmt: skip
    """Memory a process on a CPU needs beside base and states: the larger of training and evaluation.

    Training: tokens (L (`kept` + length · `scores` + 7 r) + `passing`) width_bytes, with all rows of the devices that
    are stepped together (`STEP_TOKENS` by the mean row) padded to the longest; and 4 copies of their scored tokens'
    logits. Evaluation: `EVALUATION_TOKENS` at most · `passing`.

    Args:
        sizes: The model; None, whose sizes nobody knows, counts nothing.
        rank: r.
        width_bytes: Bytes of one value.
        rows: Rows of one device's step.
        row: Mean tokens of a row.
        longest: Tokens of the longest.
        scored: Mean tokens of a row that are predicted.
        devices: Devices of the process.
        evaluated_tokens: Tokens of all rows that one adapter is asked.

    Returns:
        Units of 2^20 bytes.
    """
    if sizes is None:
        return 0.0
    together = min(devices, max(1, int(STEP_TOKENS // max(1.0, rows * row)))) * rows
    padded = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
    token = width_bytes * (sizes.layers * (sizes.kept + padded * sizes.scores + 7 * rank) + sizes.passing)
    training = together * (padded * token + LOGITS_COPIES * 4 * scored * sizes.vocabulary)
    evaluation = min(EVALUATION_TOKENS, evaluated_tokens) * width_bytes * sizes.passing
    return max(training, evaluation) / 2**20
