"""Packed scoring against plain generation and separate forward passes."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from dfl_ray.evaluation.eval_batches import EvalBatchCache
from dfl_ray.evaluation.scorer import Adapter, Scorer, _cuts
from dfl_ray.lora.inject import Binding
from dfl_ray.lora.layout import Layout
from dfl_ray.tasks.tokens import TokenTask

RANK = 4


def choice_task(task):
    """The exact-match task with its labels as a closed set, one label two tokens longer than the others."""
    answers = sorted({tuple(task.test.answer(i).tolist()) for i in range(len(task.test))})
    labels = np.array([answers.index(tuple(task.test.answer(i).tolist())) for i in range(len(task.test))])
    choices = [np.array(a) for a in answers]
    choices[0] = np.concatenate([choices[0][:-1], choices[1]])
    return TokenTask(task.name, task.train, task.test, tuple(choices), labels.astype(np.int32), task.chance)


def strong_adapter(adapted, seed):
    layout = Layout(adapted.layers, RANK, ("b",))
    theta = adapted.theta(layout, 1, seed) * 4
    a = [x[0] for x in adapted.static_a(1, RANK)]
    return Adapter(a, [v[0] for v in layout.views(theta, "b")])


def bound(adapter):
    return Binding([x[None] for x in adapter.a], [x[None] for x in adapter.b], None, 2.0)


def forward(adapted, adapter, ids):
    adapted.model.cell.current = bound(adapter)
    try:
        with torch.no_grad():
            return adapted.model.model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0]
    finally:
        adapted.model.cell.current = None


def test_exact_match_equals_greedy_generation(adapted, token_tasks):
    scorer = Scorer(adapted.model, token_tasks, scale=2.0, seed=0, rows_per_task=None)
    adapters = {k: strong_adapter(adapted, k) for k in range(3)}
    asked = {t: np.ones(30, bool) for t in range(2)}
    found = scorer.score({k: asked for k in adapters}, adapters.__getitem__)
    base = scorer.score({"base": asked}, lambda _: None)["base"]
    assert not base[0].any()
    seen = 0
    for k, adapter in adapters.items():
        for t, task in enumerate(token_tasks):
            for i in range(0, 30, 7):
                ids = task.test.prompt(i).tolist()
                answer = task.test.answer(i).tolist()
                for _ in answer:
                    ids.append(int(forward(adapted, adapter, ids)[-1].argmax()))
                right = ids[-len(answer) :] == answer
                seen += right
                assert bool(found[k][t][i]) == right


def test_greedy_hits_are_scored_right(adapted, token_tasks):
    """Rows whose answer is what the adapted model generates must all count as right."""
    adapter = strong_adapter(adapted, 5)
    task = token_tasks[0]
    wrong, right = task.test, 0
    ids = [wrong.prompt(i).tolist() for i in range(6)]
    from dfl_ray.tasks.tokens import TokenRows

    rows = []
    for prompt in ids:
        full = list(prompt)
        for _ in range(2):
            full.append(int(forward(adapted, adapter, full)[-1].argmax()))
        rows.append(full)
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    table = TokenRows(
        np.concatenate(rows).astype(np.int32), offsets, np.array([len(p) for p in ids], np.int32)
    )
    own = TokenTask("own", table, table, None, None, 0.0)
    scorer = Scorer(adapted.model, [own], scale=2.0, seed=0, rows_per_task=None)
    right = scorer.score({"k": {0: np.ones(6, bool)}}, lambda _: adapter)["k"][0]
    assert right.all()


def test_choice_equals_separate_rows(adapted, token_tasks):
    tasks = [choice_task(t) for t in token_tasks]
    scorer = Scorer(adapted.model, tasks, scale=2.0, seed=0, rows_per_task=None)
    adapter = strong_adapter(adapted, 1)
    found = scorer.score({"k": {t: np.ones(30, bool) for t in range(2)}}, lambda _: adapter)["k"]
    for t, task in enumerate(tasks):
        for i in range(30):
            prompt = task.test.prompt(i).tolist()
            sums = []
            for choice in task.choices:
                logits = forward(adapted, adapter, prompt + choice[:-1].tolist()).double()
                at = range(len(prompt) - 1, len(prompt) - 1 + len(choice))
                logp = torch.log_softmax(logits, 1)
                sums.append(sum(float(logp[p, c]) for p, c in zip(at, choice.tolist(), strict=True)))
            assert bool(found[t][i]) == (int(np.argmax(sums)) == int(task.labels[i]))


def test_unpacked_choices_give_the_same(adapted, token_tasks, monkeypatch):
    task = choice_task(token_tasks[0])
    scorer = Scorer(adapted.model, [task], scale=2.0, seed=0, rows_per_task=None)
    assert len(scorer.packs[0][0]) == 1
    adapter = strong_adapter(adapted, 1)
    asked = {"k": {0: np.ones(30, bool)}}
    packed = scorer.score(asked, lambda _: adapter)["k"][0]
    monkeypatch.setattr("dfl_ray.evaluation.scorer.takes_block_masks", lambda *_: False)
    apart = Scorer(adapted.model, [task], scale=2.0, seed=0, rows_per_task=None)
    assert len(apart.packs[0][0]) == len(task.choices)
    np.testing.assert_array_equal(apart.score(asked, lambda _: adapter)["k"][0], packed)


def test_adapters_scored_together_are_scored_as_alone(adapted, token_tasks, monkeypatch):
    """Many adapters a pass, small passes and the unmerged way agree, rows of all lengths and both kinds of task."""
    tasks = [token_tasks[0], choice_task(token_tasks[1])]
    adapters = {k: strong_adapter(adapted, k) for k in range(4)}
    rng = np.random.default_rng(0)
    asked = {k: {t: rng.random(30) < 0.7 for t in range(2)} for k in adapters}
    asked[2][1][:] = False
    asked[3] = {t: np.zeros(30, bool) for t in range(2)}

    def found():
        scorer = Scorer(adapted.model, tasks, scale=2.0, seed=0, rows_per_task=None)
        first = scorer.score(asked, adapters.__getitem__)
        again = scorer.score(asked, adapters.__getitem__)
        for k in adapters:
            for t in range(2):
                np.testing.assert_array_equal(first[k][t], again[k][t])
        return first

    together = found()
    monkeypatch.setattr("dfl_ray.evaluation.scorer.PASS_TOKENS", 100)
    small = found()
    monkeypatch.setattr("dfl_ray.engines.training.ScoredModel.most_adapters", 0)
    plain = found()
    for other in (small, plain):
        for k in adapters:
            for t in range(2):
                np.testing.assert_array_equal(other[k][t], together[k][t])
                assert not together[k][t][~asked[k][t]].any()


def test_a_pass_is_cut_into_even_parts():
    assert _cuts(np.array([1, 1, 1, 1]), 10) == [0, 4]
    assert _cuts(np.array([3, 3, 3, 3]), 6) == [0, 2, 4]
    assert _cuts(np.array([50, 3, 3]), 10) == [0, 1, 3]
    rng = np.random.default_rng(1)
    for _ in range(50):
        cost = rng.integers(1, 9, rng.integers(1, 60))
        cuts = _cuts(cost, 20)
        assert cuts[0] == 0 and cuts[-1] == len(cost) and (np.diff(cuts) > 0).all()
        assert all(cost[i:j].sum() <= 20 for i, j in itertools.pairwise(cuts))


def test_kept_portions_stay_within_their_memory(monkeypatch):
    class Sized:
        bytes = 40

    monkeypatch.setattr("dfl_ray.evaluation.eval_batches.KEPT_BYTES", 100)
    kept, made = EvalBatchCache(), []
    for key in ("a", "b", "a", "c", "a", "b"):
        kept.get((key,), lambda key=key: made.append(key) or Sized())
    assert made == ["a", "b", "c", "b"]


def test_only_asked_rows_are_scored(adapted, token_tasks):
    scorer = Scorer(adapted.model, token_tasks, scale=2.0, seed=0, rows_per_task=8)
    assert [len(r) for r in scorer.rows] == [8, 8]
    out = scorer.score({"k": {1: np.arange(8) % 2 == 0}}, lambda _: None)
    assert set(out["k"]) == {1}
    assert not out["k"][1][1::2].any()
