"""Tasks as token ids: made once by the driver, so that no actor ever needs a tokenizer.

A row is its prompt, its answer and the end, each tokenised by itself (`tasks.encoding`). Loss and accuracy count the
answer's tokens and the end.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.tasks.conversations import conversation_notes
from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.encoding import PLAIN, TextEncoder, Unread
from dfl_ray.tasks.labels import quoted
from dfl_ray.tasks.scoring import (
    PARTIAL_SCORES,
    TEXT_SCORE_NAMES,
    choose_score,
    refuse_endless_labels,
    refuse_equal_labels,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dfl_ray.config.tasks import Score
    from dfl_ray.tasks.chat import PromptForm

MOST_UNREAD = 0.5
"""Largest share of the prompts, or of the answers, that a tokenizer may not be able to represent."""


@dataclass(frozen=True)
class TokenRows:
    """Ragged token rows.

    Attributes:
        ids: (total,) int32, all rows end to end.
        offsets: (rows + 1,) int64, row i is ids[offsets[i]:offsets[i + 1]].
        answer_start: (rows,) int32, index in the row of the answer's first token, >= 1.
    """

    ids: np.ndarray
    offsets: np.ndarray
    answer_start: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.answer_start)

    def row(self, index: int) -> np.ndarray:
        """Token ids of one row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def prompt(self, index: int) -> np.ndarray:
        """Token ids of one row's prompt."""
        start = int(self.offsets[index])
        return self.ids[start : start + int(self.answer_start[index])]

    def answer(self, index: int) -> np.ndarray:
        """Token ids of one row's answer with the end token."""
        return self.ids[
            int(self.offsets[index]) + int(self.answer_start[index]) : int(self.offsets[index + 1])
        ]

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) number of tokens of each row."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class FreeAnswers:
    """A task whose answers are generated and scored as texts.

    Attributes:
        score: `generated_match`, `f1` or `rouge_l` (`evaluation.text_scores`).
        most: Tokens of an answer at most.
        end: Tokens that end an answer.
        right: The right answer of each test row.
        tokenizer: The tokenizer as JSON, so that an actor turns tokens into text without its files.
    """

    score: str
    most: int
    end: tuple[int, ...]
    right: tuple[str, ...]
    tokenizer: str


@dataclass(frozen=True)
class TokenTask:
    """One task as tokens.

    Attributes:
        name: The task's name.
        train: Rows to train on.
        test: Held-out rows.
        choices: Token ids of every answer of a closed label set (end included), or None for exact match.
        labels: (test rows,) int32 index of the right choice, or None.
        chance: Accuracy of the best constant answer; None where parts of an answer score too (F1, ROUGE-L).
        why: Why it is scored as it is, in words.
        notes: What the user should be told, one sentence each.
        free: What scores freely generated answers; None = no answer is generated.
        uncut: `rows_digest` of both splits, which is the same by every score.
    """

    name: str
    train: TokenRows
    test: TokenRows
    choices: tuple[np.ndarray, ...] | None
    labels: np.ndarray | None
    chance: float | None
    why: str = ""
    notes: tuple[str, ...] = ()
    free: FreeAnswers | None = None
    uncut: str = ""

    @property
    def score(self) -> str:
        """How answers are scored: by the likelihood of all labels, exact match of greedy decoding, or as free texts."""
        if self.free is not None:
            return self.free.score
        return "exact_match" if self.choices is None else "choice"


