"""What a group needs for a model before its weights come: modules to import, loops to compile."""

from __future__ import annotations

import json

from dfl_ray.models.decoder import read_decoder


def prepare_model(config_json: str, longest: int | None = None) -> None:
    """Import and compile what groups on the CPU need for a model, so that processes forked from this one have it.

    Args:
        config_json: The model's `transformers` configuration. Code shipped with a model is not run.
        longest: Most tokens that a row may have, as `BaseWeights.longest`.
    """
    shape = read_decoder(config_json, longest)
    if shape is None:
        from dfl_ray.models.build import empty_transformer

        empty_transformer(json.loads(config_json), "float32")
        return
    from dfl_ray.engines.cpu.gate import compile_gate
    from dfl_ray.engines.cpu.rows import WIDEST_HEAD, compile_attention

    compile_gate(shape.intermediate_size)
    if shape.head_dim <= WIDEST_HEAD:
        compile_attention(shape.head_dim)
