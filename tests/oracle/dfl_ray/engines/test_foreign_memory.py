"""What a block of a model outside the Llama family is said to keep, against what autograd keeps of it."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from dfl_ray.engines.foreign_memory import foreign_sizes
from dfl_ray.engines.probe import random_adapters
from dfl_ray.lora.inject import Binding, find_targets, inject

ROWS, LENGTH, WIDTH, INNER = 2, 24, 128, 512
COMMON = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
USUAL = {
    "hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
GROUPED = USUAL | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 64, "num_key_value_heads": 1}
GPT2 = {"n_embd": WIDTH, "n_head": 4, "n_positions": 64}
SETTINGS = {
    "gpt2": GPT2 | {"depth": "n_layer"},
    "gptj": GPT2 | {"depth": "n_layer", "rotary_dim": 32},
    "opt": {
        "hidden_size": WIDTH, "ffn_dim": INNER, "num_attention_heads": 4, "max_position_embeddings": 64,
        "word_embed_proj_dim": WIDTH,
    },
    "bloom": {"hidden_size": WIDTH, "n_head": 4, "depth": "n_layer"},
    "gpt_neox": USUAL, "phi": GROUPED, "stablelm": GROUPED, "starcoder2": GROUPED, "olmo2": GROUPED,
    "gemma": WIDE, "gemma2": WIDE, "gemma3_text": WIDE,
    "mixtral": GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip


def kept_by_autograd(family: str, layers: int) -> tuple[float, str]:
    """Values of a token that autograd keeps of a whole model, weights and thin products left out; and its config."""
    settings = dict(SETTINGS[family])
    depth = settings.pop("depth", "num_hidden_layers")
    config = transformers.AutoConfig.for_model(family, **COMMON, **settings, **{depth: layers})
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    shapes = tuple(find_targets(model, "all-linear"))
    cell = inject(model, shapes)
    a, b = ([x.detach().requires_grad_() for x in stack] for stack in random_adapters(model, shapes, 1))
    cell.current, cell.shape = Binding(a, b, None, 1.0), (ROWS, LENGTH)
    left_out = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *a, *b)}
    stores, alive = {}, []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        store = tensor.untyped_storage()
        if store.data_ptr() not in left_out:
            stores[store.data_ptr()] = store.nbytes()
        alive.append(tensor)  # so that no two have one address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.randint(2, 60, (ROWS, LENGTH)), use_cache=False)
    thin = sum(x.shape[1] for x in a)
    return sum(stores.values()) / 4 / (ROWS * LENGTH) - thin, json.dumps(config.to_dict(), default=str)


@pytest.mark.parametrize("family", SETTINGS)
def test_a_block_keeps_what_is_said(family):
    (two, _), (three, config) = (kept_by_autograd(family, layers) for layers in (2, 3))
    sizes = foreign_sizes(config)
    assert sizes is not None
    assert sizes.kept + LENGTH * sizes.scores == pytest.approx(three - two, rel=0.02)
