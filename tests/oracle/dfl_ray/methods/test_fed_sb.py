"""Fed-SB: its core's gradient by the chain rule, its exact mean, its bytes, its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dfl_ray.config.literature import FedSbConfig
from dfl_ray.engines.leaves import Leaves
from dfl_ray.engines.training import backward
from dfl_ray.engines.weight_gradients import weight_gradients
from dfl_ray.errors import InputError
from dfl_ray.lora.first_update import first_update
from dfl_ray.lora.layout import LayerShape, Layout
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.lora.projection import check_core, input_bases, output_bases
from dfl_ray.lora.stacks import up_factors
from dfl_ray.methods.base import first_adapters
from dfl_ray.methods.entries import make_method
from dfl_ray.simulation.backend import LocalBackend
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.export import _factor
from dfl_ray.simulation.gradient_bases import basis_rows
from dfl_ray.wire.codec import encoded_size
from dfl_ray.wire.message import HEADER_BYTES
from tests.conftest import small_config
from tests.network import LAYERS, LINE, complete, make_devices, plain_context, play

SET = {"rank": 3, "alpha": 6.0, "precision": "float32"}
LARGE = (LayerShape("x", 600, 1600), LayerShape("y", 500, 1600))


def network(weights, layers=LAYERS):
    method = make_method(plain_context(FedSbConfig(**SET), weights, layers))
    return method, make_devices(method)


def updates(method, device):
    """B C A of every layer in float64, from the bases themselves."""
    cores = [c[0].numpy().astype(float) for c in method.layout.views(device.state.theta, "c")]
    downs, ups = (f(3, method.layout.layers, 3) for f in (input_bases, output_bases))
    return [u.T @ c @ a for u, c, a in zip(ups, cores, downs, strict=True)]


def test_the_bases_are_orthonormal_the_start_is_the_base_model_and_all_draw_the_same():
    method, devices = network(LINE)
    downs, ups = input_bases(3, LAYERS, 3), output_bases(3, LAYERS, 3)
    for layer, a, u in zip(LAYERS, downs, ups, strict=True):
        assert a.shape == (3, layer.in_features) and u.shape == (3, layer.out_features)
        np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(u @ u.T, np.eye(3), atol=1e-12)
    assert not np.allclose(downs[0], downs[1])
    assert not method.start(0).any()
    static = method.static_a([(0, -1), (2, -1)])
    for given, a in zip(static, downs, strict=True):
        np.testing.assert_allclose(given, [a, a], atol=1e-6)
    for b, up, core in zip(
        up_factors(method.layout, devices[0].state.theta), ups, method.layout.views(devices[0].state.theta, "c"),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(b[0], up.T @ core[0].numpy(), atol=1e-5)


def test_the_mean_of_the_cores_is_the_mean_of_the_updates():
    method, devices = network(complete(4))
    before = [updates(method, d) for d in devices]
    mean = [np.mean(layer, axis=0) for layer in zip(*before, strict=True)]
    play(method, devices, 1)
    for d in devices:
        for found, wanted in zip(updates(method, d), mean, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_gossip_by_hand_and_bytes_that_do_not_grow_with_the_layers():
    for layers in (LAYERS, LARGE):
        method, devices = network(LINE, layers)
        x = np.stack([d.state.theta[0].numpy().astype(float) for d in devices])
        w = np.array([[LINE[i].get(j, 0.0) for j in range(4)] for i in range(4)])
        wanted = (w + np.diag(1 - w.sum(axis=1))) @ x
        sent = play(method, devices, 1)[1]
        assert sent == 6 * (HEADER_BYTES + encoded_size(2 * 9, "float32"))
        np.testing.assert_allclose([d.state.theta[0] for d in devices], wanted, atol=1e-6)


def test_the_cores_gradient_is_the_projection_of_the_gradient_of_b(adapted, token_tasks):
    """dL/dC = U^T dL/dB at B = U C, with dL/dB from a run of the engine that trains B."""
    rank = 4
    ups = [u.astype(np.float32) for u in output_bases(5, adapted.layers, rank)]
    core = Layout(adapted.layers, rank, ("c",), ups)
    dense = Layout(adapted.layers, rank, ("b",))
    theta = adapted.theta(core, 2)
    as_b = torch.zeros(2, dense.size)
    for view, b in zip(dense.views(as_b, "b"), up_factors(core, theta), strict=True):
        view.copy_(b)
    a = adapted.static_a(2, rank)
    rows = [[(token_tasks[k].train, i) for i in range(3 + k)] for k in (0, 1)]
    losses, gradients = [], []
    for layout, start in ((core, theta), (dense, as_b)):
        leaves = Leaves(layout, AdapterState.from_theta(start), a)
        losses.append(backward(adapted.model, leaves, rows, 2.0))
        gradients.append(leaves.gradient)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    for mine, of_b, up in zip(
        core.views(gradients[0], "c"), dense.views(gradients[1], "b"), ups, strict=True
    ):
        assert mine.abs().max() > 0
        torch.testing.assert_close(mine, torch.from_numpy(up) @ of_b, rtol=1e-3, atol=1e-6)


def test_the_exported_b_is_the_product_that_answers():
    method, devices = network(LINE)
    theta = devices[0].state.theta
    for written, used in zip(
        _factor(method.layout, theta[0].numpy(), "b"), up_factors(method.layout, theta), strict=True
    ):
        np.testing.assert_allclose(written, used[0], atol=1e-5)


def test_a_core_larger_than_a_layer_is_refused():
    check_core(LAYERS, 5)
    with pytest.raises(InputError, match="rank <= 5"):
        check_core(LAYERS, 6)


def test_another_seed_and_layer_draw_other_bases():
    first, second = output_bases(3, (LAYERS[0], replace(LAYERS[0], name="z")), 3)
    assert not np.allclose(first, second)
    assert not np.allclose(first, output_bases(4, LAYERS, 3)[0])


def test_the_first_update_is_the_nearest_of_its_rank_to_the_first_step_of_adamw():
    """Eckart-Young by eigenvalues of dW dW^T, and AdamW's first step by torch's own optimiser."""
    rng, rank, rate, scale = np.random.default_rng(2), 3, 0.02, 4.0
    gradients = [rng.normal(size=(s.out_features, s.in_features)).astype(np.float32) for s in LAYERS]
    gradients[0][2] = 0  # what the loss does not see stays
    found = first_update(gradients, rank=rank, learning_rate=rate, scale=scale)
    for g, a, up, core in zip(gradients, found.downs, found.ups, found.cores, strict=True):
        weight = torch.nn.Parameter(torch.zeros(g.shape))
        weight.grad = torch.from_numpy(g)
        torch.optim.AdamW([weight], lr=rate, weight_decay=0).step()
        step = weight.detach().numpy().astype(float)
        np.testing.assert_allclose(a @ a.T, np.eye(rank), atol=1e-6)
        np.testing.assert_allclose(up @ up.T, np.eye(rank), atol=1e-6)
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(step @ step.T)[::-1], 0))
        np.testing.assert_allclose(scale * core, values[:rank], rtol=1e-5)
        left = np.linalg.norm(step - scale * up.T @ np.diag(core) @ a)
        assert left == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4)
    again = first_update(gradients, rank=rank, learning_rate=rate, scale=scale)
    assert all(np.array_equal(x, y) for x, y in zip(found.ups, again.ups, strict=True))


def test_the_gradient_of_the_weights_gives_that_of_b_by_the_chain_rule(adapted, token_tasks):
    """At B = 0: dL/dB = s G A^T, with dL/dB from the engine that trains B, whose loss is a mean over tokens."""
    rows = [(token_tasks[k % 2].train, k) for k in range(11)]  # more than one pass
    scored = sum(int(t.offsets[i + 1] - t.offsets[i] - t.answer_start[i]) for t, i in rows)
    layout = Layout(adapted.layers, 4, ("b",))
    a = adapted.static_a(1, 4)
    leaves = Leaves(layout, AdapterState.from_theta(torch.zeros(1, layout.size)), a)
    backward(adapted.model, leaves, [rows], 2.0)
    whole = weight_gradients(adapted.model, adapted.layers, rows)
    for g, mine, down in zip(whole, layout.views(leaves.gradient, "b"), a, strict=True):
        torch.testing.assert_close(
            2.0 * torch.from_numpy(g) @ down[0].T / scored, mine[0], rtol=1e-3, atol=1e-6
        )
    again = weight_gradients(adapted.model, adapted.layers, rows)
    assert all(np.array_equal(x, y) for x, y in zip(whole, again, strict=True)), "no hook is left behind"


def test_a_run_starts_from_the_first_update_and_its_loss_is_lower(tmp_path):
    words = ("method=fed_sb", "method.rank=6", "method.alpha=12", "method.warmup_rounds=5", "rounds=1")
    experiment = build_experiment(small_config(tmp_path, *words, "method.bases=gradient"))
    assert any("before the run" in note for note in experiment.notes)
    backend = LocalBackend(experiment.setup, experiment.channel)
    setup, method = experiment.setup, backend._group.method
    theta = first_adapters(method, method.context, [0, 3])
    assert torch.equal(theta[0], theta[1])
    for core, c, a, up, layer in zip(
        method.layout.views(theta, "c"), setup.cores, setup.projections, setup.ups, setup.layers, strict=True
    ):
        np.testing.assert_array_equal(core[0], np.diag(c))
        assert a.shape == (1, 6, layer.in_features) and up.shape == (6, layer.out_features)
    rows = [[(setup.tasks[t].train, r) for t, r in basis_rows(setup, 32)]]
    losses = []
    for start in (theta[:1], torch.zeros_like(theta[:1])):
        leaves = Leaves(method.layout, AdapterState.from_theta(start), method.static_a([(0, -1)]))
        losses.append(float(backward(backend._group.model, leaves, rows, method.scale)[0]))
    assert losses[0] < losses[1] - 0.01


def test_rows_for_the_bases_are_the_devices_own(tmp_path):
    setup = build_experiment(small_config(tmp_path, "method=fed_sb")).setup
    drawn = basis_rows(setup, 200)
    owned = {(t, int(r)) for d, tasks in setup.held.items() for t, mine in zip(tasks, setup.rows[d], strict=True)
             for r in mine}  # fmt: skip
    assert set(drawn) <= owned and {t for t, _ in drawn} == {0, 1}
    assert drawn == basis_rows(setup, 200)


def test_bases_from_rows_are_refused_under_privacy(tmp_path):
    words = ("method=fed_sb", "privacy.mechanism=updates")
    small_config(tmp_path, *words)
    with pytest.raises(InputError, match="bases that come from rows"):
        small_config(tmp_path, *words, "method.bases=gradient")
