"""What a source of an installed package gives is checked, and named tasks and caps hold for it too."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest

from dfl_ray.config.load import load_config
from dfl_ray.config.settings import task_problems
from dfl_ray.errors import InputError
from dfl_ray.tasks.assemble import LoadedTasks
from dfl_ray.tasks.checked import check_names
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.load import read_tasks
from dfl_ray.tasks.sources import TASK_SOURCES

ROWS = tuple(Row(f"q{i}", "ab"[i % 2]) for i in range(8))


def task(name, **changes):
    return replace(Task(name, ROWS[:6], ROWS[6:], ("a", "b")), **changes)


def of_source(**keys):
    config = load_config(None, ["devices.tasks_per_device=1", "devices.min_holders=1"])
    return config.model_copy(update={"tasks": config.tasks.model_copy(update={"source": "own", **keys})})


def read(monkeypatch, given, **keys):
    monkeypatch.setitem(TASK_SOURCES._loaded, "own", lambda tasks, *, seed: given)
    return read_tasks(of_source(**keys))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([task("a")], "Got: a list. Expected: a `dfl_ray.tasks.assemble.LoadedTasks`"),
        (None, "Got: a NoneType"),
        (LoadedTasks(()), "`LoadedTasks` without a task"),
        (LoadedTasks(("a",)), "a str among the tasks"),
        (LoadedTasks((task(3),)), "a task named 3"),
        (LoadedTasks((task("a", train=None),)), "`train` of the task `a`"),
        (LoadedTasks((task("a", test=(("q", "a"),)),)), "a tuple at place 0"),
        (LoadedTasks((task("a", train=(Row("q", 1),)),)), "the answer 1"),
        (LoadedTasks((task("a", train=()),)), "`a` has no training rows"),
        (LoadedTasks((task("a", test=()),)), "`a` has no test rows"),
        (LoadedTasks((task("a", choices=("b",)), task("c"))), "none of its choices. Got: a."),
        (LoadedTasks((task("a"), task("a"))), "two of this name"),
    ],
)
def test_a_source_that_gives_something_else_is_named(monkeypatch, given, said):
    with pytest.raises(InputError) as caught:
        read(monkeypatch, given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "b", "A"), ("\u00e9", unicodedata.normalize("NFD", "\u00e9"))]
)
def test_names_of_one_folder_are_refused(names):
    with pytest.raises(InputError, match="cannot be told apart"):
        check_names(names)


def test_named_tasks_and_caps_hold_for_every_source(monkeypatch):
    given = LoadedTasks([task("a"), task("b"), task("c")], leaked={"a": 1, "c": 2})  # type: ignore[arg-type]
    assert [t.name for t in read(monkeypatch, given).tasks] == ["a", "b", "c"]
    found = read(monkeypatch, given, names=("c", "b"), train_rows=2, test_rows=1)
    assert [(t.name, t.train, t.test) for t in found.tasks] == [(n, ROWS[:2], ROWS[6:7]) for n in ("c", "b")]
    assert found.leaked == {"c": 2}
    given = LoadedTasks((task("first"), task("last")))
    with pytest.raises(InputError, match=r"`tasks\.names` names no task.*did you mean `first`"):
        read(monkeypatch, given, names=("firs",))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cue", "weak"),
        ("prompt_field", "x"),
        ("answer_field", "x"),
        ("test_share", 0.5),
        ("on_bad_rows", "skip"),
    ],
)
def test_keys_that_say_how_built_in_sources_read_are_refused_for_others(key, value):
    (problem,) = task_problems(of_source(**{key: value}))
    assert f"`tasks.{key}` is set but nothing would read it" in problem.what
    assert not list(task_problems(of_source(max_choices=4, train_rows=3)))
