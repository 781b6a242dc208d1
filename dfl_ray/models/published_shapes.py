"""Sizes of usual models of the hub, so that a run of one can be planned without downloading it.

The numbers are those of each repository's `config.json` (https://huggingface.co/ID/blob/main/config.json) and, for
`parameters`, what the hub counts in its safetensors. A run never reads this table: it reads the model's own files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from dfl_ray.models.decoder import DecoderShape

SOURCE = "https://huggingface.co/{}/blob/main/config.json"
"""Where a model's sizes are published."""


@dataclass(frozen=True)
class PublishedModel:
    """What a hub repository says of its model; names as in its `config.json`.

    Attributes:
        names: Hub ids of one shape, the one whose `config.json` is the source first.
        model_type: `llama`, `mistral`, `qwen2` or `qwen3`.
        hidden_size: Width d.
        intermediate_size: Width of the gated layer.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads.
        vocab_size: Rows of the embedding.
        tied: Whether the head is the embedding.
        parameters: Number of parameters.
        head_dim: Width of one head; None where it is hidden_size / num_attention_heads.
    """

    names: tuple[str, ...]
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tied: bool
    parameters: int
    head_dim: int | None = None

    @property
    def source(self) -> str:
        """Address of the configuration that the numbers are from."""
        return SOURCE.format(self.names[0])

    @property
    def config_json(self) -> str:
        """What of its `config.json` is known here, by the names there."""
        keys = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "vocab_size", "head_dim")  # fmt: skip
        return json.dumps({key: getattr(self, key) for key in keys} | {"hidden_act": "silu"})

    @property
    def shape(self) -> DecoderShape:
        """The decoder; base and scaling of its rotary positions, which change no size, are not published here."""
        qwen2 = self.model_type == "qwen2"
        return DecoderShape(
            vocab_size=self.vocab_size, hidden_size=self.hidden_size, intermediate_size=self.intermediate_size,
            layers=self.num_hidden_layers, heads=self.num_attention_heads, kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads, eps=1e-6, tied=self.tied,
            qkv_bias=qwen2, o_bias=False, mlp_bias=False, qk_norm=self.model_type == "qwen3", rope_theta=10_000.0,
            scaling=None,
        )  # fmt: skip


def _both(name: str) -> tuple[str, str]:
    return name, f"{name}-Instruct"


def _qwen3(name: str) -> tuple[str, str]:
    return name, f"{name}-Base"


# fmt: off
PUBLISHED: tuple[PublishedModel, ...] = (
    # names; type; hidden, intermediate; layers, heads, kv heads; vocabulary; tied; parameters; head width
    PublishedModel(_both("Qwen/Qwen2.5-0.5B"), "qwen2", 896, 4_864, 24, 14, 2, 151_936, True, 494_032_768),
    PublishedModel(_both("Qwen/Qwen2.5-1.5B"), "qwen2", 1_536, 8_960, 28, 12, 2, 151_936, True, 1_543_714_304),
    PublishedModel(_both("Qwen/Qwen2.5-3B"), "qwen2", 2_048, 11_008, 36, 16, 2, 151_936, True, 3_085_938_688),
    PublishedModel(_both("Qwen/Qwen2.5-7B"), "qwen2", 3_584, 18_944, 28, 28, 4, 152_064, False, 7_615_616_512),
    PublishedModel(_both("Qwen/Qwen2.5-14B"), "qwen2", 5_120, 13_824, 48, 40, 8, 152_064, False, 14_770_033_664),
    PublishedModel(_qwen3("Qwen/Qwen3-0.6B"), "qwen3", 1_024, 3_072, 28, 16, 8, 151_936, True, 596_049_920, 128),
    PublishedModel(_qwen3("Qwen/Qwen3-1.7B"), "qwen3", 2_048, 6_144, 28, 16, 8, 151_936, True, 1_720_574_976, 128),
    PublishedModel(_qwen3("Qwen/Qwen3-4B"), "qwen3", 2_560, 9_728, 36, 32, 8, 151_936, True, 4_022_468_096, 128),
    PublishedModel(_qwen3("Qwen/Qwen3-8B"), "qwen3", 4_096, 12_288, 36, 32, 8, 151_936, False, 8_190_735_360, 128),
    PublishedModel(_both("HuggingFaceTB/SmolLM2-135M"), "llama", 576, 1_536, 30, 9, 3, 49_152, True, 134_515_008),
    PublishedModel(_both("HuggingFaceTB/SmolLM2-360M"), "llama", 960, 2_560, 32, 15, 5, 49_152, True, 361_821_120),
    PublishedModel(_both("HuggingFaceTB/SmolLM2-1.7B"), "llama", 2_048, 8_192, 24, 32, 32, 49_152, True, 1_711_376_384),
    PublishedModel(_both("meta-llama/Llama-3.2-1B"), "llama", 2_048, 8_192, 16, 32, 8, 128_256, True, 1_235_814_400),
    PublishedModel(_both("meta-llama/Llama-3.2-3B"), "llama", 3_072, 8_192, 28, 24, 8, 128_256, True, 3_212_749_824),
    PublishedModel(_both("meta-llama/Llama-3.1-8B"), "llama", 4_096, 14_336, 32, 32, 8, 128_256, False, 8_030_261_248),
    PublishedModel(("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
                   "llama", 4_096, 11_008, 32, 32, 32, 32_000, False, 6_738_415_616),
    PublishedModel(("TinyLlama/TinyLlama-1.1B-Chat-v1.0",),
                   "llama", 2_048, 5_632, 22, 32, 4, 32_000, False, 1_100_048_384),
    PublishedModel(("mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
                   "mistral", 4_096, 14_336, 32, 32, 8, 32_768, False, 7_248_023_552),
)
# fmt: on
"""The models of the presets, and usual ones."""


def published_model(name: str) -> PublishedModel | None:
    """Find a model's published sizes.

    Args:
        name: Hub id, in any case.

    Returns:
        The model, or None if it isn't in `PUBLISHED`.
    """
    wanted = name.casefold()
    return next((m for m in PUBLISHED if wanted in (n.casefold() for n in m.names)), None)
