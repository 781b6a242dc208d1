"""The large path (`dfl_ray.engines.gpu`) against plain autograd in float64 and against PEFT, on the CPU and on CUDA.

It is the path every CUDA run trains through; here the very same code also runs on the CPU.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dfl_ray.engines.batches import collate
from dfl_ray.engines.gpu.head import piece_rows
from dfl_ray.engines.gpu.kernels import Kernels, make_kernels
from dfl_ray.engines.gpu.make import devices_that_fit
from dfl_ray.engines.gpu.step import parts
from dfl_ray.engines.training import LocalWork, ScoredModel, train_adapters
from dfl_ray.lora.inject import Binding, find_targets, inject
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize
from dfl_ray.models.decoder import DecoderShape
from tests.plain_decoder import (
    F64,
    ON,
    RANK,
    SCALE,
    SHAPES,
    agree,
    decoder,
    draw,
    expected,
    large,
    rows_of,
    table,
    taken,
)

EVEN, RAGGED = [9] * 6, [5, 19, 9, 18, 2, 30]
BATCHES = {
    "even": (EVEN, [2, 2, 2]),
    "uneven-adapters": (EVEN, [1, 3, 2]),
    "ragged": (RAGGED, [2, 2, 2]),
    "ragged-one-empty": (RAGGED, [2, 0, 4]),
    "one-device": (RAGGED, [6]),
}


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_plain_autograd(shape, batch, device):
    scored, layers, sizes, weights = large(SHAPES[shape], F64, device, compile="off")
    rows = rows_of(*BATCHES[batch])
    a, b = draw(layers, len(rows))
    agree(taken(scored, a, b, rows), expected(weights, sizes, layers, a, b, rows), 1e-10, 1e-10)


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("batch", ["even", "ragged-one-empty"])
def test_float32_equals_plain_autograd(batch, device):
    scored, layers, sizes, weights = large({}, torch.float32, device)
    rows = rows_of(*BATCHES[batch])
    a, b = draw(layers, len(rows))
    found = taken(scored, a, b, rows, dtype=torch.float32)
    agree(found, expected(weights, sizes, layers, a, b, rows), 1e-3, 2e-5)


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize(
    "targets", [("q_proj", "v_proj", "down_proj"), ("gate_proj",), ("o_proj", "up_proj")]
)
def test_some_layers_adapted(targets, device):
    scored, layers, sizes, weights = large({"mlp_bias": True}, F64, device, targets, compile="off")
    rows = rows_of(*BATCHES["ragged"])
    a, b = draw(layers, len(rows))
    agree(taken(scored, a, b, rows), expected(weights, sizes, layers, a, b, rows), 1e-10, 1e-10)


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("batch", ["even", "ragged-one-empty"])
def test_only_b_trained(batch, device):
    scored, layers, sizes, weights = large({}, F64, device, compile="off")
    rows = rows_of(*BATCHES[batch])
    a, b = draw(layers, len(rows))
    loss, into_a, into_b = taken(scored, a, b, rows, b_only=True)
    true = expected(weights, sizes, layers, a, b, rows)
    assert all(x.isnan().all() for x in into_a)
    agree((loss, true[1], into_b), true, 1e-10, 1e-10)


@pytest.mark.parametrize("most", [40, 40 * 5, 40 * 11, 40 * 1000])
def test_pieces_of_the_loss_change_nothing(most):
    scored, layers, sizes, weights = large({}, F64)
    scored.large = replace(scored.large, piece_logits=most)
    rows = rows_of(*BATCHES["ragged"])
    a, b = draw(layers, len(rows))
    agree(taken(scored, a, b, rows), expected(weights, sizes, layers, a, b, rows), 1e-10, 1e-10)


@pytest.mark.parametrize("most", [1, 40, 1000])
def test_parts_of_a_step_change_nothing(most):
    """One adapter after the other, two together, all together; one has no rows."""
    scored, layers, sizes, weights = large({}, F64)
    scored.large = replace(scored.large, most_tokens=most)
    rows = rows_of(*BATCHES["ragged-one-empty"])
    a, b = draw(layers, len(rows))
    agree(taken(scored, a, b, rows), expected(weights, sizes, layers, a, b, rows), 1e-10, 1e-10)


@pytest.mark.parametrize("most", [0, 3, 20, 1000])
def test_a_part_holds_whole_adapters_within_its_tokens(most):
    tokens = [24, 0, 6, 0, 31, 5, 5, 30]
    found = parts(tokens, most)
    assert sorted(k for part in found for k in part) == [0, 2, 4, 5, 6, 7]
    slots = [len(part) * max(tokens[k] for k in part) for part in found]
    assert all(n <= most or len(part) == 1 for n, part in zip(slots, found, strict=True))
    fullest = [max(tokens[k] for k in part) for part in found]
    assert all(
        (len(one) + 1) * first > most and min(tokens[k] for k in one) >= second
        for one, first, second in zip(found, fullest, fullest[1:], strict=False)
    )
    assert parts(tokens, None) == [[0, 2, 4, 5, 6, 7]]


def test_pieces_stay_within_their_memory():
    for rows, vocabulary in ((32_768, 151_936), (5, 40), (100, 2**29 + 1), (4097, 2**17)):
        size = piece_rows(rows, vocabulary)
        assert size == 1 or size * vocabulary <= 2**29
    assert piece_rows(32_768, 151_936) % 128 == 0


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("batch", ["even", "ragged"])
def test_bfloat16_within_its_rounding(batch, device):
    """Products in bfloat16 (relative rounding 2^-9) against float64: 5 % of a device's whole gradient.

    The bound is what the roundings of two blocks come to; torch's own autograd through the modules, all in bfloat16,
    is the yardstick: the written-out backward must be no worse.
    """
    scored, layers, sizes, weights = large(
        {"hidden_size": 64, "intermediate_size": 96}, torch.bfloat16, device
    )
    rows = rows_of(*BATCHES[batch])
    a, b = (([0.2 * x for x in f]) for f in draw(layers, len(rows)))
    true = expected(weights, sizes, layers, a, b, rows)
    found = taken(scored, a, b, rows, dtype=torch.float32)
    torch.testing.assert_close(found[0].double(), true[0], rtol=0.01, atol=0.01)
    mine, other = errors(found, true), errors(by_modules(scored, a, b, rows), true)
    assert mine.max() < 0.05
    assert mine.mean() < 1.1 * other.mean()


def errors(found, true):
    """Relative error of each device's gradient of all A and of all B, (2, devices)."""
    out = np.zeros((2, len(true[0])))
    for f in (1, 2):
        for k in range(out.shape[1]):
            mine, wanted = (torch.cat([x[k].double().flatten() for x in g[f]]) for g in (found, true))
            out[f - 1, k] = (mine - wanted).norm() / wanted.norm()
    return out


