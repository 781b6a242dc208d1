"""The algebra of the method: orthogonality, exact averages, hashes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.projection import (
    ROW_NORM,
    _layer_key,
    drawn_projections,
    orthogonal_rows,
    projection_hash,
    task_projections,
)
from dfl_ray.lora.stacks import TaskStacks, task_stacks, tensors_of
from dfl_ray.seeds import Stream, generator

LAYER = LayerShape("model.layers.0.mlp.up_proj", 40, 24)


@pytest.mark.parametrize("kind", ["exact", "per_device"])
def test_rows_are_orthogonal_within_and_between_tasks(kind):
    a = task_projections(7, LAYER, tasks=6, rank=4, kind=kind, device=3).reshape(24, 24)
    np.testing.assert_allclose(a @ a.T, ROW_NORM**2 * np.eye(24), atol=1e-12)


def test_updates_are_orthogonal_and_average_exactly():
    rng = np.random.default_rng(0)
    a = task_projections(7, LAYER, tasks=3, rank=4)
    b = rng.normal(size=(3, 40, 4))
    delta = [b[t] @ a[t] for t in range(3)]
    for i in range(3):
        for j in range(i):
            assert abs((delta[i] * delta[j]).sum()) < 1e-11
            assert np.abs(delta[i] @ delta[j].T).max() < 1e-11
    holders = rng.normal(size=(5, 40, 4))
    np.testing.assert_allclose(
        holders.mean(0) @ a[1], np.mean([h @ a[1] for h in holders], axis=0), atol=1e-12
    )


def test_plain_lora_does_not_average_exactly():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(5, 4, 24)), rng.normal(size=(5, 40, 4))
    products = np.mean([y @ x for x, y in zip(a, b, strict=True)], axis=0)
    assert np.abs(b.mean(0) @ a.mean(0) - products).max() > 0.1


def test_drawn_from_seed_and_layer_name_only():
    again = orthogonal_rows(7, LAYER.name, 24, 12)
    np.testing.assert_array_equal(again, orthogonal_rows(7, LAYER.name, 24, 12))
    assert np.abs(again - orthogonal_rows(8, LAYER.name, 24, 12)).max() > 0.1
    assert np.abs(again - orthogonal_rows(7, "other", 24, 12)).max() > 0.1


@pytest.mark.parametrize("count", [2, 8])
def test_rows_have_the_moments_of_haar_rows(count):
    """E q = 0, E q_i^2 = 1/d, E q_i^4 = 3/(d(d+2)), and E q_ri^2 q_sj^2 = (d+1)/((d-1)d(d+2)), i != j, r != s.

    The diagonal alone too, which a sign of R that is not fixed would spoil. Source: Weingarten's calculus on O(d),
    Collins and Sniady 2006 (arXiv math-ph/0402073).
    """
    d, draws = 8, 3000
    q = np.array([orthogonal_rows(s, "x", d, count) for s in range(draws)])
    diagonal = q[:, range(count), range(count)]
    assert abs(diagonal.mean()) < 4 / np.sqrt(d * diagonal.size)
    assert np.abs(q.mean(0)).max() < 5 / np.sqrt(d * draws)
    assert np.abs((q**2).mean(0) * d - 1).max() < 5 * np.sqrt(2 / draws)
    assert abs((q**4).mean() * d * (d + 2) / 3 - 1) < 0.05
    mixed = (q[:, 0, 0] ** 2 * q[:, 1, 1] ** 2).mean()
    assert abs(mixed * (d - 1) * d * (d + 2) / (d + 1) - 1) < 0.15


def test_rows_are_householders_thin_qr_with_the_sign_fixed():
    """The Cholesky factor of G^T G and Householder's R are the same matrix."""
    for size, count in [(64, 16), (64, 17), (9, 9)]:
        gaussian = generator(5, Stream.PROJECTION, _layer_key("y")).standard_normal((size, count))
        q, r = np.linalg.qr(gaussian)
        wanted = (q * np.sign(np.diag(r))).T
        np.testing.assert_allclose(orthogonal_rows(5, "y", size, count), wanted, atol=1e-13)


def test_a_run_holds_float32_and_tasks_stay_apart():
    layers = (LayerShape("q", 40, 96), LayerShape("down", 24, 160))
    drawn = drawn_projections(7, layers, tasks=6, rank=4)
    assert [a.shape for a in drawn] == [(6, 4, 96), (6, 4, 160)]
    for a in drawn:
        assert a.dtype == np.float32
        flat = a.astype(float).reshape(24, -1)
        np.testing.assert_allclose(flat @ flat.T, ROW_NORM**2 * np.eye(24), atol=1e-6)


def test_stacks_are_views_of_neighbouring_tasks_and_copies_of_others():
    drawn = tensors_of(drawn_projections(7, (LayerShape("q", 40, 96),), tasks=6, rank=4))
    for owners in ([0, 1, 2], [3], [4, 1, 1]):
        whole, lazy = task_stacks(drawn, owners), TaskStacks(drawn, owners)
        for stack in (whole[0], lazy[0], next(iter(lazy)), lazy[0:1][0]):
            assert bool((stack == torch.stack([drawn[0][t] for t in owners])).all())
        shares = lazy[0].untyped_storage().data_ptr() == drawn[0].untyped_storage().data_ptr()
        assert shares == (owners != [4, 1, 1])
    assert len(TaskStacks(drawn, [0])) == 1


def test_gaussian_is_the_papers_literal_form():
    a = task_projections(7, LayerShape("x", 8, 512), tasks=80, rank=8, kind="gaussian")
    assert abs(a.var() * 512 - 1) < 0.01
    between = np.einsum("rd,sd->rs", a[0], a[1])
    assert 0.01 < np.abs(between).max() < 0.3


def test_too_many_rows_are_refused_with_the_knob():
    with pytest.raises(InputError, match=r"T\*r = 28 > d = 24.*method\.rank"):
        task_projections(7, LAYER, tasks=7, rank=4)


def test_hash_sees_any_change():
    a = [task_projections(7, LAYER, tasks=2, rank=4)]
    changed = [a[0].copy()]
    changed[0][1, 0, 0] += 1e-3
    assert projection_hash(a) != projection_hash(changed)
    assert projection_hash(a) == projection_hash([x.copy() for x in a])
