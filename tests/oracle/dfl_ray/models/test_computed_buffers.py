"""Buffers that no file has are those of `from_pretrained`, whatever the precision."""

from __future__ import annotations

import pytest
import torch
import transformers

from dfl_ray.models.base import load_base
from dfl_ray.models.build import build_model

SMALL = {
    "gptj": lambda: transformers.GPTJConfig(
        n_embd=64, n_layer=1, n_head=1, rotary_dim=64, n_positions=512, vocab_size=50
    ),
    "codegen": lambda: transformers.CodeGenConfig(
        n_embd=256, n_layer=1, n_head=4, rotary_dim=32, n_positions=512, n_ctx=512, vocab_size=50
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50
    ),
}


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_computes_what_transformers_loads(family, dtype, tmp_path):
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(SMALL[family]()).save_pretrained(tmp_path)
    ours = build_model(load_base(str(tmp_path), dtype=dtype))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype)).eval()
    ids = torch.arange(400).unsqueeze(0) % 50
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
