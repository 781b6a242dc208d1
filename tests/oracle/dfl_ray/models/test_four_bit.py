"""A base in 4 bits against NF4 worked out in plain numpy, and against `transformers`, bitsandbytes and PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F

from dfl_ray import plan, run
from dfl_ray.engines.adapted_layers import targets_of
from dfl_ray.engines.batches import prompt_batch
from dfl_ray.engines.training import Leaves, ScoredModel, backward
from dfl_ray.errors import InputError
from dfl_ray.lora.inject import Binding, inject
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.models import checks, four_bit
from dfl_ray.models.base import load_base
from dfl_ray.models.build import build_model
from dfl_ray.models.merged import merged_model
from dfl_ray.models.paths import embedded_path
from dfl_ray.models.peft_folder import write_peft_folder
from dfl_ray.tasks.tokens import TokenRows
from tests.conftest import small_config
from tests.oracle.architectures.tiny import tiny_model

# Appendix E of arXiv 2305.14314.
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
ROWS = [[5, 9, 2, 33, 7, 1, 4], [3, 3, 8, 60, 11], [12, 40, 6, 6, 21, 2]]


def installed() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra gpu (bitsandbytes)")


# Widths below a block: where the rows of a weight are no multiple of one, bitsandbytes' own CPU kernel goes wrong.
@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    installed()
    place = tmp_path_factory.mktemp(request.param)
    tiny_model(request.param).save_pretrained(place)
    return place


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def wide(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    installed()
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        request.param, vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
    )  # fmt: skip
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp(f"wide_{request.param}")
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    return place


def by_hand(weight: np.ndarray) -> np.ndarray:
    blocks = weight.reshape(-1, 64)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    nearest = np.abs((blocks / largest)[..., None] - NF4).argmin(axis=-1)
    return (NF4[nearest] * largest).reshape(weight.shape)


def token_rows() -> TokenRows:
    offsets = np.cumsum([0, *map(len, ROWS)]).astype(np.int64)
    return TokenRows(np.concatenate(ROWS).astype(np.int32), offsets, np.array([3, 2, 4], np.int32))


def test_weights_are_those_of_nf4_worked_out_by_hand(folder: Path) -> None:
    weights, plain = load_base(folder, load_in_4bit=True), load_base(folder)
    stored = load_file(folder / "model.safetensors")
    layers = targets_of(plain, "all-linear").layers
    assert set(weights.four_bit) == {f"{s.name}.weight" for s in layers}
    assert not set(weights.four_bit) & set(weights.arrays) and weights.parameters == plain.parameters
    module = build_model(weights)
    back = four_bit.in_full(weights).arrays
    for name in weights.four_bit:
        wanted = by_hand(stored[name])
        assert np.abs(wanted - stored[name]).max() > 0
        np.testing.assert_allclose(back[name], wanted, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(
            module.get_submodule(name.removesuffix(".weight")).weight.numpy(), back[name]
        )
    inside = sum(s.out_features * s.in_features for s in layers)
    assert weights.size_bytes == plain.size_bytes - 4 * inside + inside // 2 + 4 * inside // 64
    assert f"{inside:,} of {plain.parameters:,} parameters" in weights.notes[-1]


def test_loss_and_gradient_are_those_of_transformers_bitsandbytes_and_peft(
    wide: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    weights = load_base(wide, load_in_4bit=True)
    module = build_model(weights)
    layers = targets_of(weights, "all-linear").layers
    model = ScoredModel(module, inject(module, layers))
    layout = Layout(layers, 3, ("a", "b"))
    theta = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, (1, layout.size)).astype(np.float32))
    leaves = Leaves(layout, AdapterState.from_theta(theta), None)
    table = token_rows()
    loss = backward(model, leaves, [[(table, i) for i in range(3)]], 0.7)
    a, b = ([v[0].numpy() for v in layout.views(theta, f)] for f in "ab")
    write_peft_folder(tmp_path / "adapter", layers, a, b, scale=0.7, base_model="", head=None)
    base = AutoModelForCausalLM.from_pretrained(
        wide, dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
    )  # fmt: skip
    assert type(base.get_submodule(layers[0].name)).__name__ == "Linear4bit"
    peft = PeftModel.from_pretrained(base, str(tmp_path / "adapter"), is_trainable=True).eval()
    nll = []
    for row, start in zip(ROWS, (3, 2, 4), strict=True):
        logits = peft(input_ids=torch.tensor([row])).logits[0].float()
        nll.append(F.cross_entropy(logits[start - 1 : -1], torch.tensor(row[start:]), reduction="none"))
    theirs = torch.cat(nll).mean()
    assert float(loss[0]) == pytest.approx(theirs.item(), abs=1e-5)
    theirs.backward()
    named = dict(peft.named_parameters())
    for factor, views in leaves.into.items():
        for layer, view in zip(layers, views, strict=True):
            wanted = named[f"base_model.model.{layer.name}.lora_{factor.upper()}.default.weight"].grad
            assert float(wanted.abs().max()) > 0
            torch.testing.assert_close(view[0], wanted, rtol=1e-4, atol=1e-6)


def test_the_merged_model_is_plain_and_gives_the_same_logits(folder: Path) -> None:
    weights = load_base(folder, load_in_4bit=True)
    module = build_model(weights)
    layers = targets_of(weights, "all-linear").layers
    model = ScoredModel(module, inject(module, layers))
    rng = np.random.default_rng(1)
    a = [torch.from_numpy(rng.normal(0, 0.2, (2, s.in_features)).astype(np.float32)) for s in layers]
    b = [torch.from_numpy(rng.normal(0, 0.2, (s.out_features, 2)).astype(np.float32)) for s in layers]
    merged = merged_model(weights, layers, a, b, 0.5)
    assert type(merged.get_submodule(layers[0].name)) is torch.nn.Linear
    row = np.array(ROWS[0])
    batch, _ = prompt_batch([row], most=None, every=True)
    with torch.no_grad():
        mine = model.logits(batch, Binding([x[None] for x in a], [x[None] for x in b], None, 0.5))
        bare = model.logits(batch, None)
        theirs = merged(input_ids=torch.from_numpy(row)[None]).logits[0]
    assert float((mine - bare).abs().max()) > 0.01
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    installed()
    tiny_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="nothing that can be held in 4 bits"):
        load_base(tmp_path, load_in_4bit=True)


def test_without_bitsandbytes_the_extra_is_named_before_the_base_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"needs bitsandbytes[\s\S]*dfl-ray\[gpu\]"):
        load_base(tmp_path / "nothing-there-to-read", load_in_4bit=True)
    config = small_config(tmp_path, "model.load_in_4bit=true", "rounds=1")
    assert any("bitsandbytes is not installed" in note for note in plan(config)["notes"])
    monkeypatch.setattr(checks, "find_spec", lambda _name: "there")
    assert not any("not installed" in note for note in plan(config)["notes"])


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_a_folder_stored_quantised_is_refused(method: str, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    described = tmp_path / "config.json"
    raw = json.loads(described.read_text()) | {"quantization_config": {"quant_method": method}}
    described.write_text(json.dumps(raw))
    with pytest.raises(InputError, match="stored quantised"):
        load_base(tmp_path)


@pytest.mark.exhaustive
def test_a_plan_counts_its_memory_and_a_run_trains(tmp_path: Path) -> None:
    installed()
    config = small_config(
        tmp_path, "model.load_in_4bit=true", "runtime.backend=local", "name=four", "rounds=2",
        "model.verify_export=true",
    )  # fmt: skip
    planned = plan(config)
    held = load_base(embedded_path(), load_in_4bit=True)
    assert planned["memory"]["base_mb"] == pytest.approx(held.size_bytes / 2**20, rel=1e-3)
    found = run(config)
    assert planned["run"]["payload_bytes"] == found.rounds.payload_bytes.sum() > 0
    assert found.rounds.train_loss.iloc[-1] < found.rounds.train_loss.iloc[0]
    assert any("held in 4 bits" in said for said in found.info["warnings"])
