"""What groups and the channel need before they are made: modules to import, loops to compile or load."""

from __future__ import annotations

import json

import numpy as np

from dfl_ray.models.decoder import read_decoder


def prepare_radio() -> None:
    """Load the compiled loops of a round on air, and what numba imports to load any, by a round of three devices."""
    from channels.channel import Channel
    from channels.settings import RadioSettings
    from channels.transfers import Transfers

    air = Channel(RadioSettings(), [[0.0, 0.0], [30.0, 0.0], [0.0, 40.0]], seed=0)
    air.plan_round(1, Transfers.build([0, 1], [1, 2], 1000), ready_s=np.zeros(3))


def prepare_model(config_json: str) -> None:
    """Import and compile what groups on the CPU need for a model, so that processes forked from this one have it.

    Args:
        config_json: The model's `transformers` configuration. Code shipped with a model is not run.
    """
    shape = read_decoder(config_json)
    if shape is None:
        from dfl_ray.models.build import empty_transformer

        empty_transformer(json.loads(config_json), "float32")
        return
    from dfl_ray.engines.cpu.gate import compile_gate
    from dfl_ray.engines.cpu.rows import WIDEST_HEAD, compile_attention

    compile_gate(shape.intermediate_size)
    if shape.head_dim <= WIDEST_HEAD:
        compile_attention(shape.head_dim)
