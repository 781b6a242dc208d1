"""Training rows with wrong labels, for devices that are faulty in this way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfl_ray.tasks.tokens import TokenRows, TokenTask


def flipped_rows(task: TokenTask) -> TokenRows:
    """Give every training row the next label instead of its own: k of K becomes k + 1, the last becomes the first.

    In a task without a closed label set the labels are its distinct training answers of as many tokens, by token ids.

    Source: Tolpegin et al. 2020 (arXiv 2007.08432), label flipping. Departure: all labels are flipped, in a circle.

    Args:
        task: The task.

    Returns:
        As many rows with the same prompts; an answer that is no label, or the only one of its length, stays.
    """
    rows = task.train
    prompts = [rows.prompt(i) for i in range(len(rows))]
    own = [tuple(rows.answer(i).tolist()) for i in range(len(rows))]
    circles = [[tuple(c.tolist()) for c in task.choices]] if task.choices else _by_length(own)
    after = {label: circle[(k + 1) % len(circle)] for circle in circles for k, label in enumerate(circle)}
    parts = [(p, np.array(after.get(a, a), np.int32)) for p, a in zip(prompts, own, strict=True)]
    return TokenRows(
        np.concatenate([rows.ids[:0], *(x for pair in parts for x in pair)]).astype(np.int32),
        np.cumsum([0, *(len(p) + len(a) for p, a in parts)]).astype(np.int64),
        rows.answer_start,
    )


def _by_length(answers: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """The distinct answers of each length, in order."""
    distinct = sorted(set(answers))
    return [[a for a in distinct if len(a) == n] for n in sorted({len(a) for a in distinct})]
