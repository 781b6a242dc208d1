"""Tokens told from gradients: exactly where their span has room, by chance where it has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfl_ray.engines.private import row_gradients
from dfl_ray.evaluation import leakage
from dfl_ray.evaluation.leakage import RIDGE, span_distance, token_auc, token_inputs
from dfl_ray.lora.layout import Layout


def test_distance_is_small_in_the_span_and_the_squared_sine_outside():
    """G's rows span e1 and e2 with squared lengths 4 and 1: distances 1, 4 and 1 / RIDGE by hand."""
    change = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    slanted = [0.0, 3.0, 4.0]
    found = span_distance(change, torch.tensor([[5.0, 0, 0], [0, 7.0, 0], [0, 0, 1.0], slanted]))
    np.testing.assert_allclose(found, [1.0, 4.0, 1 / RIDGE, 0.36 * 4 + 0.64 / RIDGE], rtol=1e-6)
    with pytest.raises(ValueError, match="0 everywhere"):
        span_distance(torch.zeros(2, 3), torch.eye(3))


@pytest.mark.parametrize("sizes", [(40, 6, True), (5, 24, False), (30, 24, False)])
def test_distances_are_those_of_the_whole_matrix(sizes, monkeypatch):
    """Against D(v) as it is written, by all n eigenvectors: a thin change, a wide one, and B's through A."""
    m, n, through = sizes
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 24, generator=drawn)
    inputs[7] = 0
    a = torch.randn(n, 24, generator=drawn) if through else None
    x = (inputs if a is None else inputs @ a.T).double()
    g = torch.randn(m, 3, generator=drawn) @ x[:3].float()
    values, vectors = torch.linalg.eigh(g.double().T @ g.double())
    unit = x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-30)
    expected = (unit @ vectors) ** 2 @ (1.0 / ((values / values[-1]).clamp(min=0) + RIDGE))
    monkeypatch.setattr(leakage, "BLOCK", 16)
    found = span_distance(g, inputs, a)
    np.testing.assert_allclose(found[3:], expected[3:], rtol=1e-4)
    assert (found[:3] < 100).all() and found[7] == 0 and (np.delete(found[3:], 4) > 1e4).all()


def test_a_row_s_gradient_tells_its_tokens_where_the_rank_leaves_room(adapted, token_tasks):
    """Rank above the number of different tokens: every token is told; rank 2: the span is everything.

    All but the start token: where there is one key to look at, the query has no gradient.
    """
    table = token_tasks[0].train
    start, tokens = table.row(0)[0], np.unique(table.row(0)[1:-1])
    inputs = token_inputs(adapted.model)
    present = np.isin(np.arange(len(inputs)), tokens)
    told = {}
    for rank in (2, 24):
        layout = Layout(adapted.layers, rank, ("a", "b"))
        theta = adapted.theta(layout, 1)
        gradient, _ = row_gradients(
            adapted.model, layout, theta, torch.zeros(1, dtype=torch.int64), [(table, 0)], scale=2.0
        )
        a = layout.views(theta, "a")[0][0]
        distances = span_distance(layout.views(gradient, "b")[0][0], inputs, a)
        told[rank] = token_auc(np.delete(distances, start), np.delete(present, start))
    assert len(tokens) < 24
    assert start not in tokens and told[24] == 1.0
    assert told[2] < 0.9


def test_inputs_of_tokens_are_what_the_layer_sees_wherever_they_stand(adapted, monkeypatch):
    """Rotary positions act behind the projection, so that place and neighbours do not matter."""
    from dfl_ray.engines.batches import prompt_batch

    batch, _ = prompt_batch([np.array([7, 3, 9, 3])])
    seen = {}
    adapted.model.observe(batch, lambda i, x: seen.setdefault(i, x[0]), (0,))
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(leakage, "BLOCK", 100)
    plain = adapted.model.observe
    monkeypatch.setattr(
        adapted.model, "observe", lambda b, *more: (asked.append(b.input_ids.shape), plain(b, *more))
    )
    inputs = token_inputs(adapted.model)
    assert len(asked) > 2 and max(rows for rows, _ in asked) == 100 and {length for _, length in asked} == {1}
    torch.testing.assert_close(seen[0][:4], inputs[[7, 3, 9, 3]], rtol=1e-5, atol=1e-6)
