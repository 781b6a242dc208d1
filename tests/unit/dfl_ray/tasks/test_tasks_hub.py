"""Hub tasks: the ready templates on records after the datasets' cards, own templates on local folders."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from dfl_ray.config.schema import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.tasks.data import Row
from dfl_ray.tasks.hub import load_hub_tasks, own_template, template_of
from dfl_ray.tasks.ready import READY

ARC = {
    "question": "Which is a gas?",
    "choices": {"text": ["Iron", "Neon"], "label": ["A", "B"]},
    "answerKey": "B",
}
RECORDS: dict[str, tuple[dict[str, Any], Row]] = {
    "gsm8k": (
        {"question": "2 and 3?", "answer": "Add them: <<2+3=5>>5.\n#### 1,005"},
        Row("Question: 2 and 3?\nAnswer:", "1005"),
    ),
    "boolq": (
        {"question": "is neon a gas", "passage": "Neon is a gas.", "answer": True},
        Row("Passage: Neon is a gas.\nQuestion: is neon a gas?\nYes or no:", "yes"),
    ),
    "sst2": ({"sentence": "a joy ", "label": 1}, Row("Review: a joy\nSentiment:", "positive")),
    "ag_news": ({"text": "A match.", "label": 1}, Row("News: A match.\nTopic:", "Sports")),
    "arc_easy": (ARC, Row("Question: Which is a gas?\nA. Iron\nB. Neon\nAnswer:", "B")),
    "arc_challenge": (
        {**ARC, "choices": {"text": ["Iron", "Neon"], "label": ["1", "2"]}, "answerKey": "2"},
        Row("Question: Which is a gas?\nA. Iron\nB. Neon\nAnswer:", "B"),
    ),
    "cola": (
        {"sentence": "Mary is fond him.", "label": 0},
        Row("Sentence: Mary is fond him.\nGrammar:", "unacceptable"),
    ),
    "mrpc": (
        {"sentence1": "A sat.", "sentence2": "It sat.", "label": 1},
        Row("First: A sat.\nSecond: It sat.\nMeaning:", "equivalent"),
    ),
    "qqp": (
        {"question1": "Why?", "question2": "How?", "label": 0},
        Row("First: Why?\nSecond: How?\nQuestions:", "different"),
    ),
    "mnli": (
        {"premise": "A dog runs.", "hypothesis": "It sleeps.", "label": 2},
        Row("Premise: A dog runs.\nHypothesis: It sleeps.\nRelation:", "contradiction"),
    ),
    "qnli": (
        {"question": "Who?", "sentence": "Ann did.", "label": 0},
        Row("Question: Who?\nText: Ann did.\nDoes the text answer it?", "yes"),
    ),
    "rte": (
        {"sentence1": "A dog runs.", "sentence2": "A cat runs.", "label": 1},
        Row("Text: A dog runs.\nClaim: A cat runs.\nDoes the claim follow?", "no"),
    ),
    "alpaca_gpt4": (
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
        Row("Add.\n\n2 and 3", "5"),
    ),
    "code_alpaca": (
        {"instruction": "Print 1.", "input": "", "output": "print(1)"},
        Row("Print 1.", "print(1)"),
    ),
    "medical_flashcards": (
        {"input": "What is it?", "output": "A bone."},
        Row("What is it?\nAnswer:", "A bone."),
    ),
    "finance_sentiment": (
        {"instruction": "Which sentiment?", "input": "Shares rose.", "output": "positive"},
        Row("Which sentiment?\nShares rose.\nAnswer:", "positive"),
    ),
    "piqa": (
        {"goal": "Cool soup.", "sol1": "Blow on it.", "sol2": "Boil it.", "label": 0},
        Row("Goal: Cool soup.\nA. Blow on it.\nB. Boil it.\nBetter way:", "A"),
    ),
    "hellaswag": (
        {"ctx": "A man sits. He", "endings": ["flies.", "eats.", "is blue.", "rains."], "label": "1"},
        Row("Text: A man sits. He\nA. flies.\nB. eats.\nC. is blue.\nD. rains.\nBest ending:", "B"),
    ),
    "humaneval": (
        {
            "prompt": "\ndef f(x):\n    # Add one.\n",
            "canonical_solution": "    if x:\n        return x + 1\n    return 1\n",
        },
        Row("def f(x):\n    # Add one.\nBody of the function:", "if x:\n    return x + 1\nreturn 1"),
    ),
    "mbpp": (
        {
            "text": "Add one.",
            "code": "def f(x):\r\n    return x + 1\r\n",
            "test_list": ["assert f(1) == 2", "b"],
        },
        Row("Add one.\nTest: assert f(1) == 2\nCode:", "def f(x):\n    return x + 1"),
    ),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir(parents=True)
    for split, part in (("train", rows[: len(rows) // 2]), ("test", rows[len(rows) // 2 :])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")
    return str(folder)


def config(folder: str, **keys: Any) -> TasksConfig:
    template = {"dataset": folder, "prompt": "{text} ->", "answer": "{label}"}
    options = {
        k: keys.pop(k) for k in ("labels", "prompt", "answer", "train_split", "test_split") if k in keys
    }
    return TasksConfig(source="hub", templates={"own": {**template, **options}}, **keys)


def test_every_ready_template_has_an_example_here() -> None:
    assert set(RECORDS) == set(READY)


@pytest.mark.parametrize("name", RECORDS)
def test_a_ready_template_makes_this_row(name: str) -> None:
    record, row = RECORDS[name]
    assert READY[name].row(record) == row
    assert set(READY[name].fields) == set(record)


SECOND: dict[str, tuple[dict[str, Any], Row]] = {
    "piqa": (
        {"goal": " Dry a shirt", "sol1": "Wet it", "sol2": "Hang it up ", "label": 1},
        Row("Goal: Dry a shirt\nA. Wet it\nB. Hang it up\nBetter way:", "B"),
    ),
    "hellaswag": (
        {"ctx": "Rain falls. She", "endings": ["melts.", "sings red.", "is two.", "runs in."], "label": "3"},
        Row("Text: Rain falls. She\nA. melts.\nB. sings red.\nC. is two.\nD. runs in.\nBest ending:", "D"),
    ),
    "humaneval": (
        {
            "prompt": "import math\n\n\ndef g(x: list) -> int:\n    # Sum.\n",
            "canonical_solution": "    return sum(x)\n",
        },
        Row("import math\n\n\ndef g(x: list) -> int:\n    # Sum.\nBody of the function:", "return sum(x)"),
    ),
    "mbpp": (
        {"text": " Double it. ", "code": "def d(x):\n\treturn 2*x", "test_list": ["assert d(2) == 4"]},
        Row("Double it.\nTest: assert d(2) == 4\nCode:", "def d(x):\n\treturn 2*x"),
    ),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_record_of_the_papers_tasks(name: str) -> None:
    record, row = SECOND[name]
    assert READY[name].row(record) == row


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gsm8k", {"answer": "no number"}),
        ("boolq", {"answer": "yes"}),
        ("sst2", {"label": -1}),
        ("ag_news", {"label": 4}),
        ("arc_easy", {"answerKey": "Z"}),
        ("mbpp", {"test_list": []}),
        ("piqa", {"label": -1}),
        ("hellaswag", {"label": ""}),
        ("hellaswag", {"endings": ["one."]}),
    ],
)
def test_a_record_that_does_not_fit_is_a_bad_row(name: str, change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, IndexError)):
        READY[name].row({**RECORDS[name][0], **change})


def test_a_local_folder_with_named_labels(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 2, "more": 1} for n in range(12)]
    loaded = load_hub_tasks(config(write(tmp_path / "data", rows), labels=("no", "yes")))
    (task,) = loaded.tasks
    assert (task.name, len(task.train), len(task.test), task.choices) == ("own", 6, 6, ("no", "yes"))
    assert task.train[1] == Row("text 1 ->", "yes")


def test_labels_name_the_numbers_of_the_answer_alone(tmp_path: Path) -> None:
    rows = [{"idx": n, "text": f"text {n}", "label": n % 2} for n in range(12)]
    folder = write(tmp_path / "data", rows)
    keys = {"labels": ("no", "yes"), "prompt": "{idx}: {text} ->"}
    (task,) = load_hub_tasks(config(folder, **keys)).tasks
    assert task.train[5] == Row("5: text 5 ->", "yes") and len(task.train) == 6


@pytest.mark.parametrize("form", [float, str, bool, lambda n: f" {n} ", lambda n: ("no", "yes")[n]])
def test_labels_are_named_by_whole_numbers_of_any_type_and_by_themselves(tmp_path: Path, form: Any) -> None:
    rows = [{"text": f"text {n}", "label": form(n % 2)} for n in range(12)]
    (task,) = load_hub_tasks(config(write(tmp_path / "data", rows), labels=("no", "yes"))).tasks
    assert [row.answer for row in task.train] == ["no", "yes"] * 3 and task.choices == ("no", "yes")


def test_free_text_beside_a_numbered_label_stays(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": float(n % 2), "why": "7"} for n in range(12)]
    keys = {"labels": ("no", "yes"), "answer": "{label}: {why}"}
    (task,) = load_hub_tasks(config(write(tmp_path / "data", rows), **keys)).tasks
    assert task.train[1].answer == "yes: 7"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("label", 0.5, "field `label` is 0.5, neither a number of 0 to 1 nor one of `labels`"),
        ("label", 2.0, "label 2 is not one of 0 to 1"),
        ("label", math.nan, "field `label` is empty"),
        ("weight", math.nan, "field `weight` is empty"),
    ],
)
def test_numbers_that_stand_for_nothing_are_bad_rows(
    tmp_path: Path, column: str, value: float, said: str
) -> None:
    rows: list[dict[str, Any]] = [
        {"text": f"text {n}", "label": float(n % 2), "weight": 0.5} for n in range(12)
    ]
    rows[2][column] = value
    folder = write(tmp_path / "data", rows)
    keys = {"labels": ("no", "yes"), "prompt": "{text} {weight} ->"}
    with pytest.raises(InputError, match=re.escape(f"row 3: {said}")):
        load_hub_tasks(config(folder, **keys))


def test_a_text_that_is_no_label_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "no"} for n in range(12)]
    rows[2]["label"] = "maybe"
    with pytest.raises(
        InputError, match="row 3: field `label` is 'maybe', neither a number of 0 to 1 nor one of"
    ):
        load_hub_tasks(config(write(tmp_path / "data", rows), labels=("no", "yes")))


def test_bad_records_are_refused_with_their_place_or_counted(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(12)]
    rows[2]["label"] = 7
    rows[3]["text"] = None
    path = write(tmp_path / "data", rows)
    with pytest.raises(InputError) as caught:
        load_hub_tasks(config(path, labels=("no", "yes")))
    text = str(caught.value)
    assert f"{path} (train): 2 bad rows" in text
    assert "row 3: label 7 is not one of 0 to 1" in text and "row 4: field `text` is empty" in text
    loaded = load_hub_tasks(config(path, labels=("no", "yes"), on_bad_rows="skip"))
    assert loaded.skipped == {f"{path} (train)": 2}
    assert len(loaded.tasks[0].train) == 4


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"prompt": "{txt} ->"}, "has no field `txt`. Expected: did you mean `text`?"),
        ({"test_split": "dev"}, "cannot be loaded (split `dev`)"),
        ({"prompt": "{text"}, "is not a format string"),
        ({"prompt": "{text.lower}"}, "`tasks.templates.own.prompt` must name fields in braces"),
        (
            {"answer": "{label!z}"},
            "`tasks.templates.own.answer` knows the conversions !s, !r and !a, got `!z`",
        ),
        ({"prompt": "{text:{label}}"}, "must give a field's format itself"),
    ],
)
def test_templates_that_do_not_fit(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data", [{"text": f"text {n}", "label": "a"} for n in range(8)])
    with pytest.raises(InputError) as caught:
        load_hub_tasks(config(path, **keys))
    assert words in str(caught.value)


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        load_hub_tasks(config(str(tmp_path / "none")))


def test_names_without_a_template() -> None:
    with pytest.raises(InputError, match=r"`sst3` has no prompt template.*`sst2`"):
        template_of("sst3", TasksConfig(source="hub", names=("sst3",)))
    with pytest.raises(InputError, match="empty"):
        load_hub_tasks(TasksConfig(source="hub"))


def test_an_own_template_wins_over_the_ready_one(tmp_path: Path) -> None:
    own = {"dataset": str(tmp_path), "prompt": "{a}", "answer": "{b}"}
    chosen = template_of("sst2", TasksConfig(source="hub", names=("sst2",), templates={"sst2": own}))
    assert chosen.dataset == str(tmp_path)
    assert own_template("x", TasksConfig(templates={"x": own}).templates["x"]).fields == ("a", "b")
