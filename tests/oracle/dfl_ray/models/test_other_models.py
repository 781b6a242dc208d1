"""A run on a model that is not of the Llama family: what is said of it, and its adapters read back by PEFT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dfl_ray.models.paths import embedded_path
from dfl_ray.simulation.export import base_reference
from tests.conftest import small_config


@pytest.fixture
def gpt2(tmp_path):
    """A random GPT-2 with the embedded model's tokenizer."""
    import transformers

    folder = tmp_path / "base"
    size = json.loads((embedded_path() / "config.json").read_text())["vocab_size"]
    config = transformers.GPT2Config(vocab_size=size, n_positions=128, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_path() / name, folder / name)
    return folder


def test_a_run_says_what_it_did_otherwise_and_verifies_its_export(gpt2, tmp_path):
    import torch

    from dfl_ray.simulation.launch import launch

    config = small_config(
        tmp_path, "name=x", "runtime.backend=local", "rounds=1", f"model.name={gpt2}", "method=dlora",
        "model.target_modules=[c_attn,w_pack]", "model.verify_export=true", "runtime.gpus_per_actor=1",
    )  # fmt: skip
    run = launch(config, json=True).folder
    info = json.loads((run / "run.json").read_text())
    assert info["state"] == "done"
    assert any("w_pack matches no linear layer" in w for w in info["warnings"])
    assert any("no CUDA device" in w for w in info["warnings"]) == (not torch.cuda.is_available())
    said = json.loads((run / "adapters" / "shared" / "adapter_config.json").read_text())
    assert said["target_modules"] == ["transformer.h.0.attn.c_attn"]


def test_the_export_names_no_path_of_this_machine(gpt2, tmp_path, monkeypatch):
    assert base_reference(small_config(tmp_path)) == "embedded"
    hub = small_config(tmp_path, "model.name=org/model")
    assert base_reference(hub) == "org/model"
    monkeypatch.chdir(tmp_path)
    config = small_config(tmp_path, f"model.name={gpt2}")
    assert base_reference(config) == str(Path("base"))
    raw = json.loads((gpt2 / "config.json").read_text())
    (gpt2 / "config.json").write_text(json.dumps(raw | {"_name_or_path": "someone/small-gpt2"}))
    assert base_reference(config) == "someone/small-gpt2"


def test_an_export_that_peft_reads_otherwise_is_an_error(gpt2, monkeypatch):
    """A weight that PEFT is not shown: the comparison must notice."""
    import numpy as np

    from dfl_ray.engines import peft_check
    from dfl_ray.engines.probe import random_adapters
    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.errors import InputError
    from dfl_ray.lora.inject import find_targets, inject
    from dfl_ray.models.base import load_base
    from dfl_ray.models.build import build_model

    weights = load_base(gpt2)
    module = build_model(weights)
    layers = find_targets(module, "all-linear")
    a, b = random_adapters(module, layers, 1)
    model = ScoredModel(module, inject(module, layers))
    factors = [x[0] for x in a], [x[0] for x in b]
    peft_check.check_expressible(weights, model, layers, *factors)
    write = peft_check.write_peft_folder

    def forget(folder, layers, a, b, **more):
        return write(folder, layers, a, [b[0], np.zeros_like(b[1]), *b[2:]], **more)

    folder = forget(
        gpt2 / "adapter", layers, *([x.numpy() for x in f] for f in factors), scale=1.0, base_model=""
    )
    read = peft_check.read_peft_folder
    monkeypatch.setattr(
        peft_check, "read_peft_folder", lambda f, s: (read(f, s)[0], [x.numpy() for x in factors[1]], 1.0)
    )
    with pytest.raises(InputError, match=layers[1].name):
        peft_check.verify_folder(weights, model, layers, folder)
