"""What a source of tasks must give, and what is done with it whatever the source: names and order."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

from dfl_ray.config.tasks import TasksConfig
from dfl_ray.errors import InputError, nearest
from dfl_ray.tasks.assemble import LoadedTasks
from dfl_ray.tasks.data import Row, Task


def checked_tasks(made: object, source: str) -> LoadedTasks:
    """Refuse what is no tasks; a source may be of an installed package and give anything.

    Args:
        made: What the source gave.
        source: Its name.

    Returns:
        The same, its tasks as a tuple.

    Raises:
        InputError: It is no `LoadedTasks`, has no tasks, or one of them or of their rows is something else.
    """
    what = f"`tasks.source: {source}` does not give tasks"
    if not isinstance(made, LoadedTasks):
        raise InputError(what, got=_kind(made), expected="a `dfl_ray.tasks.assemble.LoadedTasks`")
    if not isinstance(made.tasks, tuple | list) or not made.tasks:
        got = f"`LoadedTasks.tasks` is {_kind(made.tasks)}" if made.tasks else "`LoadedTasks` without a task"
        raise InputError(what, got=got, expected="a tuple of at least one `dfl_ray.tasks.data.Task`")
    for task in made.tasks:
        if not isinstance(task, Task) or not isinstance(task.name, str):
            got = (
                f"a task named {task.name!r}" if isinstance(task, Task) else f"{_kind(task)} among the tasks"
            )
            raise InputError(what, got=got, expected="tasks of `dfl_ray.tasks.data.Task` with texts as names")
        for split, rows in (("train", task.train), ("test", task.test)):
            _check_rows(f"`{split}` of the task `{task.name}` of `tasks.source: {source}` is no rows", rows)
    return replace(made, tasks=tuple(made.tasks))


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _check_rows(what: str, rows: object) -> None:
    expected = "a tuple of `dfl_ray.tasks.data.Row` with texts as prompt and answer"
    if not isinstance(rows, tuple | list):
        raise InputError(what, got=_kind(rows), expected=expected)
    for place, row in enumerate(rows):
        if not isinstance(row, Row):
            raise InputError(what, got=f"{_kind(row)} at place {place}", expected=expected)
        if not isinstance(row.prompt, str) or not isinstance(row.answer, str):
            got = f"the prompt {row.prompt!r} with the answer {row.answer!r} at place {place}"
            raise InputError(what, got=got, expected=expected)


def check_splits(tasks: tuple[Task, ...]) -> None:
    """Refuse tasks without rows to train on or to ask, and answers that are no choice.

    Args:
        tasks: The tasks as the run has them.

    Raises:
        InputError: It names the task.
    """
    for task in tasks:
        for split, rows in (("training", task.train), ("test", task.test)):
            if not rows:
                raise InputError(
                    f"The task `{task.name}` has no {split} rows", expected="at least one row in each split"
                )
        known = None if task.choices is None else set(task.choices)
        wrong = next((row.answer for row in task.test if known is not None and row.answer not in known), None)
        if wrong is not None:
            raise InputError(
                f"A test row of the task `{task.name}` has an answer that is none of its choices",
                got=wrong,
                expected=f"one of {', '.join(task.choices or ())}; or `choices=None` for open answers",
            )


def check_names(names: tuple[str, ...]) -> None:
    """Refuse names that cannot stand in the records: lists of names have commas, adapters have folders.

    Args:
        names: The tasks' names.

    Raises:
        InputError: A name cannot be a folder's or a part of a list, or is the same folder as another.
    """
    folders: dict[str, str] = {}
    change = "Rename the task's folder, or its entry in `tasks.templates`."
    for name in names:
        bad = [letter for letter in name if letter in ",/\\" or not letter.isprintable()]
        if bad or name != name.strip() or name.startswith(".") or not name:
            raise InputError(
                f"The task name `{name}` cannot be used in the records",
                got=f"{bad[0]!r} in it" if bad else "a blank at an end or a dot in front",
                expected="no comma, slash, backslash or line break, no blank at an end, no dot in front",
                change=change,
            )
        folder = unicodedata.normalize("NFC", name).casefold()
        other = folders.get(folder)
        if other is not None:
            raise InputError(
                f"Two tasks cannot be told apart by their names, after which folders of adapters are called: `{name}`",
                got="two of this name" if other == name else f"`{other}` and `{name}`",
                expected="names that differ in more than case and Unicode form",
                change=change,
            )
        folders[folder] = name


def with_names(loaded: LoadedTasks, tasks: TasksConfig) -> LoadedTasks:
    """Keep the tasks that `tasks.names` asks for; most sources do so themselves.

    Args:
        loaded: What the source gave; names differ.
        tasks: The section `tasks`.

    Returns:
        The named tasks in the order of the names, all without names.

    Raises:
        InputError: A name is none of the source's.
    """
    made = {task.name: task for task in loaded.tasks}
    for name in tasks.names or ():
        if name not in made:
            raise InputError(
                f"`tasks.names` names no task of `tasks.source: {tasks.source}`",
                got=name,
                expected=nearest(name, made),
                change="Change tasks.names.",
            )
    names = tasks.names or tuple(made)
    leaked = {name: count for name, count in loaded.leaked.items() if name in names}
    return replace(loaded, tasks=tuple(made[name] for name in names), leaked=leaked)
