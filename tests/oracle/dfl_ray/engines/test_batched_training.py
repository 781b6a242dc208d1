"""Training K adapters together against one by one, against PEFT's layers and against torch's optimisers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dfl_ray.config.load import load_config
from dfl_ray.devices.step_size import step_size
from dfl_ray.engines.leaves import Leaves
from dfl_ray.engines.training import LocalWork, backward, train_adapters
from dfl_ray.lora.inject import Binding
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize, clip_, step_

SIZE = StepSize(5e-3, 0.01, 1.0)
RANK = 4


def draw_work(tasks, adapters, steps, counts, seed=0):
    rng = np.random.default_rng(seed)
    table = [t.train for t in tasks]
    return [
        LocalWork(
            [
                [(table[k % 2], int(i)) for i in rng.integers(0, 100, counts[(k + step) % len(counts)])]
                for step in range(steps)
            ]
        )
        for k in range(adapters)
    ]


@pytest.mark.parametrize("trains", [("b",), ("a", "b")])
@pytest.mark.parametrize("counts", [(4,), (1, 5, 3), (0, 4, 2)], ids=["even", "ragged", "some-empty"])
def test_together_equals_one_by_one(adapted, token_tasks, trains, counts):
    layout = Layout(adapted.layers, RANK, trains)
    adapters, steps = 5, 3
    start = adapted.theta(layout, adapters)
    a = None if "a" in trains else adapted.static_a(adapters, RANK)
    work = draw_work(token_tasks, adapters, steps, counts)
    together = AdapterState.from_theta(start.clone())
    result = train_adapters(adapted.model, layout, together, work, size=SIZE, scale=2.0, static_a=a)
    for k in range(adapters):
        alone = AdapterState.from_theta(start[k : k + 1].clone())
        mine = None if a is None else [x[k : k + 1] for x in a]
        own = train_adapters(
            adapted.model, layout, alone, work[k : k + 1], size=SIZE, scale=2.0, static_a=mine
        )
        assert not torch.equal(alone.theta, start[k : k + 1])
        torch.testing.assert_close(together.theta[k : k + 1], alone.theta, rtol=1e-3, atol=1e-4)
        assert together.steps[k] == alone.steps[0]
        np.testing.assert_allclose(result.loss[k], own.loss[0], rtol=1e-5)
        assert result.tokens[k] == own.tokens[0]


@pytest.mark.parametrize("masked", [False, True])
def test_masked_entries_never_move(adapted, token_tasks, masked):
    layout = Layout(adapted.layers, RANK, ("b",))
    start = adapted.theta(layout, 2)
    keep = torch.from_numpy(np.random.default_rng(3).random((2, layout.size)) < 0.5) if masked else None
    state = AdapterState.from_theta(start.clone())
    work = draw_work(token_tasks, 2, 2, (4,))
    train_adapters(
        adapted.model, layout, state, work, size=StepSize(5e-3, 0.0, 1.0), scale=2.0,
        static_a=adapted.static_a(2, RANK), keep=keep,
    )  # fmt: skip
    moved = state.theta != start
    if keep is None:
        assert moved.float().mean() > 0.9
    else:
        assert not moved[~keep].any()
        assert moved[keep].float().mean() > 0.9


def test_loss_and_gradients_equal_peft(adapted, base, token_tasks):
    """Three adapters in one batch against three forward and backward passes through PEFT's own LoRA layers."""
    peft = pytest.importorskip("peft")
    from dfl_ray.engines.leaves import Leaves
    from dfl_ray.engines.training import backward
    from dfl_ray.models.build import build_transformer

    layout = Layout(adapted.layers, RANK, ("a", "b"))
    start = adapted.theta(layout, 3)
    state = AdapterState.from_theta(start.clone())
    leaves = Leaves(layout, state, None)
    rows = [w.steps[0] for w in draw_work(token_tasks, 3, 1, (4,))]
    loss = backward(adapted.model, leaves, rows, 2.0)
    lora = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    for k in range(3):
        model = peft.get_peft_model(build_transformer(base), lora)
        targets = {s.name: i for i, s in enumerate(adapted.layers)}
        named = {n.replace("base_model.model.", "").rsplit(".lora_", 1)[0]: m for n, m in _lora_layers(model)}
        assert set(named) == set(targets)
        for name, index in targets.items():
            named[name].lora_A["default"].weight.data.copy_(layout.views(start, "a")[index][k])
            named[name].lora_B["default"].weight.data.copy_(layout.views(start, "b")[index][k])
        total, count = torch.zeros(()), 0
        for table, i in rows[k]:
            ids = torch.tensor(table.row(i), dtype=torch.long)
            logits = model(input_ids=ids[None]).logits[0]
            at = torch.arange(int(table.answer_start[i]) - 1, len(ids) - 1)
            total = total + torch.nn.functional.cross_entropy(logits[at], ids[at + 1], reduction="sum")
            count += len(at)
        (total / count).backward()
        torch.testing.assert_close(loss[k], (total / count).detach(), rtol=1e-5, atol=1e-5)
        for name, index in targets.items():
            for factor, weights in (("a", named[name].lora_A), ("b", named[name].lora_B)):
                mine = layout.views(leaves.gradient, factor)[index][k]
                torch.testing.assert_close(mine, weights["default"].weight.grad, rtol=1e-4, atol=1e-5)


