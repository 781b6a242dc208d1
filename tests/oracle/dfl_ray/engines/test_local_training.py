"""Local training: frozen entries stay, merged bases count, each sample drives its own task's expert only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.engines.leaves import Leaves
from dfl_ray.engines.training import LocalWork, ScoredModel, backward, train_adapters
from dfl_ray.lora.inject import find_targets, inject
from dfl_ray.lora.layout import Layout
from dfl_ray.lora.optimizer import AdapterState, StepSize, adamw_
from dfl_ray.models.build import build_model
from dfl_ray.simulation.backend import LocalBackend
from dfl_ray.simulation.experiment import build_experiment
from tests.conftest import small_config

SIZE = StepSize(1e-2, 0.1, 1.0)


def test_entries_outside_keep_do_not_move_even_with_moments_and_decay():
    rng = np.random.default_rng(0)
    state = AdapterState.from_theta(torch.from_numpy(rng.normal(size=(2, 6)).astype(np.float32)))
    state.exp_avg.fill_(0.5)
    state.exp_avg_sq.fill_(0.1)
    before = [t.clone() for t in (state.theta, state.exp_avg, state.exp_avg_sq)]
    keep = torch.tensor([[True, False] * 3, [False] * 6])
    adamw_(state, torch.ones(2, 6) * keep, SIZE, torch.tensor([True, True]), keep)
    for now, old in zip((state.theta, state.exp_avg, state.exp_avg_sq), before, strict=True):
        assert torch.equal(now[~keep], old[~keep])
        assert (now[keep] != old[keep]).all()


def test_a_frozen_pair_is_part_of_the_base(adapted, base, token_tasks):
    """Training on top of a merged update = training with that update written into the layers' weights."""
    layout = Layout(adapted.layers, 2, ("a", "b"))
    theta, rng = adapted.theta(layout, 2), np.random.default_rng(1)
    dense = [
        torch.from_numpy(rng.normal(0, 0.02, (2, s.out_features, s.in_features))).float()
        for s in layout.layers
    ]
    frozen = [(torch.eye(w.shape[2]).expand(2, -1, -1), w / 2.0) for w in dense]
    rows = [[(token_tasks[0].train, k)] for k in (0, 1)]
    both = Leaves(layout, AdapterState.from_theta(theta), None, frozen)
    backward(adapted.model, both, rows, 2.0)
    for k in (0, 1):
        alone = Leaves(layout, AdapterState.from_theta(theta[k : k + 1]), None)
        backward(changed_base(base, [w[k] for w in dense]), alone, [rows[k]], 2.0)
        torch.testing.assert_close(both.gradient[k], alone.gradient[0], atol=1e-5, rtol=1e-3)


def changed_base(base, updates):
    """The embedded model with an update written into every adapted layer's weight."""
    module = build_model(base)
    layers = find_targets(module, "all-linear")
    for shape, update in zip(layers, updates, strict=True):
        linear = module.get_submodule(shape.name)
        linear.weight = torch.nn.Parameter(linear.weight.data + update, requires_grad=False)
    return ScoredModel(module, inject(module, layers))


def test_a_sample_leaves_the_other_expert_alone(adapted, token_tasks):
    """Two experts of one device: no row, gradient exactly zero; the other's gradient is as if it were alone."""
    layout = Layout(adapted.layers, 3, ("b",))
    theta, a = adapted.theta(layout, 2), adapted.static_a(2, 3)
    rows = [(token_tasks[0].train, 0), (token_tasks[0].train, 1)]
    state = AdapterState.from_theta(theta.clone())
    leaves = Leaves(layout, state, a)
    backward(adapted.model, leaves, [rows, []], 2.0)
    assert not leaves.gradient[1].any()
    alone = Leaves(layout, AdapterState.from_theta(theta[:1]), [x[:1] for x in a])
    backward(adapted.model, alone, [rows], 2.0)
    torch.testing.assert_close(leaves.gradient[0], alone.gradient[0], atol=1e-6, rtol=1e-4)
    other = [(token_tasks[1].train, 5)]
    mixed = Leaves(layout, state, a)
    backward(adapted.model, mixed, [rows, other], 2.0)
    torch.testing.assert_close(mixed.gradient[0], alone.gradient[0], atol=1e-6, rtol=1e-4)
    assert mixed.gradient[1].any()
    train_adapters(
        adapted.model, layout, state, [LocalWork([rows]), LocalWork([[]])], size=SIZE, scale=2.0, static_a=a
    )
    assert torch.equal(state.theta[1], theta[1])
    assert not torch.equal(state.theta[0], theta[0])


@pytest.fixture(scope="module")
def dirichlet(tmp_path_factory):
    """A experiment whose devices hold several tasks in uneven shares."""
    path = tmp_path_factory.mktemp("dirichlet")
    mixed = ("devices.partition={type: dirichlet, alpha: 2.0}", "method.batch_rows=7", "seed=1")
    return build_experiment(small_config(path, "runtime.backend=local", *mixed))


def test_dirichlet_batches_go_to_the_experts_of_their_tasks(dirichlet):
    setup = dirichlet.setup
    assert max(len(held) for held in setup.held.values()) > 1
    shares = np.concatenate(list(setup.shares.values()))
    assert np.ptp(shares) > 0.1
    group = LocalBackend(setup, dirichlet.channel)._group
    for device in group.devices.values():
        work = group._rows.work(group.method.law.sources(device.index), 1, device.adapter_tasks)
        drawn = group._rows.draw(device.index, 1)
        assert len(work) == len(device.adapter_tasks)
        for adapter, task in enumerate(device.adapter_tasks):
            for step in range(setup.config.method.local_steps):
                rows = work[adapter].steps[step]
                assert rows == [row for t, row in drawn[step] if t == task]
                assert all(table is setup.tasks[task].train for table, _ in rows)
                mine = set(setup.rows[device.index][setup.held[device.index].index(task)].tolist())
                assert {i for _, i in rows} <= mine
        assert all(sum(len(w.steps[s]) for w in work) == 7 for s in range(len(drawn)))


def test_central_learner_takes_the_rows_all_devices_would_have_drawn(dirichlet, tmp_path):
    mixed = ("devices.partition={type: dirichlet, alpha: 2.0}", "method.batch_rows=7", "seed=1")
    experiment = build_experiment(
        small_config(tmp_path, "runtime.backend=local", "method=centralized", *mixed)
    )
    group = LocalBackend(experiment.setup, experiment.channel)._group
    law = group.method.law
    work = [
        w for d in group.devices.values() for w in group._rows.work(law.sources(d.index), 1, d.adapter_tasks)
    ]
    assert [len(w.steps[0]) for w in work] == [7 * 4, 0, 0, 0]
    wanted = sorted((t, i) for d in range(4) for t, (_, i) in group._rows.draw(d, 1)[0])
    place = {id(task.train): t for t, task in enumerate(experiment.setup.tasks)}
    assert sorted((place[id(table)], i) for table, i in work[0].steps[0]) == wanted
    assert group.evaluate(1, ("single",)).rows["device"] == [0, 0]
