"""Inference rules against independent derivations: PEFT's Arrow and TIES, RegMean by least squares, dense merging."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.engines.batches import collate
from dfl_ray.evaluation.scorer import Adapter
from dfl_ray.experts.gates import arrow_gate, posterior, prototype, soft_gate
from dfl_ray.experts.merging import filtered_projections, input_correlations, ties_merge
from dfl_ray.experts.routing import filter_matrices, filtered_factors
from dfl_ray.lora.inject import Binding

T, R, D, M = 4, 3, 12, 10


def random_experts(seed=0, orthogonal=True):
    rng = np.random.default_rng(seed)
    a = np.linalg.qr(rng.normal(size=(D, D)))[0][: T * R] if orthogonal else rng.normal(size=(T * R, D))
    a = torch.from_numpy(a.reshape(T, R, D)).float()
    b = torch.from_numpy(rng.normal(size=(T, M, R))).float()
    return a, b


def test_filter_is_regmean_solved_as_least_squares():
    """RegMean: argmin_W sum_t |W Z_t - [0 .. B_t .. 0] Z_t|^2, here by lstsq over the tokens themselves."""
    rng = np.random.default_rng(3)
    _, b = random_experts()
    z = [rng.normal(size=(200, T * R)) * rng.gamma(1.0, size=T * R) for _ in range(T)]
    wide = np.zeros((T, M, T * R))
    for t in range(T):
        wide[t, :, t * R : (t + 1) * R] = b[t].numpy()
    targets = np.concatenate([z[t] @ wide[t].T for t in range(T)])
    expected = np.linalg.lstsq(np.concatenate(z), targets, rcond=None)[0].T
    correlations = np.stack([zt.T @ zt / len(zt) for zt in z])[:, None]
    found = filtered_factors([[b[t]] for t in range(T)], filter_matrices(correlations, ridge=0.0), R)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_full_filter_is_regmean_of_the_updates():
    rng = np.random.default_rng(4)
    a, b = random_experts()
    x = [rng.normal(size=(300, D)) * rng.gamma(1.0, size=D) for _ in range(T)]
    updates = [(b[t] @ a[t]).numpy() for t in range(T)]
    expected = np.linalg.lstsq(
        np.concatenate(x), np.concatenate([x[t] @ updates[t].T for t in range(T)]), rcond=None
    )[0].T
    correlations = [xt.T @ xt / len(xt) for xt in x]
    rows = filtered_projections([p.numpy() for p in a], correlations, ridge=0.0)
    joined = torch.cat(list(b), dim=1).numpy()
    np.testing.assert_allclose(joined @ rows, expected, atol=1e-4)


def test_full_filter_keeps_a_task_whose_inputs_nobody_shares():
    a, b = random_experts()
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    correlations = [basis[:, t * 3 : t * 3 + 3] @ basis[:, t * 3 : t * 3 + 3].T for t in range(T)]
    whole = torch.cat(list(b), dim=1).numpy() @ filtered_projections(
        [p.numpy() for p in a], correlations, ridge=0.0
    )
    for t in range(T):
        x = basis[:, t * 3]
        np.testing.assert_allclose(whole @ x, (b[t] @ a[t]).numpy() @ x, atol=1e-5)


def test_input_correlations_project_to_the_sketch(adapted, token_tasks):
    from dfl_ray.experts.sketch import sketch, training_rows

    rows = training_rows(token_tasks[0].train, np.arange(9))
    projections = adapted.static_a(2, 3)
    full = input_correlations(adapted.model, [s.in_features for s in adapted.layers], rows)
    z = sketch(adapted.model, projections, [0, 3], rows)
    for k, layer in enumerate((0, 3)):
        p = projections[layer].reshape(6, -1).double().numpy()
        np.testing.assert_allclose(p @ full[layer] @ p.T, z[k], atol=1e-5)


def test_prototype_is_the_top_right_singular_vector():
    a, b = random_experts(orthogonal=False)
    for t in range(T):
        v = np.linalg.svd((b[t] @ a[t]).numpy())[2][0]
        found = prototype(a[t], b[t]).numpy()
        assert abs(found @ v) == pytest.approx(1.0, abs=1e-5)
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-5)
    assert not prototype(a[0], torch.zeros(M, R)).any()


def test_arrow_equals_pefts_arrow_layer():
    peft = pytest.importorskip("peft")
    from peft.tuners.lora.arrow import ArrowLoraLinearLayer

    a, b = random_experts(seed=5)
    names = [f"task_{t}" for t in range(T)]
    config = peft.ArrowConfig(top_k=2, router_temperature=0.7, rng_seed=0)
    config.task_adapter_names, config.gks_adapter_names = names, []
    layer = ArrowLoraLinearLayer(in_features=D, arrow_config=config)
    lora_a, lora_b = torch.nn.ModuleDict(), torch.nn.ModuleDict()
    for t, name in enumerate(names):
        lora_a[name], lora_b[name] = torch.nn.Linear(D, R, bias=False), torch.nn.Linear(R, M, bias=False)
        lora_a[name].weight.data, lora_b[name].weight.data = a[t].clone(), b[t].clone()
    layer.top_right_singular_vec_from_BA = lambda x, y: torch.linalg.svd(y @ x)[2][
        0
    ]  # without its short iteration
    layer.build_prototypes(lora_a, lora_b)
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = layer(x, lora_a, lora_b, torch.nn.Identity(), dict.fromkeys(names, 2.0))
    protos = torch.stack([prototype(p, q) for p, q in zip(a, b, strict=True)])
    gate = arrow_gate([protos], R, top_k=2, temperature=0.7)([])
    z = gate(0, x, x @ a.reshape(-1, D).T)
    torch.testing.assert_close(2.0 * z @ torch.cat(list(b), dim=1).T, expected, atol=1e-5, rtol=1e-4)


def test_ties_by_hand_and_against_peft():
    updates = np.array([[5.0, -1.0, 0.1, 2.0], [-3.0, -2.0, 0.2, 0.0], [4.0, 0.3, -0.1, -6.0]])
    # density 0.5 keeps (5, 2), (-3, -2), (4, -6); signs of the sums 6, -2, 0, -4; means of those that agree.
    np.testing.assert_allclose(ties_merge(updates, density=0.5), [4.5, -2.0, 0.0, -6.0])
    np.testing.assert_allclose(ties_merge(updates, density=0.5, scale=0.3), [1.35, -0.6, 0.0, -1.8])
    peft = pytest.importorskip("peft")
    table = np.random.default_rng(2).normal(size=(5, 400)).astype(np.float32)
    parts = [torch.from_numpy(row) for row in table]
    expected = peft.utils.merge_utils.ties(parts, torch.ones(5), density=0.3, majority_sign_method="total")
    np.testing.assert_allclose(ties_merge(table, density=0.3), expected.numpy(), atol=1e-6)


def test_posterior_is_the_softmax_and_knows_nothing_of_the_unknown():
    table = np.array([[-10.0, -12.0, -np.inf], [-np.inf] * 3])
    found = posterior(table, 2.0)
    np.testing.assert_allclose(found[0], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0])
    np.testing.assert_allclose(found[1], 1 / 3)


def test_soft_gate_is_a_merge_for_each_prompt(adapted, token_tasks):
    """Two rows with mixtures of their own in one batch = each alone under its own dense merge of the experts."""
    rank, tasks = 3, 2
    a = adapted.static_a(tasks, rank)
    rng = np.random.default_rng(0)
    b = [torch.from_numpy(rng.normal(0, 0.1, (tasks, s.out_features, rank))).float() for s in adapted.layers]
    shares = {0: np.array([[0.2, 0.8], [1.0, 0.0]]), 1: np.array([[0.5, 0.5]])}
    flat = [x.reshape(-1, x.shape[-1]) for x in a]
    adapter = Adapter(flat, [torch.cat(list(x), dim=1) for x in b], soft_gate(shares, rank))
    pairs, table = [(0, 0), (1, 0), (0, 1)], token_tasks[0].train
    binding = Binding([x.unsqueeze(0) for x in adapter.a], [x.unsqueeze(0) for x in adapter.b], None, 2.0)
    binding.gate = adapter.gate(pairs)
    batch = collate([(table, i) for i in range(3)])
    with torch.no_grad():
        together = adapted.model.logits(batch, binding)
        for i, (task, place) in enumerate(pairs):
            weights = shares[task][place]
            merged = [torch.cat([w * x for w, x in zip(weights, y, strict=True)], dim=1).float() for y in b]
            one = Binding([x.unsqueeze(0) for x in flat], [x.unsqueeze(0) for x in merged], None, 2.0)
            alone = adapted.model.logits(collate([(table, i)]), one)
            torch.testing.assert_close(together[batch.source[:, 0] == i], alone, atol=1e-4, rtol=1e-4)
