"""Tasks as token ids: made once by the driver, so that no actor ever needs a tokenizer.

The text of a row is `prompt + " " + answer` with the end token behind it. Loss and accuracy count the answer's
tokens and the end token; the prompt's tokens are the longest common prefix of the tokenised prompt and row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dfl_ray.errors import InputError
from dfl_ray.tasks.data import Row, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Score = Literal["auto", "exact_match", "choice"]


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
class TokenTask:
    """One task as tokens.

    Attributes:
        name: The task's name.
        train: Rows to train on.
        test: Held-out rows.
        choices: Token ids of every answer of a closed label set (end token included), or None for exact match.
        labels: (test rows,) int32 index of the right choice, or None.
        chance: Accuracy of the best constant answer.
    """

    name: str
    train: TokenRows
    test: TokenRows
    choices: tuple[np.ndarray, ...] | None
    labels: np.ndarray | None
    chance: float


def tokenize_task(
    task: Task, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, score: Score
) -> TokenTask:
    """Turn a task's rows into tokens and decide how its answers are scored.

    Args:
        task: The task; `task.choices` names a closed label set.
        tokenizer: The base model's tokenizer.
        max_tokens: Longest row; longer prompts lose their head, the start token stays.
        score: "choice" compares the likelihood of all labels, "exact_match" takes the greedy answer, "auto" is
            "choice" for closed label sets.

    Raises:
        InputError: "choice" is asked for and the task has no closed label set, or an answer alone is too long.
    """
    train = _encode(task, task.train, tokenizer, max_tokens)
    test = _encode(task, task.test, tokenizer, max_tokens)
    closed = task.choices is not None and score != "exact_match"
    if score == "choice" and task.choices is None:
        raise InputError(
            f"`evaluate.score=choice` needs a closed label set, and task `{task.name}` has none",
            expected="few distinct answers (see `tasks.max_choices`)",
            change="Use `evaluate.score=auto` or raise `tasks.max_choices`.",
        )
    if not closed or task.choices is None:
        return TokenTask(task.name, train, test, None, None, task.chance)
    index = {c: i for i, c in enumerate(task.choices)}
    labels = np.array([index[row.answer] for row in task.test], dtype=np.int32)
    reference = task.test[0].prompt
    rows = _encode(task, [Row(reference, c) for c in task.choices], tokenizer, max_tokens)
    choices = tuple(rows.answer(i) for i in range(len(rows)))
    return TokenTask(task.name, train, test, choices, labels, task.chance)


def _encode(
    task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> TokenRows:
    prompts = _ids(tokenizer, [r.prompt for r in rows])
    wholes = _ids(tokenizer, [f"{r.prompt} {r.answer}" for r in rows])
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    encoded: list[np.ndarray] = []
    starts = np.zeros(len(rows), np.int32)
    for i, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True)):
        start = _common_prefix(prompt, whole)
        answer = [*whole[start:], *end]
        if len(answer) >= max_tokens:
            raise InputError(
                f"Task `{task.name}`: an answer of {len(answer)} tokens does not fit into a row",
                expected=f"fewer than `model.max_tokens` = {max_tokens}",
                change="Raise `model.max_tokens` or shorten the answers.",
            )
        head = _shorten(whole[:start], max_tokens - len(answer), tokenizer.bos_token_id)
        starts[i] = len(head)
        encoded.append(np.array([*head, *answer], np.int32))
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in encoded])]).astype(np.int64)
    return TokenRows(np.concatenate(encoded), offsets, starts)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(
        texts, add_special_tokens=True, return_attention_mask=False, verbose=False
    )["input_ids"]  # type: ignore[assignment]
    end = tokenizer.eos_token_id
    return [row[:-1] if row and end is not None and row[-1] == end else row for row in ids]


def _common_prefix(prompt: list[int], whole: list[int]) -> int:
    """Length of the shared start; at least 1, since the first answer token needs something to follow."""
    length = 0
    for a, b in zip(prompt, whole, strict=False):
        if a != b:
            break
        length += 1
    return max(1, min(length, len(whole) - 1))


def _shorten(prompt: list[int], room: int, bos: object) -> list[int]:
    if len(prompt) <= room:
        return prompt
    if bos is not None and prompt[0] == bos and room > 1:
        return [prompt[0], *prompt[len(prompt) - room + 1 :]]
    return prompt[len(prompt) - room :]
