"""Which score a task gets, why, and how that is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.config.schema import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.tasks.assemble import assemble
from dfl_ray.tasks.data import Row
from dfl_ray.tasks.labels import label_set, look_alikes
from dfl_ray.tasks.load import read_tasks
from dfl_ray.tasks.scoring import asked_score, choose_score
from tests.conftest import small_config


def rows(*answers: str, prompt: str = "q") -> list[Row]:
    return [Row(f"{prompt}{n}", answer) for n, answer in enumerate(answers)]


def made(train: list[str], test: list[str], **keys: Any) -> Any:
    return assemble("t", rows(*train), rows(*test, prompt="p"), TasksConfig(**keys))


def test_one_typo_does_not_turn_labels_into_open_answers() -> None:
    assembled = made(["yes", "no"] * 12 + ["yess"], ["yes", "no"] * 8)
    assert assembled.task.choices == ("no", "yes", "yess")
    assert assembled.remarks == ("task t: given in one row only, perhaps by mistake: `yess`",)
    assert "3 different answers in 41 rows, 1 of them given once" in assembled.task.why


def test_the_share_of_answers_given_once_decides() -> None:
    forty = rows(*["a", "b"] * 19, "c", "d")
    assert label_set(forty, 8).closed and label_set(forty, 8).single == ("c", "d")
    less = label_set(forty[1:], 8)
    assert not less.closed and less.labels == ("a", "b", "c", "d") and "more than 5 %" in less.why


def test_one_typo_changes_no_score_however_few_the_rows_are() -> None:
    assert label_set(rows("a", "b", "a", "b", "c"), 8).closed
    assert not label_set(rows("a", "b", "a", "c"), 8).closed
    assert not label_set(rows("a"), 8).closed


def test_labels_that_look_alike_are_told() -> None:
    assert look_alikes(["Yes", "yes", "no", "caf\u00e9", "cafe\u0301", "\uff41", "a", "New  York", "new york"]) == [
        ("Yes", "yes"), ("caf\u00e9", "cafe\u0301"), ("\uff41", "a"), ("New  York", "new york"),
    ]  # fmt: skip
    words = " ".join(made(["Yes", "yes", "no"] * 4, ["Yes", "no"] * 2).remarks)
    assert "differ only in case, blanks or Unicode form: `Yes`, `yes`" in words
    words = " ".join(made(["caf\u00e9", "cafe\u0301"] * 4, ["caf\u00e9"] * 2).remarks)
    assert "(caf\\xe9)" in words and "(cafe\\u0301)" in words


def test_one_label_only_is_told_and_its_chance_is_one() -> None:
    assembled = made(["a"] * 4, ["a"] * 4)
    assert assembled.task.choices == ("a",) and assembled.task.chance == 1.0
    assert "every answer is `a`" in assembled.remarks[0]


def test_open_answers_have_no_remarks_on_labels() -> None:
    assert made([str(n) for n in range(40)], ["x1", "x2"]).remarks == ()


def score_of(words: list[str], name: str = "trec") -> tuple[str, str]:
    return asked_score(load_config(None, ["tasks.source=files", "tasks.path=/data", *words]), name)


def test_the_score_asked_for_a_task() -> None:
    assert score_of([]) == ("auto", "auto")
    assert score_of(["tasks.score={trec: choice, gsm8k: exact_match}"]) == ("choice", "tasks.score.trec")
    assert score_of(["tasks.score.gsm8k=exact_match"]) == ("auto", "auto")
    assert score_of(["tasks.score.gsm8k=exact_match", "evaluate.score=choice"]) == (
        "choice",
        "evaluate.score",
    )
    assert score_of(["tasks.score.trec=auto", "evaluate.score=choice"]) == ("choice", "evaluate.score")
    assert score_of(["tasks.score=auto"]) == ("auto", "auto")
    assert asked_score(load_config(None), "topic") == ("exact_match", "generated tasks")
    assert asked_score(load_config(None, ["tasks.score.topic=choice"]), "topic") == (
        "choice",
        "tasks.score.topic",
    )


def test_a_choice_may_be_forced_on_few_answers_and_not_on_many() -> None:
    few = made(["a", "b", "c"], ["a"]).task
    assert few.choices is None
    forced = choose_score(few, "choice", "tasks.score.t")
    assert forced.choices == ("a", "b", "c") and forced.why == "tasks.score.t = choice"
    assert choose_score(few, "auto").choices is None and "given once" in choose_score(few, "auto").why
    with pytest.raises(InputError, match=r"`tasks.score.t` = choice needs .* 4 different answers"):
        choose_score(made(["a", "b", "c", "d"], ["a"], max_choices=3).task, "choice", "tasks.score.t")


def test_a_score_for_a_task_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("odd", "even"):
        (tmp_path / name).mkdir()
        for split, count in (("train", 14), ("test", 6)):
            text = "".join(
                json.dumps({"prompt": f"{split} {n}", "answer": "ab"[n % 2]}) + "\n" for n in range(count)
            )
            (tmp_path / name / f"{split}.jsonl").write_text(text)
    source = ["tasks.source=files", f"tasks.path={tmp_path}"]
    with pytest.raises(InputError, match=r"`tasks.score.od` names no task of this run.*did you mean `odd`"):
        read_tasks(load_config(None, [*source, "tasks.score.od=choice"]))
    assert len(read_tasks(load_config(None, [*source, "tasks.score.odd=choice"])).tasks) == 2


def test_a_length_of_answers_that_nobody_generates_is_told(tmp_path):
    said = "`evaluate.max_new_tokens` without effect"
    for words, told in (
        (("evaluate.max_new_tokens=5",), True),
        ((), False),
        (("evaluate.max_new_tokens=5", "evaluate.score=f1"), False),
    ):
        notes = build_experiment(small_config(tmp_path, *words)).notes
        assert any(note.startswith(said) for note in notes) == told
