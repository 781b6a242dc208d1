"""The held-out rows that an evaluation asks, and what they cost: tokens that go through the model for one adapter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from dfl_ray.experts.table import WEIGHED
from dfl_ray.simulation.round_facts import rules_asked
from dfl_ray.tasks.scoring import TEXT_SCORE_NAMES, asked_score
from dfl_ray.tasks.tokens import no_room_to_answer

if TYPE_CHECKING:
    from dfl_ray.config.schema import Config
    from dfl_ray.models.decoder import DecoderShape
    from dfl_ray.tasks.tokens import TokenTask


@dataclass(frozen=True)
class AskedRows:
    """The rows of one task that an evaluation asks.

    Attributes:
        rows: How many; None where a plan doesn't know.
        read: Mean tokens of a row that go through the model; of a row whose answer is generated, those of its prompt.
        most: Most tokens of a generated answer; 0 where none is generated.
        scored: Mean tokens of a row that are predicted in one pass, those of all its candidates; 0 where a plan
            doesn't know.
    """

    rows: int | None
    read: float
    most: int = 0
    scored: float = 0.0

    def row_tokens(self, cached: bool) -> float:
        """Tokens that go through the model for one row, at most: an answer may end early.

        With p = `read` and n = `most`, generating takes p + n - 1 with a cache of keys and values, and without one the
        whole row at each step, n p + n (n - 1) / 2.

        Args:
            cached: Whether keys and values are kept.

        Returns:
            Tokens.
        """
        n = self.most
        if n == 0:
            return self.read
        return self.read + n - 1 if cached else n * self.read + n * (n - 1) / 2


def read_rows(config: Config, task: TokenTask) -> AskedRows:
    """The rows asked of a task that has been read.

    Args:
        config: The experiment.
        task: The task as tokens.

    Returns:
        Its rows: all candidate answers stand behind one prompt, and an answer's last token is only predicted.
    """
    rows = rows_asked(config, len(task.test))
    if task.free is not None:
        return AskedRows(rows, float(task.test.answer_start.mean()), task.free.most, scored=1.0)
    if task.choices is None:
        scored = float((task.test.lengths - task.test.answer_start).mean())
        return AskedRows(rows, float((task.test.lengths - 1).mean()), scored=scored)
    read = float(task.test.answer_start.mean()) + sum(len(c) - 1 for c in task.choices)
    return AskedRows(rows, read, scored=float(sum(map(len, task.choices))))


def unread_rows(config: Config, name: str, count: int | None, tokens: float, prompt: float) -> AskedRows:
    """The rows asked of a task whose tokens a plan doesn't have.

    Args:
        config: The experiment.
        name: The task's name.
        count: Held-out rows there are; None where that isn't known.
        tokens: Mean tokens of a row.
        prompt: Mean tokens of a prompt; it loses its head where a generated answer leaves less room.

    Returns:
        Its rows.

    Raises:
        InputError: Generated answers leave no room for a prompt.
    """
    rows, most, room = rows_asked(config, count), config.evaluate.max_new_tokens, config.model.max_tokens
    if asked_score(config, name)[0] not in TEXT_SCORE_NAMES:
        return AskedRows(rows, tokens)
    if most >= room:
        raise no_room_to_answer(name, most, room)
    return AskedRows(rows, min(prompt, room - most), most)


def rows_asked(config: Config, count: int | None) -> int | None:
    """Count the held-out rows of a task that are asked: `evaluate.rows_per_task` of those there are.

    Args:
        config: The experiment.
        count: Held-out rows there are; None where a plan doesn't know.

    Returns:
        The number; None where all are asked and a plan doesn't know how many.
    """
    known = [number for number in (config.evaluate.rows_per_task, count) if number is not None]
    return min(known, default=None)


def asked_tokens(asked: Sequence[AskedRows], *, cached: bool) -> float | None:
    """Count the tokens that go through the model where one adapter is asked the rows of all tasks, at most.

    Args:
        asked: The rows of each task.
        cached: See `AskedRows.row_tokens`.

    Returns:
        Tokens; None where a plan doesn't know how many rows there are.
    """
    counts = [task.rows for task in asked]
    if None in counts:
        return None
    return sum(n * task.row_tokens(cached) for n, task in zip(counts, asked, strict=True) if n is not None)


def predicted(asked: Sequence[AskedRows]) -> tuple[float, float] | None:
    """Count the tokens that are predicted where one adapter is asked the rows of all tasks.

    Args:
        asked: The rows of each task.

    Returns:
        Their number, infinity where a plan doesn't know how many rows there are; and the largest share of a task's
        tokens that are predicted. None where a plan doesn't know what is predicted.
    """
    if not asked or any(task.scored == 0 for task in asked):
        return None
    total = sum(inf if task.rows is None else task.rows * task.scored for task in asked)
    return total, min(1.0, max(task.scored / task.read for task in asked))


def keeps_cache(shape: DecoderShape | None, rules: Collection[str]) -> bool:
    """Whether answers are generated with a cache of keys and values (`evaluation.free_answers.generate`).

    Args:
        shape: The model's shape; None where `transformers` computes it.
        rules: The inference rules that ask; none for the base model alone.

    Returns:
        True for the project's own decoder, unless a rule weighs experts by what they read.
    """
    return shape is not None and not set(rules) & set(WEIGHED)


def usual_rules(config: Config) -> tuple[str, ...]:
    """The inference rules of every evaluation but the last, which asks more.

    Args:
        config: The experiment.
    """
    return rules_asked(config, config.rounds - 1)


def asked_notes(config: Config, asked: Sequence[AskedRows], shape: DecoderShape | None) -> tuple[str, ...]:
    """Say what of its evaluations a plan doesn't count.

    Args:
        config: The experiment.
        asked: The rows of each task.
        shape: See `keeps_cache`.

    Returns:
        One sentence each.
    """
    closing = rules_asked(config, config.rounds)
    every, whole = (
        asked_tokens(asked, cached=keeps_cache(shape, rules)) for rules in (usual_rules(config), closing)
    )
    if every is None or whole is None:
        return (
            "`evaluate.rows_per_task` asks all test rows, and how many hub data have is not known to a plan: it counts "
            "no time of evaluations. Set `tasks.test_rows` or `evaluate.rows_per_task`.",
        )
    if whole == every:
        return ()
    named = ", ".join(f"`{rule}`" for rule in WEIGHED if rule in closing)
    return (
        f"at the end {named} weighs experts by what it reads and computes whole rows for each generated token, which "
        f"takes {whole / every:.0f} times the evaluation told here",
    )