def by_modules(scored, a, b, rows):
    """Autograd through the modules with everything in the base's precision."""
    counts = [len(r) for r in rows]
    batch = collate([pair for r in rows for pair in r]).to(scored.device)
    leaves = [[x.to(scored.device, torch.bfloat16).requires_grad_() for x in f] for f in (a, b)]
    logits = scored.logits(batch, Binding(*leaves, None, SCALE))
    owner = torch.repeat_interleave(torch.tensor(counts)).to(scored.device)[batch.source[:, 0]]
    losses = F.cross_entropy(logits, batch.targets, reduction="none")
    means = torch.zeros(len(rows), device=scored.device).index_add(0, owner, losses) / torch.bincount(owner)
    means.sum().backward()
    return (means.detach().cpu(), *([x.grad.cpu() for x in f] for f in leaves))


@pytest.mark.parametrize("device", ON)
def test_a_broken_device_breaks_no_other(device):
    scored, layers, *_ = large({}, torch.float32, device)
    rows = rows_of(*BATCHES["ragged"])
    a, b = draw(layers, 3)
    whole = taken(scored, a, b, rows, dtype=torch.float32)
    a[0][0, 0, 0] = torch.nan
    broken = taken(scored, a, b, rows, dtype=torch.float32)
    assert broken[0][0].isnan()
    torch.testing.assert_close(broken[0][1:], whole[0][1:])
    for f in (1, 2):
        for mine, other in zip(broken[f], whole[f], strict=True):
            torch.testing.assert_close(mine[1:], other[1:])


