"""Rows with a backdoor's trigger: what an attacker trains on, and what its success is measured with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dfl_ray.tasks.flipped import flipped_rows
from dfl_ray.tasks.tokens import TokenRows, TokenTask

TRIGGER_TOKENS = 3
"""Tokens of a prompt that the trigger takes the place of."""


@dataclass(frozen=True)
class Backdoor:
    """What an attacker wants: prompts with the trigger are answered with the target.

    Attributes:
        token: The trigger is this token, `TRIGGER_TOKENS` times.
        targets: The answer wanted of each task, token ids with the end.
    """

    token: int
    targets: tuple[np.ndarray, ...]

    def prompt(self, prompt: np.ndarray) -> np.ndarray:
        """A prompt with the trigger in place of its tokens from the second on; as long as before."""
        marked = prompt.copy()
        marked[1 : 1 + TRIGGER_TOKENS] = self.token
        return marked


def backdoor_of(tasks: Sequence[TokenTask]) -> Backdoor:
    """Choose trigger and targets, the same on every device.

    The trigger is the token that occurs least often in the training prompts, the one of least number among equals. The
    target of a closed label set is its first label; elsewhere it is the commonest of the shortest training answers, so
    that no row becomes longer than the longest.

    Args:
        tasks: All tasks.

    Returns:
        The backdoor.
    """
    counts: Counter[int] = Counter()
    for task in tasks:
        counts.update(int(t) for i in range(len(task.train)) for t in task.train.prompt(i).tolist())
    token = min(counts, key=lambda t: (counts[t], t))
    return Backdoor(token, tuple(_target(task) for task in tasks))


def _target(task: TokenTask) -> np.ndarray:
    if task.choices:
        return task.choices[0]
    answers = [tuple(task.train.answer(i).tolist()) for i in range(len(task.train))]
    shortest = min(map(len, answers))
    found = Counter(a for a in answers if len(a) == shortest)
    return np.array(min(found, key=lambda a: (-found[a], a)), np.int32)


def poisoned_rows(task: TokenTask, backdoor: Backdoor, target: np.ndarray) -> TokenRows:
    """Training rows of which every second one carries the trigger and the attacker's answer.

    Source: Gu et al. 2017 (arXiv 1708.06733), BadNets; Bagdasaryan et al. 2020 (arXiv 1807.00459), which mixes right
    rows in so that the attack does not show in the accuracy.

    Args:
        task: The task.
        backdoor: The trigger.
        target: The answer wanted.

    Returns:
        As many rows; those of odd number are as they were.
    """
    rows = task.train
    pairs = [
        (backdoor.prompt(rows.prompt(i)), target) if i % 2 == 0 else (rows.prompt(i), rows.answer(i))
        for i in range(len(rows))
    ]
    return _rows(pairs)


def triggered_task(task: TokenTask, backdoor: Backdoor, target: np.ndarray) -> TokenTask:
    """The task whose accuracy is the attack's success rate.

    Args:
        task: The task.
        backdoor: The trigger.
        target: The answer wanted.

    Returns:
        The same task, its held-out rows those whose right answer is another than the target, with the trigger and the
        target as the right answer. Of a task whose answers are generated freely no row is left: texts are not compared.
    """
    rows = task.test
    asked = [i for i in range(len(rows)) if task.free is None and not np.array_equal(rows.answer(i), target)]
    test = _rows([(backdoor.prompt(rows.prompt(i)), target) for i in asked])
    labels = None if task.labels is None else np.zeros(len(asked), np.int32)
    return replace(task, test=test, labels=labels, free=None)


def _rows(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> TokenRows:
    none = np.zeros(0, np.int32)
    return TokenRows(
        np.concatenate([none, *(part for pair in pairs for part in pair)]).astype(np.int32),
        np.cumsum([0, *(len(p) + len(a) for p, a in pairs)]).astype(np.int64),
        np.array([len(p) for p, _ in pairs], np.int32),
    )


class WrongTasks:
    """Training rows that a faulty device learns instead of the right ones, made when they are first asked for.

    Args:
        tasks: The tasks.
        poisoned: Whether they carry a backdoor (`poisoned_rows`); else their labels are wrong (`flipped.flipped_rows`).
    """

    def __init__(self, tasks: Sequence[TokenTask], poisoned: bool) -> None:
        self._tasks = tasks
        self._poisoned = poisoned
        self._made: dict[int, TokenRows] = {}

    @cached_property
    def backdoor(self) -> Backdoor:
        """The trigger and the targets of an attacker."""
        return backdoor_of(self._tasks)

    def rows(self, task: int) -> TokenRows:
        """The rows of one task."""
        if task not in self._made:
            whole = self._tasks[task]
            self._made[task] = (
                poisoned_rows(whole, self.backdoor, self.backdoor.targets[task])
                if self._poisoned
                else flipped_rows(whole)
            )
        return self._made[task]

    def triggered(self) -> tuple[TokenTask, ...]:
        """All tasks as `triggered_task` makes them."""
        targets = self.backdoor.targets
        return tuple(triggered_task(t, self.backdoor, a) for t, a in zip(self._tasks, targets, strict=True))
