"""Rows for tuning are cut from the training rows, and the test rows are never asked."""

from __future__ import annotations

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.load import held_out_of_training, load_tasks


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
