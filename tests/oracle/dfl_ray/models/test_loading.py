"""What is in a folder is what is computed, against `transformers`; what can't be is refused by name."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dfl_ray.engines.adapted_layers import RowSizes, planned_targets, targets_of
from dfl_ray.errors import InputError
from dfl_ray.lora.targets import choose_layers
from dfl_ray.models.base import load_base
from dfl_ray.models.build import build_model, build_transformer
from dfl_ray.models.llama import CausalDecoder
from dfl_ray.models.planned import planned_notes
from dfl_ray.models.shapes import all_linear_layers, read_headers
from tests.oracle.architectures.tiny import tiny_config, tiny_model

IDS = torch.randint(3, 60, (2, 20), generator=torch.Generator().manual_seed(0))


def saved(model_type, folder, **changes):
    """A saved tiny model; `changes` go into config.json afterwards."""
    tiny_model(model_type).save_pretrained(folder)
    if changes:
        change_config(folder, **changes)
    return folder


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def reference(folder):
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=IDS).logits


def logits(weights):
    with torch.no_grad():
        return build_model(weights)(input_ids=IDS).logits


def complaint(folder):
    with pytest.raises(InputError) as caught:
        load_base(folder)
    return str(caught.value)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2"])
def test_an_own_head_under_a_tied_configuration_is_used(model_type, tmp_path):
    """The file holds both and they differ: `transformers` 5 keeps the head."""
    folder = saved(model_type, tmp_path, tie_word_embeddings=True)
    name = "transformer.wte.weight" if model_type == "gpt2" else "model.embed_tokens.weight"

    def untie(tensors):
        generator = torch.Generator().manual_seed(1)
        return tensors | {"lm_head.weight": torch.randn(tensors[name].shape, generator=generator) * 0.1}

    change_tensors(folder, untie)
    weights = load_base(folder)
    torch.testing.assert_close(logits(weights), reference(folder), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        build_transformer(weights)(input_ids=IDS).logits, reference(folder), rtol=1e-5, atol=1e-5
    )
    assert isinstance(build_model(weights), CausalDecoder) == (model_type == "llama")
    assert any("tie_word_embeddings" in note for note in weights.notes)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_a_tied_head_that_is_stored_too_is_no_news(model_type, tmp_path):
    folder = saved(model_type, tmp_path, tie_word_embeddings=True)
    change_tensors(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    weights = load_base(folder)
    assert weights.notes == ()
    assert "lm_head.weight" not in weights.arrays
    torch.testing.assert_close(logits(weights), reference(folder), rtol=1e-5, atol=1e-5)


def without(*names):
    return lambda tensors: {n: t for n, t in tensors.items() if not any(word in n for word in names)}


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "mistral"])
def test_missing_weights_are_named_and_never_drawn(model_type, tmp_path):
    folder = saved(model_type, tmp_path)
    change_tensors(folder, without("lm_head", "embed_out"))
    assert re.search(r"1 missing: (lm_head|embed_out)\.weight", complaint(folder))


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_layers_that_the_file_lacks(model_type, tmp_path):
    folder = saved(model_type, tmp_path, num_hidden_layers=5)
    said = complaint(folder)
    assert "missing" in said
    assert "layers.4." in said


def test_a_prefix_in_the_names(tmp_path):
    folder = saved("llama", tmp_path)
    change_tensors(folder, lambda tensors: {f"net.{n}": t for n, t in tensors.items()})
    said = complaint(folder)
    assert "missing" in said
    assert "net.lm_head.weight" in said or "not the model's" in said


def test_a_weight_of_another_shape(tmp_path):
    folder = saved("gpt_neox", tmp_path)

    def shorten(tensors):
        name = next(n for n in tensors if n.endswith("layers.1.mlp.dense_h_to_4h.weight"))
        return tensors | {name: tensors[name][:-1].clone()}

    change_tensors(folder, shorten)
    said = complaint(folder)
    assert "of another shape" in said
    assert "layers.1.mlp.dense_h_to_4h.weight" in said


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_a_decoder_with_a_classifiers_head_is_a_classifier(model_type, tmp_path):
    """It is read as one; without a padding token, by which it finds a row's last token, it is refused."""
    import transformers

    kind = {"llama": "LlamaForSequenceClassification", "gemma2": "Gemma2ForSequenceClassification"}[
        model_type
    ]
    for pad in (0, None):
        config = tiny_config(model_type)
        config.pad_token_id = pad
        getattr(transformers, kind)(config).save_pretrained(tmp_path)
        weights = load_base(tmp_path)
        assert weights.classes == ("LABEL_0", "LABEL_1") and weights.decoder is None
        assert weights.head is not None and list(weights.head) == ["score.weight"]
        if pad is None:
            with pytest.raises(InputError, match="padding token"):
                targets_of(weights, "all-linear")
        else:
            assert not any("score" in s.name for s in targets_of(weights, "all-linear").layers)


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_a_configuration_with_fewer_layers_is_told(model_type, tmp_path):
    folder = saved(model_type, tmp_path, num_hidden_layers=2)
    weights = load_base(folder)
    assert any("asks for 2 layers" in note and "2, 3" in note for note in weights.notes)
    torch.testing.assert_close(logits(weights), reference(folder), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["glm4_moe", "deepseek_v3"])
