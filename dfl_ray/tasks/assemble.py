"""From rows to a task: held-out rows kept apart, the closed label set found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dfl_ray.config.schema import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.labels import label_remarks, label_set, prompt_key
from dfl_ray.tasks.rows import RowTable


@dataclass(frozen=True)
class LoadedTasks:
    """Tasks with what was left out on the way.

    Attributes:
        tasks: The tasks in the order asked for.
        skipped: Bad rows skipped, by file or split; only where there were some (`tasks.on_bad_rows: skip`).
        leaked: Test rows left out because their prompt also stands in the training rows, by task.
        remarks: Whatever else the user should be told, one sentence each.
    """

    tasks: tuple[Task, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    leaked: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each thing left out or odd, for the log."""
        skipped = [f"{place}: {count} bad rows skipped" for place, count in self.skipped.items()]
        leaked = [
            f"task {name}: {count} test rows left out, since their prompts are trained on"
            for name, count in self.leaked.items()
        ]
        return (*skipped, *leaked, *self.remarks)


@dataclass(frozen=True)
class Assembled:
    """One task made of rows.

    Attributes:
        task: The task.
        leaked: Test rows left out because their prompt is trained on.
        remarks: What the user should be told, one sentence each.
    """

    task: Task
    leaked: int
    remarks: tuple[str, ...]


def assemble_all(
    tables: Mapping[str, tuple[RowTable, RowTable]], config: TasksConfig, remarks: Iterable[str] = ()
) -> LoadedTasks:
    """Make tasks of their training and test rows.

    Args:
        tables: Task name -> training rows and test rows.
        config: `max_choices` is used.
        remarks: What there is to tell already.

    Returns:
        The tasks with what was left out, and the remarks.

    Raises:
        InputError: See `assemble`.
    """
    made = {name: assemble(name, train.rows, test.rows, config) for name, (train, test) in tables.items()}
    everything = [table for pair in tables.values() for table in pair]
    return LoadedTasks(
        tuple(x.task for x in made.values()),
        {table.source: len(table.bad) for table in everything if table.bad},
        {name: x.leaked for name, x in made.items() if x.leaked},
        (*remarks, *(remark for x in made.values() for remark in x.remarks)),
    )


def assemble(name: str, train: Sequence[Row], test: Sequence[Row], config: TasksConfig) -> Assembled:
    """Make a task of rows.

    Test rows whose prompt is trained on are no held-out rows and are left out; prompts are compared in Unicode form
    NFC with blanks and line breaks joined, so that a trailing blank hides nothing. The label set is read from all
    rows, so that a smaller run scores against the same answers; whoever asked for the task cuts its rows
    (`tasks.cuts`).

    Args:
        name: The task's name.
        train: Training rows, at least one.
        test: Held-out rows, at least one.
        config: `max_choices` is used.

    Returns:
        The task, the number of test rows left out, and the remarks.

    Raises:
        InputError: No training or no test row.
    """
    for split, rows in (("training", train), ("test", test)):
        if not rows:
            raise InputError(
                f"The task `{name}` has no {split} rows", expected="at least one row in each split"
            )
    known = {prompt_key(row.prompt) for row in train}
    held_out = [row for row in test if prompt_key(row.prompt) not in known]
    if not held_out:
        raise InputError(
            f"The task `{name}` has no held-out rows",
            got=f"all {len(test)} test prompts also stand in the training rows",
            expected="test rows that are not trained on",
        )
    found = label_set([*train, *held_out], config.max_choices)
    choices = found.labels if found.closed else None
    task = Task(name, tuple(train), tuple(held_out), choices, found.labels, found.why)
    return Assembled(task, len(test) - len(held_out), label_remarks(task, found.single))