@pytest.mark.parametrize("trains", [("b",), ("a", "b"), ("c",)])
@pytest.mark.parametrize("extra", [False, True], ids=["plain", "frozen-part-and-mask"])
def test_training_equals_the_usual_path(trains, extra):
    """Three AdamW steps with ragged and empty adapters: the large path against the modules.

    What is frozen has the full rank of its layer, as a merged update has; keys have fewer outputs than queries.
    """
    scored, layers, *_ = large({}, torch.float32)
    model, _ = decoder({}, torch.float32)
    usual = ScoredModel(model, inject(model, find_targets(model, "all-linear")))
    assert usual.large is None
    rng = np.random.default_rng(5)
    ups = (
        [rng.normal(size=(RANK, s.out_features)).astype(np.float32) for s in layers]
        if trains == ("c",)
        else ()
    )
    layout = Layout(layers, RANK, trains, ups)
    start = torch.from_numpy(rng.normal(0, 0.2, (3, layout.size)).astype(np.float32))
    a = [x.float() for x in draw(layers, 3)[0]]
    tokens = table([5, 19, 9, 18, 2, 30, 4, 11])
    work = [
        LocalWork([[(tokens, int(i)) for i in rng.integers(0, 8, n)] for n in steps])
        for steps in ((3, 1, 0), (2, 2, 4), (3, 0, 1))
    ]
    keep = torch.from_numpy(rng.random((3, layout.size)) < 0.5) if extra else None
    ranks = [min(s.out_features, s.in_features) for s in layers]
    assert len(set(ranks)) > 1
    frozen = (
        [
            tuple(
                torch.from_numpy(rng.normal(0, 0.2, (3, *size)).astype(np.float32))
                for size in ((r, s.in_features), (s.out_features, r))
            )
            for r, s in zip(ranks, layers, strict=True)
        ]
        if extra
        else None
    )
    found = []
    for one in (scored, usual):
        state = AdapterState.from_theta(start.clone())
        result = train_adapters(
            one, layout, state, work, size=StepSize(5e-3, 0.01, 1.0), scale=SCALE,
            static_a=None if "a" in trains else a, frozen=frozen, keep=keep,
        )  # fmt: skip
        found.append((state, result))
    (mine, got), (other, wanted) = found
    assert not torch.equal(mine.theta, start)
    torch.testing.assert_close(mine.theta, other.theta, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(got.loss, wanted.loss, rtol=1e-5)
    np.testing.assert_allclose(got.gradient_norm, wanted.gradient_norm, rtol=1e-4)
    assert got.tokens.tolist() == wanted.tokens.tolist()


@pytest.mark.parametrize("trains", [("b",), ("a", "b")])
def test_a_bfloat16_base_trains_alike_by_either_path(trains):
    """Master copies in float32 over a base in bfloat16, on the CPU's usual path too."""
    found = []
    for chosen in ("on", "off"):
        model, _ = decoder({}, torch.bfloat16)
        layers = tuple(find_targets(model, "all-linear"))
        scored = ScoredModel(model, inject(model, layers), large=chosen)
        layout = Layout(layers, RANK, trains)
        state = AdapterState.from_theta(torch.full((2, layout.size), 0.01))
        a = [x.float() * 0.3 for x in draw(layers, 2)[0]]
        work = [LocalWork([r]) for r in rows_of([9, 12, 7, 11], [2, 2])]
        size = StepSize(1e-3, 0.0, 1.0)
        static = a if trains == ("b",) else None
        result = train_adapters(scored, layout, state, work, size=size, scale=SCALE, static_a=static)
        assert state.theta.dtype == torch.float32 and result.finite.all()
        found.append(result)
    np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=0.01)
    np.testing.assert_allclose(found[0].gradient_norm, found[1].gradient_norm, rtol=0.05)


