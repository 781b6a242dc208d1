"""Label sets: whether a task's answers are a closed set, and what is odd about its labels, in words."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dfl_ray.tasks.data import Row, Task

MOST_SINGLE = 0.05
"""Largest share of rows whose answer is given once, for the answers to be a closed label set."""

_SHOWN = 8


@dataclass(frozen=True)
class LabelSet:
    """The distinct answers of a task.

    Attributes:
        labels: All of them, sorted; None if there are more than `tasks.max_choices`.
        closed: Whether they are a closed label set.
        single: Those given in one row only, sorted; empty where `labels` is None.
        why: Why they are, or are not, a closed label set, in words.
    """

    labels: tuple[str, ...] | None
    closed: bool
    single: tuple[str, ...]
    why: str


def label_set(rows: Sequence[Row], max_choices: int) -> LabelSet:
    """Decide whether the answers of a task are a closed label set.

    They are if there are at most `max_choices` different ones, some of them more than once, and the rows whose
    answer is given only once are at most 5 % of all rows, or one row, so that one typo does not turn a classification
    into open answers, however few its rows are.

    Args:
        rows: All rows of the task, before any cap.
        max_choices: `tasks.max_choices`.

    Returns:
        The labels, whether they are a closed set, and why.
    """
    counts = Counter(row.answer for row in rows)
    if not counts or len(counts) > max_choices:
        return LabelSet(
            None, False, (), f"{len(counts)} different answers, `tasks.max_choices` = {max_choices}"
        )
    single = tuple(sorted(answer for answer, count in counts.items() if count == 1))
    closed = len(single) <= max(1.0, MOST_SINGLE * len(rows)) and len(single) < len(counts)
    words = f"{len(counts)} different answers in {len(rows)} rows"
    if single:
        words += f", {len(single)} of them given once" + ("" if closed else " (more than 5 % of the rows)")
    return LabelSet(tuple(sorted(counts)), closed, single, words)


def label_remarks(task: Task, single: Sequence[str]) -> tuple[str, ...]:
    """What a user should know about a closed label set, one sentence each; nothing for open answers.

    Args:
        task: The task; what its rows lack is told once they are cut (`tasks.cuts.row_remarks`).
        single: Labels given in one row only, over all rows.

    Returns:
        The sentences, each beginning with the task's name.
    """
    if task.choices is None:
        return ()
    said: list[str] = []
    if len(task.choices) == 1:
        said.append(
            f"every answer is {quoted(task.choices)}, so that accuracy by label likelihood is 100 % and says nothing"
        )
    if single:
        said.append(f"given in one row only, perhaps by mistake: {quoted(single)}")
    said.extend(
        f"different labels that differ only in case, blanks or Unicode form: {quoted(group)}"
        for group in look_alikes(task.choices)
    )
    return tuple(f"task {task.name}: {words}" for words in said)


def look_alikes(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Group labels that are equal after Unicode form NFKC, case folding and joining of white space.

    Args:
        labels: The labels.

    Returns:
        The groups of two labels or more.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups[" ".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def prompt_key(prompt: str) -> str:
    """Normalise a prompt: Unicode form NFC, white space joined, none at the ends.

    Args:
        prompt: The prompt.

    Returns:
        The normalised text.
    """
    return " ".join(unicodedata.normalize("NFC", prompt).split())


def quoted(labels: Sequence[str]) -> str:
    """Write labels in back quotes, the first eight and how many more there are.

    Args:
        labels: The labels.

    Returns:
        The list in words; labels that only look alike are followed by their characters' codes.
    """
    alike = {label for group in look_alikes(labels) for label in group}
    shown = [
        f"`{x}`" if x not in alike or x.isascii() else f"`{x}` ({ascii(x)[1:-1]})" for x in labels[:_SHOWN]
    ]
    more = len(labels) - _SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
