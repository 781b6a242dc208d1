"""The merged CPU path against the modules with unmerged adapters: logits and gradients, in every layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dfl_ray.engines.batches import Batch, collate
from dfl_ray.engines.cpu.make import fits, merged_decoder
from dfl_ray.engines.training import ScoredModel
from dfl_ray.evaluation.packed_prompts import collate_prompts, pack_prompt
from dfl_ray.lora.inject import Binding, find_targets, inject
from dfl_ray.models.decoder import DecoderShape, Llama3Scaling
from dfl_ray.models.llama import CausalDecoder
from dfl_ray.tasks.tokens import TokenRows
from tests import plain_decoder

RANK = 3
PLAIN = plain_decoder.PLAIN | {"layers": 3, "qkv_bias": False}
SHAPES = {
    "grouped": {},
    "all-heads": {"kv_heads": 4},
    "biases": {"qkv_bias": True, "o_bias": True, "mlp_bias": True, "tied": False},
    "wide-heads": {"head_dim": 18, "heads": 2, "kv_heads": 1},
    "heads-for-products": {"head_dim": 34, "heads": 1, "kv_heads": 1, "layers": 2},
    "llama3": {"scaling": Llama3Scaling(4.0, 1.0, 4.0, 8)},
    "one-block": {"layers": 1},
}
TARGETS = {"all": "all-linear", "some": ("q_proj", "v_proj", "down_proj"), "none-above": ("gate_proj",)}


def make(shape, targets="all-linear", seed=0):
    """A random adapted decoder twice: with the merged path and without it."""
    torch.set_num_threads(1)
    model = CausalDecoder(DecoderShape(**PLAIN | shape)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.25
        parameter.copy_(1 + drawn if parameter.dim() == 1 else drawn)
    layers = find_targets(model, targets)
    cell = inject(model, layers)
    merged, plain = ScoredModel(model, cell), ScoredModel(model, cell)
    assert merged._merged is not None
    plain._merged = None
    return merged, plain, layers


def factors(layers, adapters, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (torch.randn(*shape, generator=generator) * 0.3).requires_grad_()

    return [draw(adapters, RANK, s.in_features) for s in layers], [
        draw(adapters, s.out_features, RANK) for s in layers
    ]


def table(lengths, seed=2):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    starts = np.array([rng.integers(1, n) for n in lengths], np.int32)
    return TokenRows(rng.integers(0, 40, offsets[-1]).astype(np.int32), offsets, starts)


LENGTHS = [5, 19, 9, 18, 7, 7, 30, 2, 17, 3, 19, 12]


def training_batch():
    rows = table(LENGTHS)
    return collate([(rows, i) for i in range(len(rows))])


def packed_batch():
    rng = np.random.default_rng(3)

    def draw(n):
        return rng.integers(0, 40, n)

    packs = [pack_prompt(draw(n), [draw(k) for k in (1, 2, 4)], 0) for n in (6, 11, 7, 3, 9, 4)]
    packs += [pack_prompt(draw(n), [draw(2)], 0) for n in (5, 12, 4, 8, 2, 10)]
    return collate_prompts(packs)


BATCHES = {"training": training_batch, "packed": packed_batch}
LAYOUTS = {"even": None, "mixed": [1, 0, 2, 2, 1, 0, 1, 1, 2, 0, 2, 2], "one-empty": [2, 0, 2, 2, 0, 0] * 2}


def compare(models, batch, binding, leaves):
    found = []
    for model in models:
        logits = model.logits(batch, binding)
        loss = F.cross_entropy(logits, batch.targets)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
        found.append((logits.detach(), gradients))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=5e-5)
    for mine, expected in zip(found[0][1], found[1][1], strict=True):
        assert expected is not None and expected.abs().max() > 0
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=5e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_gradients(shape, kind, layout):
    merged, plain, layers = make(SHAPES[shape])
    a, b = factors(layers, 3)
    adapters = None if LAYOUTS[layout] is None else torch.tensor(LAYOUTS[layout])
    compare((merged, plain), BATCHES[kind](), Binding(a, b, adapters, 1.5), [*a, *b])


@pytest.mark.parametrize("targets", TARGETS)
def test_some_layers_adapted(targets):
    merged, plain, layers = make({}, TARGETS[targets])
    a, b = factors(layers, 2)
    compare((merged, plain), training_batch(), Binding(a, b, None, 0.5), [*a, *b])


def test_only_b_trained():
    merged, plain, layers = make({})
    a, b = factors(layers, 4)
    static = [x.detach() for x in a]
    compare((merged, plain), training_batch(), Binding(static, b, None, 1.0), b)


@pytest.mark.parametrize("kind", BATCHES)
def test_bare_base(kind):
    merged, plain, _ = make({})
    with torch.no_grad():
        compare((merged, plain), BATCHES[kind](), None, [])
        compare((merged, plain), BATCHES[kind](), Binding((), (), None, 1.0), [])


def test_rows_without_stated_lengths_count_whole():
    merged, plain, layers = make({})
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 40, (6, 10), generator=generator)
    source = torch.stack([torch.tensor([5, 0, 3, 3]), torch.tensor([9, 0, 4, 4])], dim=1)
    a, b = factors(layers, 3)
    batch = Batch(ids, source, torch.tensor([1, 2, 3, 3]), 60)
    compare((merged, plain), batch, Binding(a, b, None, 1.0), [*a, *b])


def test_a_broken_slot_breaks_no_other():
    merged, _, layers = make({})
    a, b = factors(layers, 3)
    broken = [x.detach().clone() for x in b]
    broken[0][1] = torch.nan
    batch = training_batch()
    adapters = torch.tensor(LAYOUTS["mixed"])
    with torch.no_grad():
        whole = merged.logits(batch, Binding(a, b, adapters, 1.0))
        partly = merged.logits(batch, Binding(a, broken, adapters, 1.0))
    hit = adapters[batch.source[:, 0]] == 1
    assert torch.isnan(partly[hit]).all()
    torch.testing.assert_close(partly[~hit], whole[~hit])


def test_grouping_changes_nothing():
    """One adapter's rows alone and among others: the same up to the order of sums."""
    merged, _, layers = make({})
    a, b = factors(layers, 3)
    rows = table(LENGTHS)
    adapters = torch.tensor(LAYOUTS["mixed"])
    with torch.no_grad():
        together = merged.logits(training_batch(), Binding(a, b, adapters, 1.0))
        source = training_batch().source
        for adapter in range(3):
            mine = [i for i in range(12) if adapters[i] == adapter]
            alone = merged.logits(
                collate([(rows, i) for i in mine]),
                Binding(
                    [x[adapter : adapter + 1] for x in a], [x[adapter : adapter + 1] for x in b], None, 1.0
                ),
            )
            expected = together[torch.isin(source[:, 0], torch.tensor(mine))]
            torch.testing.assert_close(alone, expected, rtol=1e-4, atol=5e-5)


