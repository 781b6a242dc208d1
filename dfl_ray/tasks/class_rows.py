"""Tasks for a classifier as base model: a row is its text between special tokens, and a class's number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.tasks.data import Task
from dfl_ray.tasks.encoding import TextEncoder
from dfl_ray.tasks.labels import quoted
from dfl_ray.tasks.scoring import choose_score
from dfl_ray.tasks.tokens import TokenRows, TokenTask, refuse_unread, rows_digest, unread_notes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dfl_ray.config.tasks import Score


def classify_task(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    classes: Sequence[str],
    *,
    max_tokens: int,
    score: Score = "auto",
    asked_by: str = "tasks.score",
) -> TokenTask:
    """Turn a task's rows into tokens for a classifier.

    The number of the right class stands behind the text, where a decoder's rows have their answer; the model is never
    given it (`dfl_ray.models.classifier`). The classes asked for are the task's own labels: another task's are not
    compared with them.

    Args:
        task: The task, with a closed label set.
        tokenizer: The base model's tokenizer.
        classes: Names of the classes, in the order of the head's outputs.
        max_tokens: Longest row, the class's place included; longer texts lose their end.
        score: See `scoring.choose_score`; only "auto" and "choice" are possible.
        asked_by: The key of the configuration that asks for the score.

    Returns:
        The task as tokens.

    Raises:
        InputError: Another score is asked for, there is no closed label set, or its labels are not the head's classes.
    """
    if score == "exact_match" and asked_by == "generated tasks":
        score = "auto"
    if score not in ("auto", "choice"):
        raise InputError(
            f"`{asked_by}` = {score} of task `{task.name}` needs a model that writes",
            got="a classifier, which answers with a class",
            change="Leave the score to `auto`, or take a causal language model for `model.name`.",
        )
    chosen = choose_score(task, "choice", asked_by)
    labels = chosen.choices or ()
    number = dict(zip(labels, _classes_of(task.name, labels, classes), strict=True))
    encoder = TextEncoder(tokenizer)
    splits = (task.train, task.test)
    prompts = [encoder.prompts(encoder.write(rows)) for rows in splits]
    classes_of = [[(number[row.answer],) for row in rows] for rows in splits]
    train, test = (_rows(encoder, p, c, max_tokens) for p, c in zip(prompts, classes_of, strict=True))
    texts = Counter(encoder.write((*task.train, *task.test)))
    unread = encoder.unread(texts, ((ids, 1) for split in prompts for ids in split))
    refuse_unread(task.name, "prompts", unread)
    index = {label: i for i, label in enumerate(labels)}
    return TokenTask(
        task.name, train[0], test[0], tuple(np.array([number[label]], np.int32) for label in labels),
        np.array([index[row.answer] for row in task.test], np.int32), task.chance, "classes of the base model",
        (*_cut_note(task, max_tokens, train[1], test[1]), *unread_notes(task.name, {"prompts": unread})),
        uncut=rows_digest(encoder, prompts, classes_of),
    )  # fmt: skip


def _classes_of(name: str, labels: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The head's outputs that a task's labels are: by name, or by order where the head's have no names."""
    known = {c.strip().casefold(): i for i, c in enumerate(classes)}
    wanted = [label.strip().casefold() for label in labels]
    if len(known) == len(classes) and len(set(wanted)) == len(wanted) and set(wanted) <= set(known):
        return [known[label] for label in wanted]
    nameless = all(c == f"LABEL_{i}" for i, c in enumerate(classes))
    if nameless and len(labels) == len(classes):
        return list(range(len(labels)))
    raise InputError(
        f"The labels of task `{name}` are not classes of the base model",
        got=f"labels {quoted(labels)}; classes {quoted(classes)}",
        expected="every label among the classes' names (id2label in config.json), or a head without names (LABEL_0, …) "
        "and as many labels, which are then taken in their order",
        change="Save the classifier with id2label of these labels, or leave the task out of `tasks.names`.",
    )


def _rows(
    encoder: TextEncoder, prompts: Sequence[Sequence[int]], classes: Sequence[tuple[int]], max_tokens: int
) -> tuple[TokenRows, int]:
    """The rows, and how many texts were cut."""
    room = max_tokens - 1 - len(encoder.start) - len(encoder.trailing)
    encoded = [
        np.array([*encoder.start, *ids[:room], *encoder.trailing, *own], np.int32)
        for ids, own in zip(prompts, classes, strict=True)
    ]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    starts = np.array([len(e) - 1 for e in encoded], np.int32)
    return TokenRows(np.concatenate(encoded), offsets, starts), sum(len(ids) > room for ids in prompts)


def _cut_note(task: Task, max_tokens: int, train: int, test: int) -> tuple[str, ...]:
    if not train and not test:
        return ()
    return (
        f"task {task.name}: texts that lose their end, since a row has at most {max_tokens} tokens: {train} of "
        f"{len(task.train)} training rows, {test} of {len(task.test)} test rows",
    )
