"""From rows to a task: held-out rows kept apart, the closed label set found, caps applied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dfl_ray.config.schema import TasksConfig
from dfl_ray.errors import InputError
from dfl_ray.tasks.data import Row, Task


@dataclass(frozen=True)
class LoadedTasks:
    """Tasks with what was left out on the way.

    Attributes:
        tasks: The tasks in the order asked for.
        skipped: Bad rows skipped, by file or split; only where there were some (`tasks.on_bad_rows: skip`).
        leaked: Test rows left out because their prompt also stands in the training rows, by task.
    """

    tasks: tuple[Task, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    leaked: Mapping[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each thing left out, for the log."""
        skipped = [f"{place}: {count} bad rows skipped" for place, count in self.skipped.items()]
        leaked = [
            f"task {name}: {count} test rows left out, since their prompts are trained on"
            for name, count in self.leaked.items()
        ]
        return (*skipped, *leaked)


def assemble(name: str, train: Sequence[Row], test: Sequence[Row], config: TasksConfig) -> tuple[Task, int]:
    """Make a task of rows.

    Test rows whose prompt is trained on are no held-out rows and are left out. The label set is read from all
    rows, before the caps, so that a smaller run scores against the same answers; caps keep the first rows.

    Args:
        name: The task's name.
        train: Training rows, at least one.
        test: Held-out rows, at least one.
        config: Caps and `max_choices`.

    Returns:
        The task and the number of test rows left out.

    Raises:
        InputError: No training or no test row.
    """
    for split, rows in (("training", train), ("test", test)):
        if not rows:
            raise InputError(
                f"The task `{name}` has no {split} rows", expected="at least one row in each split"
            )
    known = {row.prompt for row in train}
    held_out = [row for row in test if row.prompt not in known]
    if not held_out:
        raise InputError(
            f"The task `{name}` has no held-out rows",
            got=f"all {len(test)} test prompts also stand in the training rows",
            expected="test rows that are not trained on",
        )
    choices = closed_choices([*train, *held_out], config.max_choices)
    kept_train, kept_test = tuple(train[: config.train_rows]), tuple(held_out[: config.test_rows])
    return Task(name, kept_train, kept_test, choices), len(test) - len(held_out)


def closed_choices(rows: Sequence[Row], max_choices: int) -> tuple[str, ...] | None:
    """The closed label set, sorted: all distinct answers, if few and each given at least twice; else None."""
    counts = Counter(row.answer for row in rows)
    closed = len(counts) <= max_choices and min(counts.values(), default=0) >= 2
    return tuple(sorted(counts)) if closed else None