def _lora_layers(model):
    from peft.tuners.lora import LoraLayer

    return [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]


@pytest.mark.parametrize(("name", "theirs"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_optimiser_and_clipping_equal_torch(name, theirs):
    rng, size = np.random.default_rng(0), replace(SIZE, optimizer=name)
    start = torch.from_numpy(rng.normal(size=(3, 40)).astype(np.float32))
    gradients = [torch.from_numpy(rng.normal(0, s, (3, 40)).astype(np.float32)) for s in (0.01, 3.0, 1.0)]
    state = AdapterState.from_theta(start.clone())
    for g in gradients:
        clipped = g.clone()
        clip_(clipped, size.clip_norm)
        step_(state, clipped, size, torch.tensor([True, True, False]))
    for k in range(2):
        p = torch.nn.Parameter(start[k].clone())
        optimizer = theirs([p], lr=size.learning_rate, weight_decay=size.weight_decay)
        for g in gradients:
            p.grad = g[k].clone()
            torch.nn.utils.clip_grad_norm_([p], size.clip_norm)
            optimizer.step()
        torch.testing.assert_close(state.theta[k], p.detach(), rtol=1e-6, atol=1e-7)
    assert torch.equal(state.theta[2], start[2])
    assert state.steps.tolist() == [3, 3, 0]
    assert bool(state.exp_avg.any()) == bool(state.exp_avg_sq.any()) == (name == "adamw")


def test_a_gradient_step_moves_only_what_may_change():
    theta = torch.ones(3, 4)
    state = AdapterState.from_theta(theta.clone())
    keep = torch.tensor([[True, False, True, False]]).expand(3, -1)
    sgd = replace(SIZE, optimizer="sgd", weight_decay=0.5, learning_rate=0.1)
    step_(state, torch.full((3, 4), 2.0), sgd, torch.tensor([True, False, True]), keep)
    moved = torch.tensor([0.75, 1.0, 0.75, 1.0])
    torch.testing.assert_close(state.theta, torch.stack([moved, theta[0], moved]))


def test_the_configured_optimiser_makes_the_local_steps(adapted, token_tasks):
    """One step of SGD without clipping is the gradient that the engine gives; the default's is not."""
    layout = Layout(adapted.layers, RANK, ("a", "b"))
    start = adapted.theta(layout, 2)
    work = draw_work(token_tasks, 2, 1, (3, 2))
    leaves = Leaves(layout, AdapterState.from_theta(start.clone()), None)
    backward(adapted.model, leaves, [w.steps[0] for w in work], 2.0)
    for name in ("sgd", "adamw"):
        config = load_config(
            None, [f"method.optimizer={name}", "method.learning_rate=0.1", "method.clip_norm=1e6"]
        )
        state = AdapterState.from_theta(start.clone())
        train_adapters(adapted.model, layout, state, work, size=step_size(config.method, 1), scale=2.0)
        same = torch.allclose(state.theta, start - 0.1 * leaves.gradient, rtol=1e-4, atol=1e-6)
        assert same == (name == "sgd")


def test_non_finite_adapter_stops_alone(adapted, token_tasks):
    layout = Layout(adapted.layers, RANK, ("b",))
    start = adapted.theta(layout, 2)
    start[1, 0] = float("nan")
    state = AdapterState.from_theta(start.clone())
    result = train_adapters(
        adapted.model, layout, state, draw_work(token_tasks, 2, 2, (3,)), size=SIZE, scale=2.0,
        static_a=adapted.static_a(2, RANK),
    )  # fmt: skip
    assert result.finite.tolist() == [True, False]
    assert np.isfinite(result.loss[0])
    assert torch.isfinite(state.theta[0]).all()


def test_rows_of_one_batch_get_their_own_adapter(adapted, token_tasks):
    """A row's logits under a binding with adapters equal those of the adapter merged into the weights."""
    from dfl_ray.engines.batches import collate

    layout = Layout(adapted.layers, RANK, ("b",))
    theta, a = adapted.theta(layout, 2), adapted.static_a(2, RANK)
    b = layout.views(theta, "b")
    batch = collate([(token_tasks[0].train, i) for i in range(4)])
    adapters = torch.tensor([1, 0, 1, 1])
    with torch.no_grad():
        mixed = adapted.model.logits(batch, Binding(a, b, adapters, 2.0))
        for row in range(4):
            one = collate([(token_tasks[0].train, row)])
            k = int(adapters[row])
            own = Binding([x[k : k + 1] for x in a], [x[k : k + 1] for x in b], None, 2.0)
            expected = adapted.model.logits(one, own)
            torch.testing.assert_close(mixed[batch.source[:, 0] == row], expected, rtol=1e-4, atol=1e-4)
