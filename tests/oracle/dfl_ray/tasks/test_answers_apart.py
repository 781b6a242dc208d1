"""Prompts and answers as tokens: nothing of a prompt may depend on its answer; scores against transformers alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dfl_ray.errors import InputError
from dfl_ray.evaluation.scorer import Scorer
from dfl_ray.models.base import load_base
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.encoding import TextEncoder
from dfl_ray.tasks.labels import label_set
from dfl_ray.tasks.tokens import tokenize_task
from tests.conftest import Adapted

LETTERS = [chr(c) for c in range(32, 127)]
SPANNING = [(" ", "h"), (":", " h"), ("t", "a"), ("s", " "), ("s ", "ta")]
"""Merges across the blank: `: h` before heads only, and `s ta` behind words that end in s."""


def spanning(*, end: str | None = "</s>", newline: bool = True) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer without pre-tokenisation, so that tokens span blanks; no token spans tails' blank."""
    tokens = ["<s>", "</s>", *LETTERS, *(["\n"] if newline else []), *(a + b for a, b in SPANNING)]
    model = models.BPE({t: i for i, t in enumerate(tokens)}, SPANNING)
    made = Tokenizer(model)
    made.decoder = decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token=end)


def words(*known: str, end: str | None = "</s>") -> PreTrainedTokenizerFast:
    """A word-level tokenizer, which knows neither line breaks nor other words."""
    vocabulary = {t: i for i, t in enumerate(("<s>", "</s>", "<unk>", "Say", ":", *known))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token=end, unk_token="<unk>")


def task_of(answers: list[str], prompts: list[str] | None = None) -> Task:
    prompts = [f"Toss {i}:" for i in range(len(answers))] if prompts is None else prompts
    rows = tuple(Row(p, a) for p, a in zip(prompts, answers, strict=True))
    found = label_set(rows, 32)
    return Task("coin", rows, rows, found.labels, found.labels, found.why)


def coins(count: int = 24) -> list[str]:
    return ["heads" if x else "tails" for x in np.random.default_rng(3).integers(0, 2, count)]


def swapped(answers: list[str]) -> list[str]:
    return ["tails" if a == "heads" else "heads" for a in answers]


def test_the_score_moves_the_cut_of_what_is_asked_and_not_of_what_is_trained_on() -> None:
    task = task_of(["no", "heads or tails"] * 4, [f"Say {'so ' * n}:" for n in range(8)])
    scores = ("auto", "choice", "exact_match", "generated_match")
    made = {
        score: tokenize_task(task, spanning(), max_tokens=24, score=score, max_new_tokens=4)
        for score in scores
    }
    assert len({one.uncut for one in made.values()}) == 1
    assert len({tuple(one.train.ids.tolist()) for one in made.values()}) == 1
    assert len({tuple(one.test.ids.tolist()) for one in made.values()}) == 2
    other = tokenize_task(task_of(["no", "heads or tails"] * 4), spanning(), max_tokens=24)
    assert other.uncut != made["auto"].uncut


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapted, Any]:
    """A random GPT-2 as the project holds it, and the same by transformers alone."""
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(GPT2Config(vocab_size=112, n_positions=64, n_embd=16, n_layer=2, n_head=2)).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(8.0)
    folder = tmp_path_factory.mktemp("gpt2")
    plain.save_pretrained(folder)
    return Adapted(load_base(folder)), plain


