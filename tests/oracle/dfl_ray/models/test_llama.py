"""The project's own decoder against `transformers`, for every model type it claims, with random small weights."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
import torch

from dfl_ray.engines.adapted_layers import Targets, distinct_inputs, targets_of
from dfl_ray.engines.training import ScoredModel
from dfl_ray.lora.inject import find_targets, inject
from dfl_ray.models.base import load_base
from dfl_ray.models.build import build_model
from dfl_ray.models.decoder import read_decoder, unknown_keys
from dfl_ray.models.llama import CausalDecoder
from dfl_ray.models.weights import BaseWeights

SMALL = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LONGEST = 40
"""Tokens that a row may have in these tests."""
SUPPORTED = {
    "llama": ("LlamaConfig", {}),
    "llama-tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("LlamaConfig", {"head_dim": 16, "num_key_value_heads": 6}),
    "llama-one-kv-head": ("LlamaConfig", {"num_key_value_heads": 1}),
    "llama3-scaling": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral-wide-window": ("MistralConfig", {"sliding_window": 64}),
    "mistral-window-of-a-row": ("MistralConfig", {"sliding_window": LONGEST}),
    "qwen2-wide-window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1},
    ),
    "qwen2": ("Qwen2Config", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "qwen3-biases": ("Qwen3Config", {"head_dim": 8, "attention_bias": True}),
}
REFUSED = {
    "mistral-window": ("MistralConfig", {"sliding_window": 16}),
    "mistral-window-as-long-as-its-positions": (
        "MistralConfig",
        {"max_position_embeddings": 16, "sliding_window": 16},
    ),
    "qwen2-window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "gelu": ("LlamaConfig", {"hidden_act": "gelu"}),
    "linear-scaling": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "partial-rotary": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
}


def reference(name, table):
    """A `transformers` model with random weights, biases and norms included."""
    import transformers

    kind, more = table[name]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**SMALL | more))
    generator = torch.Generator().manual_seed(len(name))
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.3
        parameter.data.copy_(1 + drawn if parameter.dim() == 1 else drawn)
    return model.eval().requires_grad_(False)


def as_weights(model):
    arrays = {n: p.detach().numpy() for n, p in model.named_parameters()}
    return BaseWeights(json.dumps(model.config.to_dict(), default=str), arrays, "float32", longest=LONGEST)


@pytest.mark.parametrize("name", SUPPORTED)
def test_logits_equal_transformers(name):
    theirs = reference(name, SUPPORTED)
    ours = build_model(as_weights(theirs))
    assert isinstance(ours, CausalDecoder)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    ids = torch.randint(0, 50, (3, 37), generator=torch.Generator().manual_seed(0))
    expected = theirs(input_ids=ids, use_cache=False).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SUPPORTED)
def test_shapes_are_read_off_the_configuration(name):
    """Names and sizes against the `transformers` model; which layers see one input against running the model."""
    theirs = reference(name, SUPPORTED)
    weights = as_weights(theirs)
    shape = weights.decoder
    assert shape is not None
    assert shape.parameter_shapes() == {n: tuple(p.shape) for n, p in theirs.named_parameters()}
    for wanted in ("all-linear", ["v_proj", "down_proj"], ["o_proj", "up_proj", "gate_proj"]):
        model = build_model(weights)
        layers = find_targets(model, wanted)
        distinct = distinct_inputs(ScoredModel(model, inject(model, layers)))
        parameters = sum(p.numel() for p in theirs.parameters())
        linear = (m for n, m in theirs.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head")
        expected = Targets(
            tuple(layers),
            tuple(distinct),
            parameters,
            shape=shape,
            linear_values=sum(m.weight.numel() for m in linear),
        )
        assert targets_of(weights, wanted) == expected


def test_other_models_are_tried_out():
    import transformers

    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=50, n_positions=16)
    found = targets_of(as_weights(transformers.AutoModelForCausalLM.from_config(config)), "all-linear")
    assert [s.name.rsplit(".", 1)[-1] for s in found.layers[:4]] == ["c_attn", "c_proj", "c_fc", "c_proj"]
    assert (found.layers[0].out_features, found.layers[0].in_features) == (24, 8)
    assert found.distinct == tuple(range(8))


@pytest.mark.parametrize("name", SUPPORTED)
def test_masks_and_positions_equal_transformers(name):
    """A block mask with position ids of their own, as packed scoring uses them."""
    theirs = reference(name, SUPPORTED)
    ours = build_model(as_weights(theirs))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (2, 12), generator=generator)
    positions = torch.cat([torch.arange(8), torch.arange(5, 9)]).expand(2, 12)
    seen = torch.tril(torch.rand((2, 1, 12, 12), generator=generator) < 0.7) | torch.eye(12, dtype=torch.bool)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    torch.testing.assert_close(ours(**arguments).logits, theirs(**arguments).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SUPPORTED)
def test_gradients_equal_transformers(name):
    theirs = reference(name, SUPPORTED)
    ours = build_model(as_weights(theirs))
    ids = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(2))
    for model in (theirs, ours):
        model.requires_grad_(True)
        torch.nn.functional.cross_entropy(model(input_ids=ids, use_cache=False).logits[0], ids[1]).backward()
    found = dict(ours.named_parameters())
    for n, p in theirs.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found[n].grad, p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_implemented_falls_back(name):
    theirs = reference(name, REFUSED)
    weights = as_weights(theirs)
    assert weights.decoder is None
    model = build_model(weights)
    assert type(model).__module__.startswith("transformers.")
    ids = torch.randint(0, 50, (1, 20), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_a_window_counts_where_a_row_may_be_longer(base):
    """By the rows there may be and not by the model's own length, which is no limit of theirs."""
    kinds = {
        "mistral": {"sliding_window": 32, "max_position_embeddings": 16},
        "mistral-unsaid": {},
        "qwen2": {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 1},
        "qwen2-layers": {"sliding_window": 32, "layer_types": ["full_attention", "sliding_attention"]},
    }
    for name, more in kinds.items():
        raw = json.loads(base.config_json) | {"model_type": name.split("-")[0], "architectures": None} | more
        window = 4096 if name == "mistral-unsaid" else 32
        read = [read_decoder(json.dumps(raw), longest) for longest in (window, window + 1, None)]
        assert read[0] is not None and read[1:] == [None, None], name
    chunked = json.loads(base.config_json) | {"layer_types": ["chunked_attention"]}
    assert read_decoder(json.dumps(chunked), 8) is None