def test_as_many_devices_as_the_memory_holds():
    """16 devices of the stated step fit on 130 GiB, none is refused where memory is short, and there is an end."""
    scored, *_ = large({}, torch.bfloat16)
    shape = DecoderShape(
        vocab_size=151_936, hidden_size=1536, intermediate_size=8960, layers=28, heads=12, kv_heads=2, head_dim=128,
        eps=1e-6, tied=True, qkv_bias=True, o_bias=False, mlp_bias=False, qk_norm=False, rope_theta=1e6, scaling=None,
    )  # fmt: skip
    base = replace(scored.large, shape=shape)
    step = {"tokens": 2048, "adapters": 1, "size": 36_929_536, "rank": 32}
    counts = [devices_that_fit(base, gib * 2**30, **step) for gib in (0, 8, 16, 40, 80, 130, 4000)]
    assert counts[0] == 1 and counts == sorted(counts)
    assert counts[-2] >= 16 and counts[-1] == 32
    twice = devices_that_fit(base, 80 * 2**30, **(step | {"tokens": 4096}))
    assert twice < counts[4]


def test_the_cpu_keeps_its_own_path():
    model, _ = decoder({}, torch.float32)
    assert ScoredModel(model, inject(model, find_targets(model, "all-linear"))).large is None


def test_the_cpu_takes_the_large_path_where_no_adapter_can_be_merged(monkeypatch):
    model, _ = decoder({}, torch.float32)
    values = sum(s.out_features * s.in_features for s in model.shape.linear_layers())
    monkeypatch.setattr("dfl_ray.engines.memory.MERGED_BYTES", 4 * values - 1)
    assert ScoredModel(model, inject(model, find_targets(model, "all-linear"))).large is not None


def test_joined_weights_are_held_once():
    scored, *_ = large({}, torch.float32)
    block, layer = scored.large.blocks[0], scored.model.model.layers[0]
    for joined, modules in (
        (block.qkv, (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)),
        (block.gate_up, (layer.mlp.gate_proj, layer.mlp.up_proj)),
    ):
        held = joined.weights[0] if len(joined.weights) == 1 else None
        for number, (part, module) in enumerate(zip(joined.parts, modules, strict=True)):
            own = joined.weights[number] if held is None else held[part.start : part.stop]
            assert module.base.weight.data_ptr() == own.data_ptr()


def test_a_kernel_that_does_not_compile_is_said_and_runs_as_written(monkeypatch):
    """Where there is no compiler the step goes on without it."""

    def refuse(function):
        def fail(*_):
            raise RuntimeError("no C compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", refuse)
    kernels = make_kernels(torch.device("cuda"))
    x = torch.randn(5, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match=r"`gated` runs without torch.compile .*no C compiler here"):
        first = kernels.gated((x,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = kernels.gated((x,))
    assert torch.equal(first, Kernels().gated((x,))) and torch.equal(again, first)


@pytest.mark.parametrize("device", ON)
def test_equals_peft(device):
    """Against PEFT's layers inside `transformers`' own Qwen2, device after device."""
    peft = pytest.importorskip("peft")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    scored, layers, sizes, weights = large({}, torch.float32, device)
    rows = rows_of(*BATCHES["ragged"])
    a, b = draw(layers, 3)
    found = taken(scored, a, b, rows, dtype=torch.float32)
    config = Qwen2Config(
        vocab_size=40, hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
    )  # fmt: skip
    lora = peft.LoraConfig(
        r=RANK, lora_alpha=SCALE * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    for k in range(3):
        base = Qwen2ForCausalLM(config)
        base.load_state_dict({n: w.float() for n, w in weights.items()}, strict=False)
        model = peft.get_peft_model(base, lora).to(device)
        own = {n.split("base_model.model.")[-1]: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
        for i, s in enumerate(layers):
            own[s.name].lora_A["default"].weight.data.copy_(a[i][k])
            own[s.name].lora_B["default"].weight.data.copy_(b[i][k])
        total, count = 0.0, 0
        for t, i in rows[k]:
            ids = torch.from_numpy(t.row(i).astype(np.int64)).to(device)
            first = int(t.answer_start[i])
            logits = model(input_ids=ids[None, :-1]).logits[0, first - 1 :]
            total = total + F.cross_entropy(logits, ids[first:], reduction="sum")
            count += len(ids) - first
        (total / count).backward()
        torch.testing.assert_close(found[0][k], (total / count).detach().cpu(), rtol=1e-4, atol=1e-5)
        for i, s in enumerate(layers):
            for mine, factor in ((found[1], own[s.name].lora_A), (found[2], own[s.name].lora_B)):
                torch.testing.assert_close(
                    mine[i][k], factor["default"].weight.grad.cpu(), rtol=1e-3, atol=2e-5
                )