def tokenize_task(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    score: Score = "auto",
    asked_by: str = "tasks.score",
    form: PromptForm = PLAIN,
    max_new_tokens: int = 32,
) -> TokenTask:
    """Turn a task's rows into tokens and decide how its answers are scored.

    Args:
        task: The task; `task.choices` names a closed label set.
        tokenizer: The base model's tokenizer.
        max_tokens: Longest row; longer prompts lose their head, the start token stays.
        score: See `scoring.choose_score`.
        asked_by: The key of the configuration that asks for the score.
        form: How prompts are written (`tasks.chat`).
        max_new_tokens: Most tokens of a free answer; every test prompt leaves room for them.

    Returns:
        The task as tokens, with what the user should be told in `notes`.

    Raises:
        InputError: "choice" is asked for and the task has no closed label set, an answer alone is too long, the
            tokenizer cannot read most of the text, or does not tell labels apart.
    """
    chosen = choose_score(task, score, asked_by)
    encoder = TextEncoder(tokenizer, form)
    texts = [row.answer for row in (*task.train, *task.test)]
    labels = (*(chosen.choices or ()), *(task.choices or ()))
    answers = {text: (*ids, *encoder.end) for text, ids in encoder.answers([*texts, *labels]).items()}
    encoded = _Encoded(task.name, encoder, answers, max_tokens)
    # With a label set every prompt has the same room, since the right answer must not show in what is cut.
    own, longest = (
        max((len(answers[c]) for c in labels or ()), default=None)
        for labels in (task.choices, chosen.choices)
    )
    free = _free_answers(task, score, tokenizer, encoder.end, max_new_tokens)
    asked = longest if free is None else max(free.most, *(len(answers[row.answer]) for row in task.test))
    if free is not None and free.most >= max_tokens:
        raise no_room_to_answer(task.name, free.most, max_tokens)
    # The score may change on the way, and must not change what is trained on.
    train, test = encoded.rows(task.train, own), encoded.rows(task.test, asked)
    unread = _unread(task, encoder, train, test, answers)
    refuse_unread(task.name, "prompts", unread["prompts"])
    bare = [answers[c][: len(answers[c]) - len(encoder.end)] for c in chosen.choices or ()]
    refuse_equal_labels(task.name, chosen.choices or (), bare, encoder.unknown)
    refuse_unread(task.name, "answers", unread["answers"])
    remarks = (f"task {task.name}: {form.remark}",) if form.remark else ()
    cut = _cut_notes(task, max_tokens, train, test)
    spoken = conversation_notes(task, encoder, answers)
    notes = (*cut, *unread_notes(task.name, unread), *remarks, *spoken, *_end_notes(task, encoder))
    chance = None if free is not None and free.score in PARTIAL_SCORES else task.chance
    uncut = rows_digest(
        encoder,
        (train.prompts, test.prompts),
        [[answers[r.answer] for r in s] for s in (task.train, task.test)],
    )
    rows = TokenTask(task.name, train.rows, test.rows, None, None, chance, chosen.why, notes, free, uncut)
    if free is not None:
        return rows
    if chosen.choices is None:
        return replace(rows, notes=(*rows.notes, *_alike_notes(task, answers)))
    if not encoder.end:
        refuse_endless_labels(task.name, chosen.choices, bare)
    return _labelled(rows, task, chosen.choices, answers)


def no_room_to_answer(name: str, most: int, max_tokens: int) -> InputError:
    """Make the error for generated answers that leave no room for a prompt; the caller raises it.

    Args:
        name: The task's name.
        most: Most tokens of a generated answer.
        max_tokens: Longest row.
    """
    return InputError(
        f"Task `{name}`: generated answers leave no room for a prompt",
        got=f"evaluate.max_new_tokens={most} in rows of model.max_tokens={max_tokens}",
        expected="fewer tokens of an answer than a row has",
        change="Lower `evaluate.max_new_tokens`, or raise `model.max_tokens`.",
    )


def rows_digest(
    encoder: TextEncoder,
    prompts: Sequence[Sequence[Sequence[int]]],
    answers: Sequence[Sequence[Sequence[int]]],
) -> str:
    """Name the rows of a task by their tokens before any prompt is cut, whose room depends on the score.

    Args:
        encoder: What made the tokens; what it sets before and behind a prompt counts.
        prompts: Of each split, each row's.
        answers: Of each split, each row's.

    Returns:
        SHA-256, hexadecimal.
    """
    digest = hashlib.sha256()
    for rows in ([[encoder.start, encoder.trailing]], prompts, answers):
        for split in rows:
            lengths = np.array([len(split), *map(len, split)], np.int64)
            digest.update(lengths.tobytes())
            digest.update(np.fromiter(chain.from_iterable(split), np.int32).tobytes())
    return digest.hexdigest()


def _labelled(
    rows: TokenTask, task: Task, choices: Sequence[str], answers: Mapping[str, Sequence[int]]
) -> TokenTask:
    """The task scored by the likelihood of its labels, in the order of `choices`."""
    index = {c: i for i, c in enumerate(choices)}
    labels = np.array([index[row.answer] for row in task.test], dtype=np.int32)
    return replace(rows, choices=tuple(np.array(answers[c], np.int32) for c in choices), labels=labels)


def _free_answers(
    task: Task, score: Score, tokenizer: PreTrainedTokenizerBase, end: tuple[int, ...], most: int
) -> FreeAnswers | None:
    """What scores the task's answers as texts; None for the other scores."""
    if score not in TEXT_SCORE_NAMES:
        return None
    reader = getattr(tokenizer, "backend_tokenizer", None) or getattr(tokenizer, "backend", None)
    if reader is None or not hasattr(reader, "to_str"):
        raise InputError(
            f"The score `{score}` of task `{task.name}` needs a tokenizer with a tokenizer.json",
            got=type(tokenizer).__name__,
            change=f"Set tasks.score.{task.name}=exact_match.",
        )
    return FreeAnswers(score, most, end, tuple(row.answer for row in task.test), reader.to_str())


class _Split(NamedTuple):
    """Rows of one split, their prompts' tokens before any cut, and how many were cut."""

    rows: TokenRows
    prompts: list[list[int]]
    cut: int


