"""How rows are laid out for the large path: every token has one place, and nothing of another row is near."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfl_ray.engines.batches import collate
from dfl_ray.engines.gpu.plan import BUCKET_SLACK, make_plan
from dfl_ray.tasks.tokens import TokenRows

ROWS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=5)
FREQUENCIES = torch.tensor([1.0, 0.1])


def laid_out(lengths):
    flat = [n for adapter in lengths for n in adapter]
    offsets = np.concatenate([[0], np.cumsum(np.array(flat) + 1)])
    rng = np.random.default_rng(0)
    starts = np.array([rng.integers(1, n + 1) for n in flat], np.int32)
    table = TokenRows(np.arange(1, offsets[-1] + 1, dtype=np.int32), offsets, starts)
    batch = collate([(table, i) for i in range(len(flat))])
    return table, make_plan(batch, [len(s) for s in lengths], FREQUENCIES, torch.device("cpu"))


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_every_token_has_one_place(lengths):
    table, plan = laid_out(lengths)
    ids = plan.ids.view(plan.adapters, -1)
    row, seen = 0, []
    for adapter, own in enumerate(lengths):
        wanted = np.concatenate([table.row(row + k)[:-1] for k in range(len(own))])
        assert ids[adapter, : len(wanted)].tolist() == wanted.tolist()
        assert not ids[adapter, len(wanted) :].any()
        row += len(own)
    for bucket in plan.buckets:
        if bucket.source is None:
            assert len(plan.buckets) == 1 and bucket.rows * bucket.length == len(plan.ids)
            assert len({n for own in lengths for n in own}) == 1
            return
        source = bucket.source.view(bucket.rows, bucket.length)
        target = bucket.target.view(bucket.rows, bucket.length)
        for places, kept in zip(source.tolist(), target.tolist(), strict=True):
            real = [p for p in kept if p < len(plan.ids)]
            assert real == places[: len(real)] == list(range(real[0], real[0] + len(real)))
            assert set(places[len(real) :]) <= {real[-1]} and set(kept[len(real) :]) <= {len(plan.ids)}
            assert len(real) >= (1 - BUCKET_SLACK) * bucket.length
            seen += real
    assert sorted(seen) == [i for i, token in enumerate(plan.ids.tolist()) if token]


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_scored_tokens_predict_their_successors(lengths):
    table, plan = laid_out(lengths)
    # Ids count up through the table, so the successor of a token is the token plus one.
    assert (plan.asked.pick(plan.ids)[plan.scored] + 1 == plan.targets).all()
    assert len(set(plan.scored.tolist())) == len(plan.scored)
    slots = len(plan.asked.source) // plan.adapters
    assert slots * plan.adapters <= len(plan.ids)
    assert (plan.scored // slots == plan.owner).all()
    answers = [len(table.answer(i)) for i in range(len(table))]
    cut = np.cumsum([0, *[len(own) for own in lengths]])
    assert plan.counts.tolist() == [sum(answers[a:b]) for a, b in pairwise(cut)]


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_scored_tokens_go_back_where_they_came_from_and_nothing_else_does(lengths):
    _, plan = laid_out(lengths)
    picked = plan.asked.pick(plan.ids.unsqueeze(1))
    padding = torch.ones(len(picked), dtype=torch.bool)
    padding[plan.scored] = False
    picked[padding] = -1
    back = plan.asked.put_back(picked, len(plan.ids)).squeeze(1)
    scored = torch.isin(plan.ids + 1, plan.targets) & (plan.ids > 0)
    assert torch.equal(back, torch.where(scored, plan.ids, 0))


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_positions_count_from_each_rows_start(lengths):
    _, plan = laid_out(lengths)
    per_adapter = len(plan.ids) // plan.adapters
    for adapter, own in enumerate(lengths):
        steps = np.concatenate([np.arange(n) for n in own])
        angle = torch.from_numpy(steps)[:, None].float() * torch.cat((FREQUENCIES, FREQUENCIES))
        begin = adapter * per_adapter
        torch.testing.assert_close(plan.cos[begin : begin + len(steps), 0], angle.cos())
        torch.testing.assert_close(plan.sin[begin : begin + len(steps), 0], angle.sin())
