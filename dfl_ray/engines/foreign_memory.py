"""What a model that `transformers` computes holds in memory on a CPU, from its configuration alone; no torch imported.

Counted on small and middling models of ten architectures by what autograd keeps (`torch.autograd.graph`), and fitted to
the peak of a GPT-NeoX of 58 million parameters (docs/scaling.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfl_ray.engines.memory import EVALUATION_TOKENS, PAD_MULTIPLE, STEP_TOKENS

_NAMES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "inner": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff"),
    "vocabulary": ("vocab_size",),
}
_GATED = frozenset({"silu", "swish", "swiglu"})
_IN_STEPS = frozenset({"gelu_new", "gelu_fast"})
"""Activations that torch computes in several steps, each of which keeps its input."""
LOGITS_COPIES = 4
"""Logits, their logarithms, and the gradients of both."""


@dataclass(frozen=True)
class ForeignSizes:
    """Sizes of a model outside the Llama family.

    Attributes:
        layers: Number of blocks L.
        width: Width d.
        inner: Width i of the inner layer, of all experts that a token takes.
        vocabulary: Tokens V; 0 where no logits over a vocabulary are made.
        gated: Whether the inner layer has a gate.
        in_steps: Whether its activation is computed in several steps.
    """

    layers: int
    width: int
    inner: int
    vocabulary: int
    gated: bool
    in_steps: bool

    @property
    def kept(self) -> int:
        """Values of one token that a block keeps for backward: 10 d + 2 i, 13 d + 3 i with a gate, 3 i for steps."""
        own = 13 * self.width + 3 * self.inner if self.gated else 10 * self.width + 2 * self.inner
        return own + 3 * self.inner * self.in_steps

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
    layers, width, inner, vocabulary = (_named(text, names) for names in _NAMES.values())
    if not layers or not width:
        return None
    act = text.get("hidden_act") or text.get("hidden_activation") or text.get("activation_function")
    experts = int(text.get("num_experts_per_tok") or 1)
    inner = int(text.get("moe_intermediate_size") or inner or 4 * width)
    gated = act in _GATED or str(text.get("model_type")).startswith("gemma")
    return ForeignSizes(layers, width, experts * inner, vocabulary, gated, act in _IN_STEPS)


def _named(text: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((int(text[n]) for n in names if isinstance(text.get(n), int)), 0)


def foreign_mb(
    sizes: ForeignSizes | None, *, rank: int, width_bytes: int, rows: int, row: float, longest: int, scored: float,
    devices: int, evaluated_tokens: float,
) -> float:  # fmt: skip
    """Memory a process on a CPU needs beside base and states: the larger of training and evaluation.

    Training: tokens (L (`kept` + 7 r) + `passing`) width_bytes, with all rows of the devices that are stepped together
    (`STEP_TOKENS` by the mean row) padded to the longest; and 4 copies of their scored tokens' logits. Evaluation:
    `EVALUATION_TOKENS` at most · `passing`.

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
    token = width_bytes * (sizes.layers * (sizes.kept + 7 * rank) + sizes.passing)
    padded = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
    training = together * (padded * token + LOGITS_COPIES * 4 * scored * sizes.vocabulary)
    evaluation = min(EVALUATION_TOKENS, evaluated_tokens) * width_bytes * sizes.passing
    return max(training, evaluation) / 2**20
