"""The shipped sizes of hub models against the models that `transformers` builds from them, without memory."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dfl_ray.config.load import load_config
from dfl_ray.engines.adapted_layers import RowSizes, planned_targets
from dfl_ray.engines.memory import WIDE, bytes_per_token, merged_mb, trains_unmerged, working_mb
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import dense_values
from dfl_ray.models.decoder import read_decoder
from dfl_ray.models.paths import embedded_path
from dfl_ray.models.published_shapes import PUBLISHED, PublishedModel, published_model
from dfl_ray.simulation.dry_run import outline
from dfl_ray.simulation.estimate import machine_figures
from dfl_ray.simulation.gpu_estimate import gpu_figures, gpu_lines


def built(model: PublishedModel) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        k: getattr(model, k)
        for k in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size", "head_dim",
        )
        if getattr(model, k) is not None
    }  # fmt: skip
    config = AutoConfig.for_model(model.model_type, **sizes, tie_word_embeddings=model.tied)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda m: m.names[0])
def test_the_sizes_are_those_of_a_random_model_and_count_what_the_hub_counts(model):
    parameters = {n: tuple(p.shape) for n, p in built(model).named_parameters()}
    assert model.shape.parameter_shapes() == parameters
    assert sum(torch.Size(s).numel() for s in parameters.values()) == model.parameters


def test_working_memory_counts_what_a_step_keeps():
    """SmolLM2 at rank 8, counted by hand: a block keeps 6,392 values of a token, 4 x 1,536 + 3 x 576 pass in backward,
    3 x (1,536 + 576) in a forward pass and 6 x 576 + 1.5 x 384 in its attention; the fullest step is 1.25 mean ones."""
    model = published_model("HuggingFaceTB/SmolLM2-135M")
    assert model is not None
    a_token = 4 * (30 * 6_392 + 7_872)

    def logits(tokens):
        return 3 * 4 * min(2**24, tokens * 49_152)

    def asked(tokens, devices, evaluated=0.0, longest=0, values=0, width=4, **more):
        return 2**20 * working_mb(
            model.shape,
            rank=8,
            width_bytes=width,
            device_tokens=tokens,
            devices=devices,
            evaluated_tokens=evaluated,
            longest=longest,
            device_values=values,
            **more,
        )

    assert asked(100, 2) == 250 * a_token + logits(250)
    assert asked(100, 10) == 640 * a_token + logits(640)  # no more together than `part_tokens`
    assert asked(400, 10) == 500 * a_token + logits(500)  # and whole devices
    assert asked(900, 1) == 1125 * a_token + logits(1125)  # but one device whole
    assert asked(1, 1, 1e9) == 2_560 * 4 * 6_336
    assert asked(1, 1, 1e9, evaluated_scored=700.0) == 2_560 * 4 * 6_336 + 3 * 4 * 700 * 49_152
    router = 25 * a_token + logits(25) + 64 * 192 * 4 * 4_032  # on what training has left
    assert asked(10, 2, longest=192) == router
    whole = 64 * 192 * 4 * (6_336 + 1_536)  # with the down projection's input, gathered
    assert asked(10, 2, longest=192, router_blocks=True) == router + whole - 64 * 192 * 4 * 4_032
    assert asked(10, 2, longest=192, closing=True) == whole
    few = 64 * 192 * (2 * (6_336 + 1_536) + 4 * 1_536)  # and made float32
    assert asked(10, 2, longest=192, closing=True, width=2) == few + 80_000_000
    # Two devices of 1,100 tokens are stepped together, 2 x 2 adapters of 1,244,160 values, 4 million values at once.
    stepping = 12 * 4 * 1_244_160 + 6 * 4 * 2**22
    assert asked(1100, 5, values=2 * 1_244_160) == 1375 * a_token + stepping + logits(1375)
    assert asked(1100, 1, values=1_244_160) == 1375 * a_token + (12 + 24) * 1_244_160 + logits(1375)
    prepared = asked(100, 2, width=2) - (250 * a_token / 2 + logits(250))
    assert prepared == 80_000_000
    small = read_decoder((embedded_path() / "config.json").read_text())
    assert working_mb(small, rank=8, width_bytes=4, device_tokens=9, devices=9, evaluated_tokens=9) == 0


def test_what_merged_adapters_take_is_told_by_tokens_and_weights():
    """The embedded model: 4 blocks of width 64 and 128; a merged adapter has 163,840 values, 0.625 MB."""
    shape = read_decoder((embedded_path() / "config.json").read_text())

    def asked(devices, rows_asked):
        return merged_mb(
            shape,
            rank=2,
            width_bytes=4,
            device_tokens=64,
            adapters=2,
            devices=devices,
            asked_tokens=rows_asked,
        )

    token = 4 * (4 * (2 * 64 + 3 * 64 + 2 * 64 + 2 * 128 + 7 * 2) + 8 * 128 + 8 * 64 + 2 * 192) / 2**20
    assert asked(1, math.inf) == pytest.approx(
        2048 * token + 0.625
    )  # one adapter answers all of a task's rows
    assert asked(1000, 2048) == pytest.approx(
        2560 * token + 40 * 2 * 0.625
    )  # 40 devices are trained together
    assert asked(1, 10) == pytest.approx(
        64 * token + 2 * 0.625
    )  # one device's step is more than its 20 tokens asked
    assert asked(3, 100) == pytest.approx(6 * 100 * token + 6 * 0.625)
    assert asked(3, 10) == pytest.approx(192 * token + 6 * 0.625)
    large = published_model("Qwen/Qwen2.5-1.5B").shape
    given = {"rank": 2, "device_tokens": 64, "adapters": 2, "devices": 9, "asked_tokens": 9}
    assert merged_mb(large, width_bytes=4, **given) == 0
    assert merged_mb(shape, width_bytes=2, **given) == 0  # merged in float32 alone
    wide = replace(shape, hidden_size=WIDE)  # merged where it answers, not where it trains
    token = bytes_per_token(wide, 2, 4)
    weights = 4 * dense_values(wide.linear_layers())
    assert 2**20 * merged_mb(wide, width_bytes=4, **given) == pytest.approx(18 * 9 * token + 18 * weights)


def test_what_a_cpu_trains_unmerged():
    """Wide layers, bfloat16, normalised queries, and what is too large to merge; memory is counted of these alone."""
    small = read_decoder((embedded_path() / "config.json").read_text())
    asked = {"rank": 8, "device_tokens": 9, "devices": 9, "evaluated_tokens": 9}
    for shape, width in (
        (small, 2), (replace(small, qk_norm=True), 4), (replace(small, hidden_size=WIDE), 4),
        (published_model("HuggingFaceTB/SmolLM2-135M").shape, 4),
    ):  # fmt: skip
        assert trains_unmerged(shape, width) and working_mb(shape, width_bytes=width, **asked) > 0
    assert not trains_unmerged(replace(small, hidden_size=WIDE - 1))
    # Logits of no more positions than there are tokens, 1.25 x 81 of them here.
    found = working_mb(small, width_bytes=2, **asked) - working_mb(
        replace(small, vocab_size=1), width_bytes=2, **asked
    )
    assert 2**20 * found == pytest.approx(15 * 81 * (small.vocab_size - 1))
    few = working_mb(small, width_bytes=2, scored_share=0.25, **asked)
    # Of a quarter that is scored, the last block computes no more than that behind its attention.
    left = 9 * small.vocab_size + 0.75 * 2 * (2 * small.intermediate_size + small.hidden_size)
    assert 2**20 * (working_mb(small, width_bytes=2, **asked) - few) == pytest.approx(1.25 * 81 * left)


def test_a_hub_id_that_is_not_here_is_planned_by_its_published_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    targets = planned_targets(Path("Qwen/Qwen2.5-1.5B-Instruct"), "all-linear", RowSizes(512, 151_643))
    assert len(targets.layers) == 28 * 7
    assert len(targets.distinct) == 28 * 4
    assert "Qwen/Qwen2.5-1.5B/blob/main/config.json" in targets.notes[0]
    with pytest.raises(InputError, match="larger than the base model's embedding"):
        planned_targets(Path("Qwen/Qwen2.5-1.5B"), "all-linear", RowSizes(8, 151_936))
    with pytest.raises(InputError, match="hub id whose sizes dfl-ray ships"):
        planned_targets(Path("Qwen/no-such-model"), "all-linear")
    assert published_model("qwen/qwen2.5-7b") is published_model("Qwen/Qwen2.5-7B-Instruct")


def test_the_papers_preset_is_told_on_1_4_and_8_gpus():
    run = outline(load_config("paper-qwen2.5-1.5b", []))
    one, four, eight = machine_figures(run)["on_gpus"]
    assert [f["devices_per_gpu"] for f in (one, four, eight)] == [10, 3, 2]
    # The preset has one actor of ten devices, which takes one GPU of however many.
    assert [f["devices_per_actor"] for f in (one, four, eight)] == [None, 3, 2]
    told = [value for _, value in gpu_lines([one, four, eight])]
    assert "devices_per_actor" not in told[0] and told[1].endswith("; needs runtime.devices_per_actor=3")
    for words, needed in ((["3"], [10, None, 2]), (["auto"], [None] * 3), (["3", "0.5"], [5, 2, 1])):
        settings = zip(("runtime.devices_per_actor", "runtime.gpus_per_actor"), words, strict=False)
        changed = load_config("paper-qwen2.5-1.5b", [f"{key}={value}" for key, value in settings])
        figures = gpu_figures(replace(run, config=changed), 1.0, 0.0, 1.0)
        assert [f["devices_per_actor"] for f in figures] == needed
    # 10 devices x 10 steps x 8 rows x 256 tokens x (4 P + adapters), at half of an A100's 312 TFLOP/s.
    adapters = 28 * 32 * ((1536 + 1536) * 2 + (1536 + 256) * 2 + (1536 + 8960) * 3)
    flops = 4 * 1_543_714_304 + 6 * adapters
    assert one["round_s"] == pytest.approx(10 * 10 * 8 * 256 * flops / 156e12)
    assert eight["round_s"] == pytest.approx(one["round_s"] / 5)
    assert one["memory_mb"] > 1_543_714_304 * 2 / 2**20
    # Read, checked and fingerprinted at a second a GB.
    assert (
        one["start_up_s"] > machine_figures(run)["start_up"]["base_model_s"] == pytest.approx(3.087, rel=1e-3)
    )
    assert one["run_s"] > four["run_s"] > eight["run_s"] > eight["start_up_s"] > 0


def test_a_run_without_gpus_is_told_none():
    assert machine_figures(outline(load_config(None, ["rounds=1"])))["on_gpus"] == []
