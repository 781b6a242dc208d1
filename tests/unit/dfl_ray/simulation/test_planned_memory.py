"""The peak memory that a plan tells, against what a run in one process takes, inside and outside the Llama family."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.engines.foreign_memory import foreign_mb, foreign_sizes
from dfl_ray.models.paths import embedded_path
from dfl_ray.packing.needs import Asks
from dfl_ray.packing.workers import TRANSFORMERS_MB
from dfl_ray.simulation.asked_rows import AskedRows, predicted
from dfl_ray.simulation.dry_run import outline
from dfl_ray.simulation.estimate import plan
from dfl_ray.simulation.memory_estimate import DRIVER_MB, TORCH_MB, outline_needs

WORDS = (
    "runtime.backend=local", "track=none", "runtime.report=false", "devices.count=4", "rounds=2", "method=dlora",
    "method.local_steps=2", "method.batch_rows=4", "method.rank=2", "evaluate.rows_per_task=8", "devices.min_holders=1",
)  # fmt: skip
NEOX = {
    "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 512, "intermediate_size": 2048,
    "num_hidden_layers": 6, "num_attention_heads": 8, "max_position_embeddings": 512, "vocab_size": 16_000,
    "hidden_act": "gelu", "tie_word_embeddings": False, "use_parallel_residual": True,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1365,
    "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 512,
    "vocab_size": 16_000, "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip

OPT = {
    "model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": 512, "ffn_dim": 2048,
    "num_hidden_layers": 6, "num_attention_heads": 8, "max_position_embeddings": 512, "vocab_size": 16_000,
    "word_embed_proj_dim": 512, "activation_function": "relu",
}  # fmt: skip
GEMMA = {
    "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 512, "intermediate_size": 2048,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "max_position_embeddings": 512, "vocab_size": 16_000, "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip


def described(folder: Path, settings: dict) -> list[str]:
    """The words of a run of a model without weights, with the embedded model's tokenizer."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_path() / name, folder / name)
    (folder / "config.json").write_text(json.dumps(settings))
    return [*WORDS, f"model.name={folder}"]


