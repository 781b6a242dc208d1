"""How a task's answers are scored, why so, and how that is told and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfl_ray.errors import InputError, nearest
from dfl_ray.tasks.data import Task
from dfl_ray.tasks.labels import quoted

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config, Score, TasksConfig

TEXT_SCORE_NAMES = ("generated_match", "f1", "rouge_l")
"""Scores of a freely generated answer, as texts (`evaluation.text_scores`)."""

PARTIAL_SCORES = ("f1", "rouge_l")
"""Scores that a wrong answer can get a part of, so that the best constant answer tells no chance level."""

WORDS = {
    "choice": "label likelihood",
    "exact_match": "exact match of greedy decoding",
    "generated_match": "match of the generated answer",
    "f1": "token F1 of the generated answer",
    "rouge_l": "ROUGE-L of the generated answer",
}
"""A score's name in words."""


@dataclass(frozen=True)
class ScoreChoice:
    """How one task is scored.

    Attributes:
        choices: The labels whose likelihoods are compared, or None for exact match.
        why: The reason, in words.
    """

    choices: tuple[str, ...] | None
    why: str


def check_score_names(config: TasksConfig, names: Sequence[str]) -> None:
    """Refuse a score for a task that is not there.

    Args:
        config: The configuration's `tasks`.
        names: Names of the tasks there are.

    Raises:
        InputError: It names the key.
    """
    if isinstance(config.score, dict):
        for name in config.score:
            if name not in names:
                raise InputError(
                    f"`tasks.score.{name}` names no task of this run", expected=nearest(name, names)
                )


def asked_score(config: Config, name: str) -> tuple[Score, str]:
    """Find the score that the configuration asks for a task: its own, else `evaluate.score`.

    Args:
        config: The experiment.
        name: The task's name.

    Returns:
        The score, and the key that asks for it; generated tasks without either are scored by exact match.
    """
    own = config.tasks.score.get(name, "auto")
    if own != "auto":
        return own, f"tasks.score.{name}"
    if config.evaluate.score != "auto":
        return config.evaluate.score, "evaluate.score"
    return ("exact_match", "generated tasks") if config.tasks.source == "synthetic" else ("auto", "auto")


def choose_score(task: Task, score: Score, asked_by: str = "tasks.score") -> ScoreChoice:
    """Decide how a task is scored.

    Args:
        task: The task; `choices` is its closed label set, `labels` all its answers if they are few.
        score: "choice" compares the likelihoods of all labels, "exact_match" takes the greedy answer, "auto" is
            "choice" for closed label sets; the others generate.
        asked_by: The key that asks, for the words.

    Returns:
        The labels to compare, if any, and the reason.

    Raises:
        InputError: "choice" is asked for and the answers are more than `tasks.max_choices`.
    """
    if score in TEXT_SCORE_NAMES:
        return ScoreChoice(None, f"{asked_by} = {score}")
    if score == "exact_match":
        return ScoreChoice(None, asked_by if asked_by == "generated tasks" else f"{asked_by} = exact_match")
    if score == "auto":
        return ScoreChoice(task.choices, task.why)
    labels = task.choices or task.labels
    if labels is None:
        raise InputError(
            f"`{asked_by}` = choice needs a closed label set, and task `{task.name}` has none",
            got=task.why,
            expected="at most `tasks.max_choices` different answers",
            change=f"Set tasks.score.{task.name}=exact_match, or raise `tasks.max_choices`.",
        )
    return ScoreChoice(labels, f"{asked_by} = choice")


def refuse_equal_labels(
    name: str, labels: Sequence[str], tokens: Sequence[Sequence[int]], unknown: int | None
) -> None:
    """Refuse labels that are the same tokens: all of them would always be as likely, and the first would win.

    Args:
        name: The task's name.
        labels: The labels.
        tokens: Token ids of each label, end left out.
        unknown: Id of the unknown token, or None.

    Raises:
        InputError: It names the labels and their tokens.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for label, ids in zip(labels, tokens, strict=True):
        groups.setdefault(tuple(ids), []).append(label)
    for ids, same in groups.items():
        if len(same) > 1:
            what = f"{list(ids)}" + (f" ({unknown} is the unknown token)" if unknown in ids else "")
            raise InputError(
                f"Task `{name}`: the model's tokenizer does not tell the labels {quoted(same)} apart",
                got=f"the same tokens for each: {what}",
                expected="a different token sequence for each label",
                change="Write the labels in words that the tokenizer knows, or use a model whose tokenizer reads them.",
            )


def refuse_endless_labels(name: str, labels: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
    """Refuse, where nothing ends an answer, a label that begins with another: it could never be likelier.

    Args:
        name: The task's name.
        labels: The labels.
        tokens: Token ids of each label.

    Raises:
        InputError: It names the two labels.
    """
    for short, a in zip(labels, tokens, strict=True):
        for long, b in zip(labels, tokens, strict=True):
            if len(a) < len(b) and tuple(b[: len(a)]) == tuple(a):
                raise InputError(
                    f"Task `{name}`: the label `{long}` begins with the label `{short}`, and the model's tokenizer has "
                    "neither an end token nor a line break to end an answer with",
                    expected="labels of which none begins with another",
                    change=f"Rename one of them, or set tasks.score.{name}=exact_match.",
                )
