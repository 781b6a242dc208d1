"""Fewer rows of a task, as `tasks.train_rows`, `test_rows` and `validation_rows` ask, and what the rows left lack.

Rows are kept by their place: the first of each split, and for tuning the last training rows. A file sorted by label
loses labels by that, which is told; to draw other rows would change what a configuration has meant so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dfl_ray.config.tasks import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.tasks.assemble import LoadedTasks
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.labels import prompt_key, quoted


def with_used_rows(loaded: LoadedTasks, tasks: TasksConfig) -> LoadedTasks:
    """Cut the rows of all tasks, whatever their source, and tell what the rows left lack.

    Args:
        loaded: The tasks with all their rows.
        tasks: The section `tasks`.

    Returns:
        The tasks with the rows that are used, and remarks on them behind those there are.

    Raises:
        InputError: See `held_out_of_training`.
    """
    used = tuple(cut_task(task, tasks) for task in loaded.tasks)
    said = (
        words
        for whole, cut in zip(loaded.tasks, used, strict=True)
        for words in row_remarks(whole, cut, tasks)
    )
    return replace(loaded, tasks=used, remarks=(*loaded.remarks, *said))


def cut_task(task: Task, tasks: TasksConfig) -> Task:
    """Keep as many rows as are asked for.

    Args:
        task: The task with all its rows.
        tasks: The section `tasks`.

    Returns:
        The task with the first `train_rows` and `test_rows` rows, or with the last `validation_rows` of the former in
        place of the latter.

    Raises:
        InputError: See `held_out_of_training`.
    """
    capped = replace(
        task, train=tuple(task.train[: tasks.train_rows]), test=tuple(task.test[: tasks.test_rows])
    )
    return capped if tasks.validation_rows is None else held_out_of_training(capped, tasks.validation_rows)


def held_out_of_training(task: Task, rows: int) -> Task:
    """Make a task whose held-out rows are cut from its training rows; the test rows are in neither.

    Args:
        task: The task.
        rows: Rows to cut, the last ones.

    Returns:
        The task; of the training rows left, those with a prompt that is held out are dropped.

    Raises:
        InputError: No training row would be left.
    """
    cut = task.train[-rows:]
    asked = {prompt_key(row.prompt) for row in cut}
    kept = tuple(row for row in task.train[:-rows] if prompt_key(row.prompt) not in asked)
    if not kept:
        raise InputError(
            f"`tasks.validation_rows` leaves the task `{task.name}` no training row",
            got=f"{rows} of {len(task.train)} rows",
            expected="fewer rows than the task has for training",
        )
    return replace(task, train=kept, test=cut)


def row_remarks(whole: Task, used: Task, tasks: TasksConfig) -> tuple[str, ...]:
    """What a user should know of the rows that a run uses, one sentence each.

    Args:
        whole: The task with all its rows.
        used: The same with those that are used.
        tasks: The section `tasks`.

    Returns:
        The sentences, each beginning with the task's name; of labels only where they are a closed label set.
    """
    said = [*_case_remark(used)]
    if used.choices is not None and len(used.choices) > 1:
        key = "tasks.validation_rows" if tasks.train_rows is None else "tasks.train_rows"
        said += _lost(whole.train, used.train, "training rows", key)
        if tasks.validation_rows is None:
            said += _lost(whole.test, used.test, "held-out rows", "tasks.test_rows")
        else:
            said += _lost(whole.train, used.test, "held-out rows", "tasks.validation_rows")
        said += _unseen(used)
    return tuple(f"task {used.name}: {words}" for words in said)


def _lost(whole: tuple[Row, ...], kept: tuple[Row, ...], what: str, key: str) -> Iterator[str]:
    """That a cut lost labels which the rows have that it was made of; one label alone measures and teaches nothing."""
    labels = {row.answer for row in kept}
    lost = sorted({row.answer for row in whole} - labels)
    if not lost:
        return
    has = f"all have the label {quoted(sorted(labels))}, none" if len(labels) == 1 else "have none"
    yield (
        f"the {len(kept)} {what} that are left of {len(whole)} {has} of the label"
        f"{'' if len(lost) == 1 else 's'} {quoted(lost)}; rows are taken by their place (`{key}`), so shuffle a file "
        "that is sorted by label, or change that key"
    )


def _unseen(task: Task) -> Iterator[str]:
    trained = {row.answer for row in task.train}
    unseen = [row.answer for row in task.test if row.answer not in trained]
    if unseen:
        yield f"labels of {len(unseen)} test rows that no training row has: {quoted(sorted(set(unseen)))}"


def _case_remark(task: Task) -> Iterator[str]:
    """Test prompts that differ from a training prompt only in case are kept, since case may matter, and told."""
    folded = {prompt_key(row.prompt).casefold() for row in task.train}
    count = sum(prompt_key(row.prompt).casefold() in folded for row in task.test)
    if count:
        yield f"{count} test prompts differ from training prompts only in case"
