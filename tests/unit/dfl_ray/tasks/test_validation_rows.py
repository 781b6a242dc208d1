"""Rows that caps and tuning leave: which, and what is told of those that lack labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.config.tasks import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.tasks.cuts import cut_task, held_out_of_training, row_remarks
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.load import load_tasks, read_tasks


def test_validation_rows_come_from_training_and_test_rows_are_gone():
    words = ["tasks.names=[topic,agree]", "tasks.train_rows=60"]
    whole = load_tasks(load_config(None, words))
    tuned = load_tasks(load_config(None, [*words, "tasks.validation_rows=20"]))
    for before, after in zip(whole, tuned, strict=True):
        assert after.test == before.train[-20:]
        assert set(after.train) <= set(before.train[:40])
        assert not {r.prompt for r in after.train} & {r.prompt for r in after.test}


def test_a_prompt_that_is_held_out_is_not_trained_on():
    rows = tuple(Row(p, "x") for p in ("one", "two", "two ", "three"))
    task = Task("t", rows, (Row("test", "x"),), None)
    assert [r.prompt for r in held_out_of_training(task, 2).train] == ["one"]
    with pytest.raises(InputError, match="leaves the task `t` no training row"):
        held_out_of_training(task, 4)


def rows(labels: str, prompt: str = "q") -> tuple[Row, ...]:
    return tuple(Row(f"{prompt}{n}", label) for n, label in enumerate(labels))


def told(train: str, test: str, **keys: int) -> tuple[str, ...]:
    whole, config = Task("t", rows(train), rows(test, "p"), ("a", "b", "c")), TasksConfig(**keys)
    return row_remarks(whole, cut_task(whole, config), config)


def test_labels_that_a_cut_loses_are_told():
    assert told("abcabc", "abc") == told("abcabc", "abc", train_rows=3) == ()
    assert told("aabbcc", "abc", train_rows=2, test_rows=1)[0].startswith(
        "task t: the 2 training rows that are left of 6 all have the label `a`, none of the labels `b`, `c`; rows are "
        "taken by their place (`tasks.train_rows`)"
    )
    assert (
        "the 2 held-out rows that are left of 3 have none of the label `c`"
        in told("abc", "abc", test_rows=2)[0]
    )
    (asked,) = told("abcabcaa", "abc", validation_rows=2)
    assert (
        "the 2 held-out rows that are left of 8 all have the label `a`, none of the labels `b`, `c`" in asked
    )
    assert "(`tasks.validation_rows`)" in asked
    assert len(told("aabbcc", "abc", validation_rows=2)) == 3


def test_labels_no_training_row_has_are_told_after_the_cuts():
    unseen = "task t: labels of 2 test rows that no training row has: `b`, `c`"
    assert unseen in told("aabbcc", "abc", train_rows=2) and unseen not in told("abcabc", "abc", train_rows=3)
    assert told("ab", "abcc") == ("task t: labels of 2 test rows that no training row has: `c`",)
    assert "task t: labels of 2 test rows that no training row has: `c`" in told(
        "ababcc", "a", validation_rows=2
    )


def test_a_file_sorted_by_label_is_not_tuned_on_in_silence(tmp_path: Path):
    (tmp_path / "own").mkdir()
    for split, each in (("train", 20), ("test", 5)):
        lines = [
            json.dumps({"prompt": f"{split} {n}", "answer": ["no", "yes"][n // each]})
            for n in range(2 * each)
        ]
        (tmp_path / f"own/{split}.jsonl").write_text("\n".join(lines))
    words = [
        "tasks.source=files",
        f"tasks.path={tmp_path}",
        "devices.tasks_per_device=1",
        "devices.min_holders=1",
    ]
    assert read_tasks(load_config(None, words)).notes == ()
    loaded = read_tasks(load_config(None, [*words, "tasks.validation_rows=8"]))
    assert {row.answer for row in loaded.tasks[0].test} == {"yes"} and loaded.tasks[0].choices == (
        "no",
        "yes",
    )
    assert (
        "the 8 held-out rows that are left of 40 all have the label `yes`, none of the label `no`"
        in (loaded.notes[0])
    )