def log_likelihood(plain: Any, prompt: list[int], answer: list[int]) -> float:
    ids = torch.tensor([*prompt, *answer])[None]
    with torch.no_grad():
        logs = torch.log_softmax(plain(ids).logits[0].double(), dim=-1)
    return sum(float(logs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


def right(adapted: Adapted, task: Task, tokenizer: Any) -> np.ndarray:
    tokens = tokenize_task(task, tokenizer, max_tokens=64)
    scorer = Scorer(adapted.model, [tokens], scale=1.0, seed=0, rows_per_task=None)
    return scorer.score({"k": {0: np.ones(len(task.test), bool)}}, lambda _: None)["k"][0]


def test_the_tokens_of_this_tokenizer_span_the_blank() -> None:
    tokenizer = spanning()
    assert "Ġ" not in tokenizer.tokenize("Toss: heads") and ": h" in tokenizer.tokenize("Toss: heads")
    assert ": " not in tokenizer.tokenize("Toss: tails")


def test_a_prompt_is_the_same_whatever_its_answer() -> None:
    answers, tokenizer = coins(), spanning()
    one = tokenize_task(task_of(answers), tokenizer, max_tokens=64)
    other = tokenize_task(task_of(swapped(answers)), tokenizer, max_tokens=64)
    for split in ("train", "test"):
        a, b = getattr(one, split), getattr(other, split)
        for i in range(len(answers)):
            assert a.prompt(i).tolist() == b.prompt(i).tolist() == tokenizer(f"Toss {i}:")["input_ids"]


def test_nothing_of_the_text_is_lost_and_answers_have_their_tokens_everywhere() -> None:
    answers = ["heads", "tails", "tails", "heads"]
    prompts = ["Toss 1:", "Toss 2", "Toss it as", "Toss 4\n"]
    tokenizer = spanning()
    tokens = tokenize_task(task_of(answers, prompts), tokenizer, max_tokens=64)
    assert tokens.choices is not None and tokens.labels is not None
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        assert tokenizer.decode(tokens.test.row(i)[1:-1]) == f"{prompt} {answer}"
        assert tokens.test.answer(i).tolist() == tokens.choices[tokens.labels[i]].tolist()
        assert tokens.test.answer(i)[-1] == tokenizer.eos_token_id


def test_coins_score_at_chance(model: tuple[Adapted, Any]) -> None:
    """With every right answer swapped, each prediction stays and each verdict turns: no look at the answer."""
    answers = coins()
    once = right(model[0], task_of(answers), spanning())
    turned = right(model[0], task_of(swapped(answers)), spanning())
    assert (once != turned).all()


@pytest.mark.parametrize("end", ["</s>", None])
def test_label_likelihood_equals_transformers(model: tuple[Adapted, Any], end: str | None) -> None:
    tokenizer, (adapted, plain) = spanning(end=end), model
    labels = ["heads", "tails", "heads or tails", "he"]
    task = task_of([labels[i % 4] for i in range(24)])
    last = [1] if end else [tokenizer.convert_tokens_to_ids("\n")]
    behind = {x: [tokenizer.convert_tokens_to_ids(" "), *_letters(tokenizer, x), *last] for x in labels}
    behind |= {
        x: [tokenizer.convert_tokens_to_ids(" h"), *_letters(tokenizer, x[1:]), *last]
        for x in labels
        if x[0] == "h"
    }
    found = right(adapted, task, tokenizer)
    for i, row in enumerate(task.test):
        prompt = tokenizer(row.prompt)["input_ids"]
        scores = {x: log_likelihood(plain, prompt, ids) for x, ids in behind.items()}
        assert found[i] == (max(scores, key=lambda x: scores[x]) == row.answer)


def _letters(tokenizer: Any, text: str) -> list[int]:
    """Tokens of text without leading blank, by the merges of `SPANNING`: only `ta` and `s ` apply inside a label."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_label_that_begins_with_another_can_win(model: tuple[Adapted, Any]) -> None:
    """Without an end of its own, the shorter of two labels would always be likelier; the line break ends both."""
    tokenizer, plain = spanning(end=None), model[1]
    encoder = TextEncoder(tokenizer)
    assert encoder.end == (tokenizer.convert_tokens_to_ids("\n"),)
    found = encoder.answers(["he", "heads or tails"])
    short, long = ([*found[x], *encoder.end] for x in ("he", "heads or tails"))
    prompt = tokenizer("Toss:")["input_ids"]
    assert log_likelihood(plain, prompt, long[:-1]) < log_likelihood(plain, prompt, short[:-1])
    assert long[: len(short)] != short
    tokens = tokenize_task(task_of(["he", "heads or tails"] * 4), tokenizer, max_tokens=64)
    assert [c.tolist() for c in tokens.choices or ()] == [short, long]
    assert any("a line break ends an answer" in note for note in tokens.notes)


def test_where_nothing_ends_an_answer_such_labels_are_refused() -> None:
    tokenizer = words("no", "way", end=None)
    assert TextEncoder(tokenizer).end == ()
    with pytest.raises(InputError, match="`no way` begins with the label `no`"):
        tokenize_task(task_of(["no", "no way"] * 3, ["Say :"] * 6), tokenizer, max_tokens=16)


def test_labels_of_the_same_tokens_are_refused_by_name() -> None:
    tokenizer = words("yes")
    with pytest.raises(InputError, match=r"labels `ja`, `nein` apart.*\[2\] \(2 is the unknown token\)"):
        tokenize_task(
            task_of(["ja", "nein", "yes", "yes", "yes", "yes"] * 2, ["Say :"] * 12), tokenizer, max_tokens=16
        )
    with pytest.raises(InputError, match=r"labels `ja`, `nein` apart"):
        tokenize_task(task_of(["ja", "nein"] * 4, ["Say :"] * 8), tokenizer, max_tokens=16)  # all are unknown
    lower = words("yes", "no")
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(InputError, match=r"labels `YES`, `yes` apart.*\[5\]"):
        tokenize_task(task_of(["YES", "yes", "no"] * 3, [":"] * 9), lower, max_tokens=16)


def test_text_that_cannot_be_read_is_counted_and_above_half_refused() -> None:
    answers = ["yes", "no"] * 4
    some = tokenize_task(task_of(answers, ["Say : please"] * 8), words("yes", "no"), max_tokens=16)
    assert "task coin, prompts: 16 of 48 tokens are the unknown token" in some.notes
    with pytest.raises(InputError, match=r"cannot read the prompts\. Got: 48 of 64 tokens"):
        tokenize_task(task_of(answers, ["Bitte sag es :"] * 8), words("yes", "no"), max_tokens=16)
    with pytest.raises(InputError, match="cannot read the answers"):
        tokenize_task(
            task_of(["12", "34", "56"] * 3, ["Say :"] * 9), words(), max_tokens=16, score="exact_match"
        )


def test_letters_that_give_no_token_are_counted() -> None:
    tokens = tokenize_task(task_of(["yes", "no"] * 2, ["Gr\u00fc\u00dfe :"] * 4), spanning(), max_tokens=32)
    # Seven letters without the blank, two of them unknown to the vocabulary, in eight rows.
    assert "task coin, prompts: 16 of 48 characters give no token" in tokens.notes


def test_the_cut_of_a_long_prompt_does_not_show_the_answer() -> None:
    answers = ["heads", "a much longer label"] * 2
    long = task_of(answers, ["Toss it " * 9 + str(i) for i in range(4)])
    tokens = tokenize_task(long, spanning(), max_tokens=40)
    assert len({len(tokens.test.prompt(i)) for i in range(4)}) == 1
    assert all(tokens.test.prompt(i)[0] == 0 for i in range(4))
    assert tokens.test.lengths.max() == 40
    assert "at most 40 tokens: 4 of 4 training rows, 4 of 4 test rows" in tokens.notes[0]


def test_one_label_scores_as_it_must(model: tuple[Adapted, Any]) -> None:
    """A single label is always the likeliest: 100 %, as its chance level says."""
    task = task_of(["heads"] * 6)
    assert task.choices == ("heads",) and task.chance == 1.0
    assert right(model[0], task, spanning()).all()


def test_a_likelihood_that_is_no_number_is_wrong() -> None:
    from dfl_ray.evaluation.eval_batches import AnswerKey

    key = AnswerKey(
        np.array([0, 1, 2, 3]),
        np.array([0, 0, 1, 1]),
        np.array([0, 1, 0, 1]),
        np.array([0, 0]),
        np.array([False] * 2),
    )
    assert key.right(np.array([np.nan, -1.0, -1.0, -2.0]), None).tolist() == [False, True]


def test_the_tokenizer_read_without_transformers_knows_its_unknown_token() -> None:
    from dfl_ray.models.paths import embedded_path
    from dfl_ray.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(embedded_path())
    assert tokenizer.unk_token_id == 3
    assert tokenizer(["antidisestablishment"], add_special_tokens=False)["input_ids"] == [[3]]
    with pytest.raises(InputError, match="cannot read the prompts"):
        tokenize_task(task_of(["yes", "no"] * 3, ["Bitte sag es"] * 6), tokenizer, max_tokens=16)