def test_who_takes_the_merged_path():
    model = CausalDecoder(DecoderShape(**PLAIN))
    inject(model, find_targets(model, "all-linear"))
    decoder = merged_decoder(model)
    assert decoder is not None
    values = 3 * (16 * 16 * 2 + 2 * 8 * 16 + 3 * 16 * 28)
    assert decoder.merged_values == values
    assert fits(decoder, 2**26 // values)
    assert not fits(decoder, 2**26 // values + 1)
    assert merged_decoder(CausalDecoder(DecoderShape(**PLAIN | {"qk_norm": True}))) is None
    assert merged_decoder(CausalDecoder(DecoderShape(**PLAIN)).bfloat16()) is None
    headed = CausalDecoder(DecoderShape(**PLAIN | {"tied": False}))
    inject(headed, find_targets(headed, "all-linear")[:1])
    assert merged_decoder(headed) is not None


def test_collate_equals_the_plain_loop():
    rows = table(LENGTHS)
    batch = training_batch()
    pairs = []
    for i in range(len(rows)):
        ids = rows.row(i)
        assert batch.input_ids[i, : len(ids) - 1].tolist() == ids[:-1].tolist()
        assert not batch.input_ids[i, len(ids) - 1 :].any()
        pairs += [(i, p, int(ids[p + 1])) for p in range(int(rows.answer_start[i]) - 1, len(ids) - 1)]
    assert [(*s, t) for s, t in zip(batch.source.tolist(), batch.targets.tolist(), strict=True)] == pairs
    assert batch.tokens == sum(LENGTHS) - len(LENGTHS)
    assert batch.lengths.tolist() == [n - 1 for n in LENGTHS]
