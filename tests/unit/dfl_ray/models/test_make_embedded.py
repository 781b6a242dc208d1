"""Pre-training text tells the truth; making the model is repeatable and leaves global randomness alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dfl_ray.models.make_embedded import Recipe, make_tokenizer, pretrain
from dfl_ray.models.paths import embedded_path
from dfl_ray.tasks.synthetic import words as w
from dfl_ray.tasks.synthetic.language import document, repetition
from dfl_ray.tasks.synthetic.segments import Draws

TINY = replace(Recipe(), layers=1, steps=3, batch=4, hidden_size=32, intermediate_size=32, heads=2)


def _draws(seed):
    return Draws(np.random.default_rng(seed))


def _questions(text):
    """(question, answer) of a document, the text in front of the first arrow apart."""
    first = text.index(w.ARROW)
    rest = " ".join(text[first:]).split(w.ARROW)[1:]
    return text[:first], [(q.split()[:-2], q.split()[-2]) for q in rest]


def test_documents_answer_truly():
    seen = set()
    for seed in range(300):
        text, flags = document(_draws(seed), segments=7, filler_share=0.2, max_questions=9)
        assert len(text) == len(flags)
        facts, questions = _questions(text)
        digits = [x for x in facts if x in w.DIGITS]
        letters = [x for x in facts if x in w.ANSWERS]
        values = [w.NUMBERS.index(x) for x in facts if x in w.NUMBERS]
        asked = facts[facts.index("of") + 1]
        colour = {
            facts[i]: facts[i + 1]
            for i in range(len(facts) - 1)
            if facts[i] in w.ANIMALS and facts[i + 1] in w.COLOURS
        }
        truth = {
            "top": max(digits), "least": min(digits), "start": digits[0], 
            "head": letters[0], "tail": letters[-1],
            "crown": w.NUMBERS[int(max(digits))], "end": w.NUMBERS[int(digits[-1])], "beast": asked,
            "total": w.NUMBERS[sum(values) % 6], "summa": str(sum(values) % 6),
            "parity": ("even", "odd")[sum(values) % 2], "hue": colour[asked],
            "tint": w.TINTS[w.COLOURS.index(colour[asked])],
        }  # fmt: skip
        for question, answer in questions:
            seen.add(question[0])
            if question[0] in truth:
                assert truth[question[0]] == answer, (question, text)
            if question[0] == "of":
                assert colour[question[1]] == answer
            if question[0] == "dye":
                assert w.TINTS[w.COLOURS.index(colour[question[1]])] == answer
        assert [text[i] for i, flag in enumerate(flags) if flag][-len(questions) :] == [
            a for _, a in questions
        ]
    assert seen == {*w.QUESTIONS, "of", "dye"}


def test_text_never_pairs_a_bare_arrow_with_the_answer_alphabet():
    for seed in range(200):
        text, _ = document(_draws(seed), segments=5, filler_share=0.2, max_questions=6)
        follows = {text[i + 1] for i, x in enumerate(text) if x == w.ARROW}
        assert not follows & set(w.ANSWERS)


def test_repetition_repeats():
    text, flags = repetition(_draws(1))
    half = len(text) // 2
    assert text[:half] == text[half:] and flags == [False] * (half + 1) + [True] * (half - 1)


def test_making_is_repeatable_and_leaves_global_generators_alone():
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, _ = pretrain(TINY, 0)
    again, _ = pretrain(TINY, 0)
    other, _ = pretrain(TINY, 1)
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    for (name, x), y, z in zip(
        first.state_dict().items(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(x, y)
        assert x.dim() == 1 or not torch.equal(x, z), name


def test_saved_folder_loads(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = pretrain(TINY, 0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(x, y) for x, y in zip(model.parameters(), loaded.parameters(), strict=True))
    text = "once fox red of fox =>"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == make_tokenizer()(text)["input_ids"]


def test_missing_model_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr("dfl_ray.models.paths.files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="make_embedded"):
        embedded_path()