def test_unknown_keys_are_not_guessed(base):
    raw = json.loads(base.config_json)
    assert read_decoder(json.dumps(raw)) is not None
    assert read_decoder(json.dumps(raw | {"logit_scale": 2.0})) is None
    assert unknown_keys(json.dumps(raw | {"logit_scale": 2.0})) == ("logit_scale",)
    assert unknown_keys(json.dumps(raw | {"logit_scale": 2.0, "model_type": "gpt2"})) == ()
    # SmolLM2's own keys, on the hub and as a GGUF file gives them, have no effect in `transformers`.
    named = {
        "_model_name_or_path": "x",
        "unk_token_id": 0,
        "is_llama_config": True,
        "rope_interleaved": False,
    }
    assert read_decoder(json.dumps(raw | named)) == read_decoder(json.dumps(raw))
    assert read_decoder(json.dumps(raw | {"rope_interleaved": True})) is None
    assert read_decoder(json.dumps(raw | {"quantization_config": {"bits": 4}})) is None
    assert read_decoder(json.dumps({k: v for k, v in raw.items() if k != "rms_norm_eps"})) is None


@pytest.mark.parametrize("name", ["llama-tied", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folders_load_without_transformers(name, dtype, tmp_path):
    theirs = reference(name, SUPPORTED)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    weights = load_base(tmp_path, dtype=dtype)
    assert (tmp_path / "config.json").read_text() == weights.config_json
    model = build_model(weights)
    for n, p in theirs.named_parameters():
        assert torch.equal(dict(model.named_parameters())[n], p.detach().to(getattr(torch, dtype)))


def test_parameters_are_the_arrays(base):
    model = build_model(base)
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == base.arrays[name].ctypes.data


def test_a_group_needs_torch_alone(tmp_path):
    """Everything a device actor does, in a process that gets the pickled setup as an actor does."""
    from dfl_ray.simulation.experiment import build_experiment
    from tests.conftest import small_config

    (tmp_path / "setup.pickle").write_bytes(pickle.dumps(build_experiment(small_config(tmp_path)).setup))
    script = """
import pickle, sys
from actors.device import DeviceActor
with open(sys.argv[1], "rb") as file:
    actor = DeviceActor(pickle.load(file), [0, 1])
actor.train(1)
actor.evaluate(1, ("likelihood",), None)
[actor.snapshot(part) for part in actor.parts()]
heavy = ("transformers", "peft", "accelerate", "safetensors", "pandas", "scipy", "numba", "plotly",
         "networkx", "sympy", "torch._dynamo", "torch._inductor")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "setup.pickle")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_driver_needs_no_torch(tmp_path):
    """All the driver does but for Ray: building the experiment, every record of a round, the final adapters."""
    script = """
import pickle, sys
from pathlib import Path
from dfl_ray.simulation.backend import BackendState
from dfl_ray.config.load import load_config
from dfl_ray.simulation.export import save_final_adapters
from dfl_ray.simulation.experiment import build_experiment
import actors.pool, dfl_ray.simulation.driver, dfl_ray.simulation.launch
for method in ("sparse_orthogonal", "ffa"):
    experiment = build_experiment(load_config(None, ["track.wandb.mode=disabled", f"method={method}"]))
    dfl_ray.simulation.driver.smallest_gap(experiment.config, experiment.topology)
    with open(f"{sys.argv[1]}/{method}", "rb") as file:
        assert save_final_adapters(experiment, BackendState(pickle.load(file), None), Path(sys.argv[1]) / "adapters")
print([m for m in ("torch", "transformers") if m in sys.modules])
"""
    from dfl_ray.config.load import load_config
    from dfl_ray.devices.group import DeviceGroup
    from dfl_ray.simulation.experiment import build_experiment

    for method in ("sparse_orthogonal", "ffa"):
        config = load_config(None, ["track.wandb.mode=disabled", f"method={method}"])
        snapshot = DeviceGroup(build_experiment(config).setup, range(10)).snapshot(range(10))
        (tmp_path / method).write_bytes(pickle.dumps([snapshot]))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_channel_needs_no_torch():
    script = (
        "import sys; import actors.channel; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
