"""Free answers: generation against step-by-step decoding by transformers, text scores by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dfl_ray.evaluation.free_answers import generate
from dfl_ray.evaluation.scorer import Adapter, Scorer
from dfl_ray.evaluation.text_scores import match, rouge_l, token_f1
from dfl_ray.lora.inject import Binding
from dfl_ray.lora.layout import Layout
from dfl_ray.models.paths import embedded_path
from dfl_ray.models.tokenizer import load_tokenizer
from dfl_ray.tasks.synthetic import make_tasks
from dfl_ray.tasks.tokens import tokenize_task

RANK = 4


def adapter_of(adapted, seed, gate=None):
    layout = Layout(adapted.layers, RANK, ("b",))
    theta = adapted.theta(layout, 1, seed) * 4
    return Adapter([x[0] for x in adapted.static_a(1, RANK)], [v[0] for v in layout.views(theta, "b")], gate)


def step_by_step(adapted, adapter, prompt, end, most):
    ids = prompt.tolist()
    adapted.model.cell.current = Binding(
        [x[None] for x in adapter.a], [x[None] for x in adapter.b], None, 2.0
    )
    try:
        for _ in range(most):
            with torch.no_grad():
                ids.append(
                    int(
                        adapted.model.model(input_ids=torch.tensor(ids)[None], use_cache=False)
                        .logits[0, -1]
                        .argmax()
                    )
                )
            if ids[-len(end) :] == list(end):
                return ids[len(prompt) : -len(end)]
    finally:
        adapted.model.cell.current = None
    return ids[len(prompt) :]


def test_generation_equals_decoding_step_by_step(adapted, token_tasks):
    task = token_tasks[0]
    adapter = adapter_of(adapted, 2)
    prompts = [task.test.prompt(i) for i in range(6)]
    free = step_by_step(adapted, adapter, prompts[0], (10**6,), 6)
    end = (free[2],)  # a token that does come, so that rows end at different places
    binding = Binding([x[None] for x in adapter.a], [x[None] for x in adapter.b], None, 2.0)
    found = generate(adapted.model, prompts, lambda _: binding, end=end, most=6)
    assert found == [step_by_step(adapted, adapter, p, end, 6) for p in prompts]
    assert len({len(ids) for ids in found}) > 1


@pytest.mark.parametrize("gated", [False, True])
def test_the_scorer_scores_generated_texts(adapted, gated):
    """What the model generates as the right answer has score 1, another text 0, a row not asked 0."""
    tokenizer = load_tokenizer(embedded_path())
    (made,) = make_tasks(("topic",), seed=0, train_rows=10, test_rows=5)
    plain = tokenize_task(made, tokenizer, max_tokens=64, score="f1", max_new_tokens=4)
    assert plain.chance is None
    asked: list[list[tuple[int, int]]] = []

    def gate(pairs):
        asked.append(list(pairs))
        return lambda _layer, _x, z: z

    adapter = adapter_of(adapted, 1)
    prompts = [plain.test.prompt(i) for i in range(5)]
    said = [step_by_step(adapted, adapter, p, plain.free.end, 4) for p in prompts]
    texts = [tokenizer.backend.decode(ids).strip() for ids in said]
    assert texts[0]
    texts[3] = "another"
    scorer = Scorer(
        adapted.model,
        [replace(plain, free=replace(plain.free, right=tuple(texts)))],
        scale=2.0,
        seed=0,
        rows_per_task=None,
    )
    rows = np.array([True, False, True, True, False])
    used = replace(adapter, gate=gate) if gated else adapter
    found = scorer.score({"k": {0: rows}}, lambda _: used)["k"][0]
    np.testing.assert_array_equal(found, [1.0, 0.0, 1.0, 0.0, 0.0])
    if gated:
        assert [i for _, i in asked[0]] == [0, 2, 3]


def test_text_scores_by_hand():
    assert match("The Cat!", "a cat") == 1.0 and match("cats", "cat") == 0.0
    assert token_f1("the red cat sat", "red cat") == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert (
        token_f1("", "") == 1.0
        and token_f1("", "x") == 0.0
        and token_f1("a b b", "b") == pytest.approx(2 / 3)
    )
    # "police killed the gunman" and "police kill the gunman" have the subsequence police the gunman (Lin 2004).
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(0.5)
    assert rouge_l("...", "x") == 0.0
