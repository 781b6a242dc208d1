"""How far a model's positions reach, read from its configuration: trained positions, growing scales, windows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dfl_ray.errors import InputError

_POSITIONS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length",
)  # fmt: skip
_COUNTED_FROM_PAD = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "mpnet",
    "longformer", "esm", "luke", "ibert", "xmod",
)  # fmt: skip
"""Model types whose first token has position pad_token_id + 1, so that as many positions less are left."""
_WINDOW = re.compile(r"sliding_window|window_size|attention_chunk|local_attention|chunk_size|chunk_length")


def trained_positions(config_json: str) -> int | None:
    """Find the longest row of the model's training.

    Args:
        config_json: The model's configuration.

    Returns:
        Tokens, the smallest number that the configuration names; None where it names none.
    """
    raw = json.loads(config_json)
    named = [c.get(key) for c in _text_configs(raw) for key in _POSITIONS]
    found = min((n for n in named if isinstance(n, int) and n > 0), default=None)
    if found is not None and raw.get("model_type") in _COUNTED_FROM_PAD:
        return found - int(raw.get("pad_token_id") or 0) - 1
    return found


def scale_grows_from(config_json: str) -> tuple[int, str] | None:
    """Where rotary positions scale with the longest row of a batch: from which length on, and by which key.

    Dynamic NTK scaling computes its base anew for every length, LongRoPE changes from short to long factors; both
    look at the longest row of the batch, so that a row's result would depend on its neighbours.

    Args:
        config_json: The model's configuration.

    Returns:
        (length up to which the scale is constant, configuration key), or None where it is constant.
    """
    found: list[tuple[int, str]] = []
    for config in _text_configs(json.loads(config_json)):
        for key in ("rope_parameters", "rope_scaling"):
            for rope in _ropes(config.get(key)):
                kind = str(rope.get("rope_type") or rope.get("type") or "")
                if "dynamic" in kind or kind in ("longrope", "su"):
                    starts = [
                        rope.get("original_max_position_embeddings"),
                        config.get("original_max_position_embeddings"),
                        config.get("max_position_embeddings"),
                    ]
                    length = min((s for s in starts if isinstance(s, int)), default=0)
                    found.append((length, f"{key}: rope_type {kind}"))
    return min(found, default=None)


def least_window(config_json: str) -> int | None:
    """Find the smallest number of earlier tokens that a windowed or chunked layer may be limited to.

    Every key whose name speaks of a window or a chunk counts, whether or not the model heeds it.

    Args:
        config_json: The model's configuration.

    Returns:
        Tokens, or None if no such key holds a positive number.
    """
    named = [
        value
        for config in _text_configs(json.loads(config_json))
        for key, value in config.items()
        if _WINDOW.search(key)
    ]
    flat = [v for value in named for v in (value if isinstance(value, list) else [value])]
    return min((v for v in flat if isinstance(v, int) and not isinstance(v, bool) and v > 0), default=None)


def longest_constant(config_json: str) -> int | None:
    """Find the length beyond which padding might change a row.

    Args:
        config_json: The model's configuration.

    Returns:
        The smaller of the trained positions and of the length from which a rotary scale grows, in tokens; None where
        the configuration has neither.
    """
    grows = scale_grows_from(config_json)
    limits = [trained_positions(config_json), None if grows is None else grows[0]]
    return min((n for n in limits if n is not None), default=None)


def check_row_length(config_json: str, longest: int) -> tuple[str, ...]:
    """Compare the longest row with the model's positions.

    Args:
        config_json: The model's configuration.
        longest: Tokens of the longest row.

    Returns:
        A note where rows reach past the positions that the model was trained with.

    Raises:
        InputError: Rows would be scaled by the longest row of their batch.
    """
    grows = scale_grows_from(config_json)
    if grows is not None and longest > grows[0]:
        raise InputError(
            f"The base model scales its rotary positions with the longest row of a batch ({grows[1]})",
            got=f"rows of up to {longest} tokens, the scale is constant up to {grows[0]}",
            expected="rows whose result does not depend on their neighbours",
            change=f"Set `model.max_tokens` to at most {grows[0]}, or give the model a scaling that is fixed "
            "(rope_type yarn, linear or llama3)",
        )
    trained = trained_positions(config_json)
    if trained is None or longest <= trained:
        return ()
    return (
        f"Rows of up to {longest} tokens reach past the {trained} positions that the model was trained with "
        "(max_position_embeddings); lower `model.max_tokens` to stay inside them.",
    )


def _text_configs(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and those nested in it that describe text."""
    yield raw
    for key, value in raw.items():
        if isinstance(value, dict) and ("text" in key or key in ("decoder", "llm_config")):
            yield value


def _ropes(value: object) -> Iterator[Mapping[str, Any]]:
    """Rotary settings: one for all layers, or one for each type of layer."""
    if isinstance(value, dict):
        yield value
        yield from (v for v in value.values() if isinstance(v, dict))
