"""Sketches, the likelihood router and the linear filter against independent derivations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dfl_ray.engines.adapted_layers import distinct_inputs
from dfl_ray.experts.routing import (
    filter_matrices,
    filtered_factors,
    log_likelihoods,
    prompt_features,
    shrink,
)
from dfl_ray.experts.sketch import sketch
from dfl_ray.wire.codec import CodecError
from dfl_ray.wire.sketch import decode_sketch, encode_sketch

RNG = np.random.default_rng(0)


def random_correlations(tasks, layers, n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tasks, layers, 3 * n, n)) * rng.gamma(1.0, size=(tasks, layers, 1, n))
    return np.einsum("tlki,tlkj->tlij", x, x) / (3 * n)


def test_log_likelihood_equals_scipys_gaussian():
    n = 5
    correlations = random_correlations(3, 2, n)
    features = [RNG.normal(size=(2, k, n)) for k in (4, 7)]
    found = log_likelihoods(features, correlations, shrinkage=0.1)
    for p, f in enumerate(features):
        for t in range(3):
            expected = sum(
                stats.multivariate_normal(np.zeros(n), shrink(correlations[t, layer], 0.1))
                .logpdf(f[layer])
                .sum()
                for layer in range(2)
            )
            constant = 2 * f.shape[1] * n / 2 * np.log(2 * np.pi)
            assert found[p, t] == pytest.approx(expected + constant, rel=1e-9)


def test_unknown_tasks_are_never_chosen():
    correlations = random_correlations(3, 1, 4)
    correlations[1] = np.nan
    found = log_likelihoods([RNG.normal(size=(1, 6, 4))], correlations, shrinkage=0.1)
    assert np.isneginf(found[0, 1])
    assert np.isfinite(found[0, [0, 2]]).all()


def test_no_prompts_have_no_likelihoods():
    assert log_likelihoods([], random_correlations(3, 2, 4), shrinkage=0.1).shape == (0, 3)


def test_filter_minimises_its_objective():
    """M_t = argmin tr((M-I)C_t(M-I)^T) + sum_{s != t} tr(M C_s M^T) + lambda |M|^2: the gradient vanishes."""
    n, ridge = 6, 0.05
    c = random_correlations(4, 1, n, seed=2)
    m = filter_matrices(c, ridge=ridge)
    lam = (ridge + 1e-9) * np.trace(c.sum(0)[0]) / n
    for t in range(4):
        mt = m[t, 0]
        gradient = (mt - np.eye(n)) @ c[t, 0] + sum(mt @ c[s, 0] for s in range(4) if s != t) + lam * mt
        assert np.abs(gradient).max() < 1e-10


def test_filter_without_foreign_tasks_is_the_identity():
    c = random_correlations(1, 2, 5)
    np.testing.assert_allclose(filter_matrices(c, ridge=0.0)[0, 0], np.eye(5), atol=1e-6)


def test_filtered_adapter_is_the_sum_of_filtered_experts():
    """s B_eff z equals s sum_t B_t [M_t z]_{rows of t}, written out."""
    tasks, rank, width, out = 3, 2, 6, 7
    m = filter_matrices(random_correlations(tasks, 1, width, seed=3), ridge=0.1)
    experts = [[torch.from_numpy(RNG.normal(size=(out, rank)).astype(np.float32))] for _ in range(tasks)]
    z = RNG.normal(size=width)
    merged = filtered_factors(experts, m, rank)[0].numpy() @ z
    expected = sum(experts[t][0].numpy() @ (m[t, 0] @ z)[t * rank : (t + 1) * rank] for t in range(tasks))
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)


def test_sketch_equals_mean_outer_product(adapted, token_tasks):
    rows = [token_tasks[0].train.row(i)[:-1] for i in range(9)]
    projections = [torch.stack([x[0], x[1]]) for x in adapted.static_a(2, 3)]
    layers = distinct_inputs(adapted.model)[:3]
    found = sketch(adapted.model, projections, layers, rows)
    seen = {layer: [] for layer in layers}

    def see(layer, x):
        if layer in seen:
            seen[layer].append(x)

    from dfl_ray.experts.sketch import prompt_batch

    for row in rows:
        length = len(row)
        adapted.model.observe(prompt_batch([row])[0], lambda k, x, n=length: see(k, x[0, :n]))
    for k, layer in enumerate(layers):
        x = torch.cat(seen[layer]).double().numpy()
        z = x @ projections[layer].reshape(6, -1).double().numpy().T
        np.testing.assert_allclose(found[k], z.T @ z / len(x), rtol=1e-5, atol=1e-7)
        assert np.linalg.eigvalsh(found[k]).min() > -1e-9


def test_prompt_features_ignore_padding(adapted, token_tasks):
    prompts = [token_tasks[0].test.prompt(0), token_tasks[1].test.prompt(1)[:5]]
    projections = [x[None, 0] for x in adapted.static_a(1, 3)]
    layers = distinct_inputs(adapted.model)[:2]
    both = prompt_features(adapted.model, projections, layers, prompts)
    for prompt, features in zip(prompts, both, strict=True):
        assert features.shape == (2, len(prompt), 3)
        alone = prompt_features(adapted.model, projections, layers, [prompt])[0]
        np.testing.assert_allclose(features, alone, rtol=1e-4, atol=1e-5)


def test_distinct_inputs_name_each_input_once(adapted):
    names = [adapted.layers[i].name.rsplit(".", 1)[-1] for i in distinct_inputs(adapted.model)[:4]]
    assert names == ["q_proj", "o_proj", "gate_proj", "down_proj"]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
def test_sketch_survives_its_encoding(precision, tolerance):
    c = random_correlations(1, 3, 8)[0]
    data = encode_sketch(c, precision)
    np.testing.assert_allclose(decode_sketch(data, precision, 3, 8), c, rtol=tolerance, atol=1e-6)


def test_int8_sketch_is_within_half_a_step_of_every_coefficient():
    c = random_correlations(1, 3, 8)[0] * np.array([1.0, 1e-3, 1e3])[:, None, None]
    data = encode_sketch(c, "int8")
    assert len(data) == 3 * (2 * 8 + 28)
    found = decode_sketch(data, "int8", 3, 8)
    root = np.sqrt(np.einsum("kii->ki", c))
    scale = root[:, :, None] * root[:, None, :]
    assert (np.abs(found - c) <= (0.5 / 127 + 3e-3) * scale).all()
    with pytest.raises(CodecError):
        decode_sketch(data[:-1], "int8", 3, 8)


def test_rounding_never_makes_a_likelihood_undefined():
    x = np.random.default_rng(5).normal(size=(400, 3)) @ np.random.default_rng(6).normal(size=(3, 12))
    exact = (x.T @ x / len(x))[None]
    rounded = decode_sketch(encode_sketch(exact, "int8"), "int8", 1, 12)
    assert np.linalg.eigvalsh(rounded[0]).min() < 0
    table = log_likelihoods([x[None, :9].astype(np.float32)], np.stack([rounded, exact]), shrinkage=0.0)
    assert np.isfinite(table).all()
