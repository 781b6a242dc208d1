"""Whether rows have the tokens of the whole conversations that a chat template gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dfl_ray.tasks.data import Task
from dfl_ray.tasks.encoding import TextEncoder, Tokens

LOOKED_AT = 32
"""Rows of a task that are looked at, spread over all."""


def conversation_notes(task: Task, encoder: TextEncoder, answers: Mapping[str, Tokens]) -> tuple[str, ...]:
    """Say where rows have other tokens than the chat template's whole conversations.

    A row's prompt, answer and end are tokenised apart. They are looked at where the whole conversation, tokenised at
    once, does not begin with T(prompt) + C(answer) + end: some token spans a border, or the template writes a
    conversation in another way once its answer is there.

    Args:
        task: The task; up to `LOOKED_AT` rows are compared.
        encoder: What makes the tokens.
        answers: Answer -> its tokens, the end included.

    Returns:
        One sentence if there are such rows; none without a chat template.
    """
    rows = (*task.train, *task.test)
    rows = rows[:: max(1, -(-len(rows) // LOOKED_AT))]
    wholes = encoder.conversations(rows)
    if not wholes:
        return ()
    prompts = encoder.prompts(encoder.write(rows))
    places = Counter(
        _departure(prompt, answers[row.answer], len(encoder.end), whole)
        for row, prompt, whole in zip(rows, prompts, wholes, strict=True)
    )
    del places[""]
    if not places:
        return ()
    found = ", ".join(f"{place} ({count})" for place, count in sorted(places.items()))
    return (
        f"task {task.name}: {places.total()} of {len(rows)} rows looked at have other tokens than the chat template's "
        f"whole conversation; they differ first in {found}",
    )


def _departure(prompt: Sequence[int], answer: Sequence[int], end: int, whole: Sequence[int]) -> str:
    """The part of a row in which its tokens first differ from the whole conversation's; empty = in none."""
    row = (*prompt, *answer)
    first = next((k for k, token in enumerate(row) if k >= len(whole) or whole[k] != token), None)
    if first is None:
        return ""
    if first < len(prompt):
        return "the prompt"
    return "the answer" if first < len(row) - end else "the end of the turn"