def test_work_in_one_process_is_that_of_all_devices(tmp_path):
    narrow = LLAMA | {
        "hidden_size": 96,
        "intermediate_size": 5000,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    for name, settings, more in (
        ("llama", LLAMA, 0.0), ("narrow", narrow, 0.0), ("neox", NEOX, TRANSFORMERS_MB),
    ):  # fmt: skip
        config = load_config(None, described(tmp_path / name, settings))
        needs, memory = outline_needs(outline(config)), plan(config)["memory"]
        work = needs.working_mb + needs.merged_mb(4)
        assert work > 50
        # Unmerged, an actor is counted by all devices of the run, as many as one part of a step holds.
        assert (needs.merged_mb(4) > needs.merged_mb(1)) == (name != "llama")
        left = memory["peak_mb"] - DRIVER_MB - TORCH_MB - memory["base_mb"] - work - more
        assert 0 < left < 4 * memory["device_state_mb"] + 200


def test_what_the_rules_ask_is_counted(tmp_path):
    """Sketches of all layers for `filter` alone, dense updates for `ties`, and how deep the router looks."""
    words = [*described(tmp_path / "wide", LLAMA), "method=sparse_orthogonal"]

    def needs(*more):
        return outline_needs(outline(load_config(None, [*words, *more])))

    one, filtered, ties, deep = (
        needs(*more)
        for more in (
            ["evaluate.rules=[oracle]"], ["evaluate.rules=[filter]"], ["evaluate.rules=[ties]"],
            ["evaluate.rules=[oracle]", "method.sketch_layers=4"],
        )
    )  # fmt: skip
    assert one.asks == Asks(apart=True)
    assert filtered.asks == Asks(closing=True) and deep.asks == Asks(apart=True, router_blocks=True)
    dense = 6 * (4 * 512**2 + 3 * 512 * 1365)
    assert ties.asks.dense_mb == pytest.approx((ties.tasks * 18 + 17) * dense / 2**20)
    assert one.working_mb < deep.working_mb and ties.working_mb == ties.asks.dense_mb
    whole = 64 * filtered.longest * 4 * (3 * 512 + 4 * 1365)
    assert filtered.working_mb == pytest.approx(max(one.working_mb, whole / 2**20))


def test_logits_of_an_evaluation_are_counted():
    """Two tasks: 8 rows of 80 tokens, 13 of them predicted, and 8 of 100 with 50; then not known how many."""
    asked = [AskedRows(8, 80.0, scored=13.0), AskedRows(8, 100.0, scored=50.0)]
    assert predicted(asked) == (8 * 63, 0.5)
    assert predicted([AskedRows(None, 80.0, scored=20.0)]) == (math.inf, 0.25)
    assert predicted([*asked, AskedRows(8, 80.0)]) is predicted([]) is None


def test_a_step_by_transformers_is_counted_by_hand():
    """Two blocks of widths 8 and 32: (8 + 2) x 8 + 2 x 32 values a block and token, 16 x 40 in passing."""
    raw = {"n_layer": 2, "n_embd": 8, "vocab_size": 100, "activation_function": "gelu"}
    sizes = foreign_sizes(json.dumps(raw))
    assert sizes is not None and (sizes.inner, sizes.kept, sizes.passing) == (32, 144, 640)

    def asked(devices, evaluated=0.0):
        return 2**20 * foreign_mb(
            sizes, rank=1, width_bytes=4, rows=4, row=10, longest=13, scored=3, devices=devices,
            evaluated_tokens=evaluated,
        )  # fmt: skip

    token = 4 * (2 * (144 + 7) + 640)
    assert asked(2) == pytest.approx(8 * (16 * token + 4 * 4 * 3 * 100))
    assert asked(1000) == pytest.approx(64 * 4 * (16 * token + 4 * 4 * 3 * 100))  # 2,560 tokens at once
    assert asked(1, 1e9) == pytest.approx(2560 * 4 * 640)
    wide = foreign_sizes(json.dumps(raw | {"model_type": "gemma2", "n_head": 2, "head_dim": 8}))
    assert wide is not None and (wide.kept, wide.scores) == (6 * 8 + 4 * 16 + 4 * 32, 2 * 2)
    experts = foreign_sizes(json.dumps(raw | {"activation_function": "silu", "num_experts_per_tok": 2}))
    gated = foreign_sizes(json.dumps(raw | {"activation_function": "silu"}))
    steps = foreign_sizes(json.dumps(raw | {"activation_function": "gelu_new"}))
    assert experts is not None and (experts.kept, experts.inner) == (80 + 3 * 64, 64)
    assert gated is not None and gated.kept == 80 + 4 * 32
    assert steps is not None and steps.kept == 144 + 3 * 32
    assert foreign_sizes(None) is None and foreign_mb(
        None, rank=1, width_bytes=4, rows=4, row=9, longest=9, scored=1, devices=1, evaluated_tokens=1
    ) == 0  # fmt: skip


MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "dfl_ray", "run", "-q", *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


@pytest.mark.exhaustive  # a measurement
@pytest.mark.parametrize("settings", [LLAMA, NEOX, OPT, GEMMA], ids=["llama", "gpt_neox", "opt", "gemma3"])
def test_a_run_takes_what_is_planned(settings, tmp_path):
    import transformers

    words = [*described(tmp_path / "model", settings), f"runtime.runs_dir={tmp_path}"]
    kind = transformers.AutoConfig.for_model(**settings)
    transformers.AutoModelForCausalLM.from_config(kind).save_pretrained(tmp_path / "model")
    planned = plan(load_config(None, words))["memory"]["peak_mb"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    measured = float(done.stdout.splitlines()[-1])
    print(f"planned {planned:.0f}, measured {measured:.0f} MiB")
    assert planned == pytest.approx(measured, rel=0.15)
