"""The algebra of the method: orthogonality, exact averages, hashes."""

from __future__ import annotations

import numpy as np
import pytest

from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.projection import ROW_NORM, orthogonal_matrix, projection_hash, task_projections

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
    again = orthogonal_matrix(7, LAYER.name, 24)
    np.testing.assert_array_equal(again, orthogonal_matrix(7, LAYER.name, 24))
    assert np.abs(again - orthogonal_matrix(8, LAYER.name, 24)).max() > 0.1
    assert np.abs(again - orthogonal_matrix(7, "other", 24)).max() > 0.1


def test_haar_first_entry_variance():
    """Entries of a Haar orthogonal matrix have mean 0 and variance 1/d; the diagonal too (sign of R fixed)."""
    entries = np.array([orthogonal_matrix(s, "x", 8).diagonal() for s in range(400)]).ravel()
    assert abs(entries.mean()) < 4 / np.sqrt(8 * entries.size)
    assert abs(entries.var() * 8 - 1) < 0.15


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