@dataclass(frozen=True)
class _Encoded:
    """What turns rows of one task into tokens: answers with their end, room for a row."""

    name: str
    encoder: TextEncoder
    answers: Mapping[str, tuple[int, ...]]
    max_tokens: int

    def rows(self, rows: Sequence[Row], longest: int | None) -> _Split:
        """Encode rows; with `longest`, room for an answer of so many tokens is kept behind every prompt."""
        prompts = self.encoder.prompts(self.encoder.write(rows))
        encoded: list[np.ndarray] = []
        starts, cut = np.zeros(len(rows), np.int32), 0
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            answer = self.answers[row.answer]
            room = self.max_tokens - (longest or len(answer))
            if room < 1:
                raise InputError(
                    f"Task `{self.name}`: an answer of {longest or len(answer)} tokens does not fit into a row",
                    expected=f"fewer than `model.max_tokens` = {self.max_tokens}",
                    change="Raise `model.max_tokens` or shorten the answers.",
                )
            head = self._shorten([*self.encoder.start, *prompt], room)
            if not head:
                raise InputError(
                    f"Task `{self.name}`: the model's tokenizer gives no token for a prompt",
                    got=ascii(row.prompt[:60]),
                    expected="at least one token for an answer to follow",
                    change="Leave the row out, or use a model whose tokenizer reads it.",
                )
            cut += len(head) < len(self.encoder.start) + len(prompt)
            starts[i] = len(head)
            encoded.append(np.array([*head, *answer], np.int32))
        offsets = np.concatenate([[0], np.cumsum([len(e) for e in encoded])]).astype(np.int64)
        return _Split(TokenRows(np.concatenate(encoded), offsets, starts), prompts, cut)

    def _shorten(self, prompt: list[int], room: int) -> list[int]:
        """Cut the head off a prompt that is too long; the start stays where there is room for more than it."""
        start = len(self.encoder.start)
        if len(prompt) <= room:
            return prompt
        if room > start:
            return [*prompt[:start], *prompt[len(prompt) - room + start :]]
        return prompt[len(prompt) - room :]


def _cut_notes(task: Task, max_tokens: int, train: _Split, test: _Split) -> tuple[str, ...]:
    if not train.cut and not test.cut:
        return ()
    return (
        f"task {task.name}: prompts that lose their head, since a row has at most {max_tokens} tokens: {train.cut} of "
        f"{len(task.train)} training rows, {test.cut} of {len(task.test)} test rows",
    )


def _unread(
    task: Task, encoder: TextEncoder, train: _Split, test: _Split, answers: Mapping[str, tuple[int, ...]]
) -> dict[str, Unread]:
    """What of prompts and of answers the tokenizer cannot represent."""
    rows, end = (*task.train, *task.test), len(encoder.end)
    given = Counter(row.answer for row in rows)
    prompts = ((ids, 1) for split in (train, test) for ids in split.prompts)
    bare = ((answers[a][: len(answers[a]) - end], count) for a, count in given.items())
    return {
        "prompts": encoder.unread(Counter(encoder.write(rows)), prompts),
        "answers": encoder.unread(given, bare),
    }


def refuse_unread(name: str, what: str, unread: Unread) -> None:
    """Refuse a task whose texts the tokenizer cannot represent for more than `MOST_UNREAD` of them.

    Args:
        name: The task's name.
        what: The texts, in words.
        unread: What of them it cannot represent.

    Raises:
        InputError: It says the share.
    """
    if unread.share > MOST_UNREAD:
        raise InputError(
            f"Task `{name}`: the model's tokenizer cannot read the {what}",
            got=str(unread),
            expected=f"at most {100 * MOST_UNREAD:.0f} % of them",
            change="Use a model whose tokenizer knows this language and script.",
        )


def unread_notes(name: str, found: Mapping[str, Unread]) -> tuple[str, ...]:
    """Say what a tokenizer cannot represent of a task's texts.

    Args:
        name: The task's name.
        found: The texts in words -> what of them it cannot represent.

    Returns:
        One sentence for each that has any.
    """
    return tuple(f"task {name}, {what}: {unread}" for what, unread in found.items() if unread.share > 0)


def _end_notes(task: Task, encoder: TextEncoder) -> tuple[str, ...]:
    if encoder.end_in_words == "the end token":
        return ()
    return (f"task {task.name}: the tokenizer has no end token; {encoder.end_in_words} ends an answer",)


def _alike_notes(task: Task, answers: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Open answers that are different texts and the same tokens, so that one counts for the other."""
    asked = sorted({row.answer for row in task.test})
    same = Counter(answers[answer] for answer in asked)
    alike = [answer for answer in asked if same[answers[answer]] > 1]
    if not alike:
        return ()
    return (f"task {task.name}: different answers that are the same tokens: {quoted(alike)}",)