def test_persistent_buffers_are_kept(model_type, tmp_path):
    """e_score_correction_bias decides which experts a token goes to and is no parameter."""
    folder = saved(model_type, tmp_path)
    generator = torch.Generator().manual_seed(2)

    def bias(tensors):
        names = [n for n in tensors if n.endswith("e_score_correction_bias")]
        assert names
        return tensors | {n: torch.randn(tensors[n].shape, generator=generator) for n in names}

    before = reference(folder)
    change_tensors(folder, bias)
    weights = load_base(folder)
    assert (reference(folder) - before).abs().max() > 0.01
    torch.testing.assert_close(logits(weights), reference(folder), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_that_are_not_finite_are_refused_by_name(model_type, value, dtype, tmp_path):
    folder = saved(model_type, tmp_path)
    chosen = []

    def spoil(tensors):
        chosen.append(sorted(n for n in tensors if n.endswith("weight") and tensors[n].dim() == 2)[1])
        tensors[chosen[0]][1, 2] = value
        return tensors

    change_tensors(folder, spoil)
    with pytest.raises(InputError, match=re.escape(chosen[0])):
        load_base(folder, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral"])
def test_loaded_twice_is_equal(model_type, dtype, tmp_path):
    folder = saved(model_type, tmp_path)
    first, second = load_base(folder, dtype=dtype), load_base(folder, dtype=dtype)
    assert first.config_json == second.config_json
    assert list(first.arrays) == list(second.arrays)
    assert all(np.array_equal(first.arrays[n], second.arrays[n]) for n in first.arrays)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_an_adapter_beside_the_base_is_not_loaded_and_told(model_type, tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = saved(model_type, tmp_path)
    expected = reference(folder)
    adapted = get_peft_model(
        tiny_model(model_type), LoraConfig(target_modules="all-linear", init_lora_weights=False)
    )
    adapted.save_pretrained(folder)
    assert (folder / "adapter_config.json").is_file()
    weights = load_base(folder)
    torch.testing.assert_close(logits(weights), expected, rtol=1e-5, atol=1e-5)
    assert any("adapter_config.json" in note for note in weights.notes)


def test_encoder_decoder_models_are_refused_by_name(tmp_path):
    import transformers

    config = transformers.BartConfig(
        vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path)
    said = complaint(tmp_path)
    assert "encoder–decoder" in said
    assert "bart" in said


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "xlm-roberta"])
def test_bidirectional_models_are_refused_by_what_they_compute(model_type, tmp_path):
    weights = load_base(saved(model_type, tmp_path))
    with pytest.raises(InputError, match=rf"not a causal language model.*'{model_type}'"):
        targets_of(weights, "all-linear")


def test_layers_that_are_gone_past_are_named(tmp_path):
    """Mamba computes with dt_proj's weight and never calls it; PEFT refuses out_proj."""
    weights = load_base(saved("mamba", tmp_path))
    with pytest.raises(InputError, match=r"would do nothing: backbone\.layers\.0\.mixer\.dt_proj") as caught:
        targets_of(weights, "all-linear")
    assert caught.value.change == "Set model.target_modules=[in_proj,x_proj]"
    with pytest.raises(InputError, match=r"can't be exported.*out_proj"):
        targets_of(weights, ["in_proj", "out_proj"])
    assert len(targets_of(weights, ["in_proj", "x_proj"]).layers) == 8


def test_adapters_that_peft_drops_are_refused(tmp_path):
    """PEFT takes a mixture's gate_proj for its fused experts and drops the adapter with a warning."""
    weights = load_base(saved("glm4_moe", tmp_path))
    with pytest.raises(InputError, match=r"PEFT drops the adapters of .*gate_proj") as caught:
        targets_of(weights, "all-linear")
    named = re.search(r"target_modules=\[([^\]]+)\]", caught.value.change)
    assert named is not None
    assert targets_of(weights, named[1].split(",")).layers


def test_names_that_match_nothing_are_told(base, tmp_path):
    for weights in (base, load_base(saved("gpt_neox", tmp_path))):
        some = "q_proj" if weights is base else "query_key_value"
        notes = targets_of(weights, [some, "no_such_layer"]).notes
        assert [n for n in notes if "no_such_layer matches no linear layer" in n]
        assert not [n for n in targets_of(weights, [some]).notes if "matches no" in n]


def test_learnt_positions_shorter_than_the_rows(tmp_path):
    weights = load_base(saved("gpt2", tmp_path))
    assert targets_of(weights, "all-linear", RowSizes(96, 5)).notes == ()
    with pytest.raises(InputError, match="rows of up to 97 tokens"):
        targets_of(weights, "all-linear", RowSizes(97, 5))


def test_padding_stays_inside_learnt_positions(tmp_path):
    """Rows of 92 tokens pad to 96, one past a model with 95 positions."""
    import transformers

    from dfl_ray.engines.batches import prompt_batch
    from dfl_ray.engines.training import ScoredModel
    from dfl_ray.lora.inject import inject

    config = transformers.GPT2Config(vocab_size=64, n_positions=93, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    module = build_model(load_base(tmp_path))
    model = ScoredModel(module, inject(module, []))
    rows = [np.arange(91) % 64, np.arange(7)]
    with torch.no_grad():
        expected = torch.cat([module(input_ids=torch.from_numpy(r)[None]).logits[0] for r in rows])
        found = model.logits(prompt_batch(rows, most=model.most_positions, every=True)[0], None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_rows_past_the_trained_positions_are_told(model_type, tmp_path):
    weights = load_base(saved(model_type, tmp_path))
    assert any("96 positions" in note for note in targets_of(weights, "all-linear", RowSizes(97, 5)).notes)
    assert targets_of(weights, "all-linear", RowSizes(96, 5)).notes == ()


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_tokenizer_larger_than_the_embedding(model_type, tmp_path):
    weights = load_base(saved(model_type, tmp_path))
    assert targets_of(weights, "all-linear", RowSizes(10, 63)).layers
    with pytest.raises(InputError, match="token id 64"):
        targets_of(weights, "all-linear", RowSizes(10, 64))


ROPES = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    "longrope": {
        "rope_type": "longrope", "factor": 2.0, "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 96,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ROPES)
def test_scales_that_grow_with_the_batch(name, tmp_path):
    """Refused where rows reach them; below, the row's result is that of the row alone."""
    folder = saved("llama", tmp_path, rope_parameters=ROPES[name])
    weights = load_base(folder)
    torch.testing.assert_close(logits(weights), reference(folder), rtol=1e-5, atol=1e-5)
    assert targets_of(weights, "all-linear", RowSizes(96, 5)).notes == ()
    with pytest.raises(InputError, match=rf"rope_type {name}"):
        targets_of(weights, "all-linear", RowSizes(97, 5))


def test_a_buffer_that_is_not_finite_is_refused_by_name(tmp_path):
    folder = saved("glm4_moe", tmp_path)
    name = next(n for n in load_file(folder / "model.safetensors") if n.endswith("e_score_correction_bias"))

    def spoil(tensors):
        tensors[name][0] = float("nan")
        return tensors

    change_tensors(folder, spoil)
    assert "NaN or infinite values. Got: in 1 of" in complaint(folder) and name in complaint(folder)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma", "mixtral"])
def test_a_plan_says_of_a_folder_what_loading_says(model_type, tmp_path):
    folder = saved(model_type, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, **{"n_layer" if "n_layer" in config else "num_hidden_layers": 2})
    if model_type in ("gpt2", "gemma"):

        def untie(tensors):
            (head,) = [t for n, t in tensors.items() if n.endswith(("wte.weight", "embed_tokens.weight"))]
            return {**tensors, "lm_head.weight": head + 1.0}

        change_tensors(folder, untie)
    (folder / "adapter_config.json").write_text("{}")
    weights = load_base(folder)
    rows = RowSizes(200 if model_type in ("llama", "mixtral") else 8)
    found = targets_of(weights, "k_proj" if model_type == "mixtral" else "all-linear", rows)
    assert planned_notes(read_headers(folder), rows.longest) == found.notes
    assert "layers 2, 3" in found.notes[0] and len(found.notes) == 3
    if model_type != "mixtral":  # what is not all linear layers differs in names
        assert {s.name for s in choose_layers(all_linear_layers(read_headers(folder))[0], "all-linear")} == {
            s.name for s in found.layers
        }


@pytest.mark.parametrize("beside", ["consolidated.safetensors", "model-00003-of-00003.safetensors"])
def test_a_plan_reads_the_files_that_are_the_model(beside, tmp_path):
    """Mistral's folders hold the weights once more under other names."""
    folder = saved("llama", tmp_path)
    whole = planned_targets(folder, "all-linear")
    tensors = load_file(folder / "model.safetensors")
    save_file({f"other.{name}": t for name, t in tensors.items()}, folder / beside)
    assert planned_targets(folder, "all-linear") == whole
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    where = {name: names[k % 2] for k, name in enumerate(tensors)}
    for file in names:
        save_file({n: t for n, t in tensors.items() if where[n] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert planned_targets(folder, "all-linear") == whole
    assert set(load_base(folder).arrays) == set(tensors)


def test_a_plan_refuses_what_its_folder_shows(tmp_path):
    folder = saved("llama", tmp_path, is_encoder_decoder=True)
    with pytest.raises(InputError, match="encoder–decoder model"):
        planned_notes(read_headers(folder), 8)
