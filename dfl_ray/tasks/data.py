"""Rows and tasks: plain records that every source (synthetic, files, hub) produces.

Text fed to a model is the prompt, a blank, the answer and the end token; the loss stands on the answer and the end
token only. This module imports neither torch nor a tokenizer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        prompt: What the model is given.
        answer: What it has to answer.
        messages: For a conversation (role, content) of each message before the answer, the last of a user; `prompt`
            is the same as plain text. Empty = `prompt` is the one message of a user.
    """

    prompt: str
    answer: str
    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Task:
    """A named task with its rows.

    Attributes:
        name: The task's name, unique within a run.
        train: Rows that devices may train on.
        test: Held-out rows; none of their prompts occurs in `train`.
        choices: The closed label set in a fixed order, or None for open answers.
        labels: All distinct answers, sorted, also where they are no closed label set; None if there are more than
            `tasks.max_choices`, or if the source does not say.
        why: Why the answers are, or are not, a closed label set, in words.
    """

    name: str
    train: tuple[Row, ...]
    test: tuple[Row, ...]
    choices: tuple[str, ...] | None
    labels: tuple[str, ...] | None = None
    why: str = ""

    @property
    def chance(self) -> float:
        """Accuracy in [0, 1] of the best constant answer, by label likelihood and by exact match alike.

        A closed label set gives max(1 / len(choices), share of the commonest test answer); open answers
        give the share of the commonest test answer. A task without test rows has 1 / len(choices), or 0.
        """
        uniform = 1.0 / len(self.choices) if self.choices else 0.0
        if not self.test:
            return uniform
        commonest = Counter(row.answer for row in self.test).most_common(1)[0][1]
        return max(uniform, commonest / len(self.test))
