"""How each task is scored, in words for the set-up lines and as data for the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dfl_ray.config.section import named_keys
from dfl_ray.tasks.scoring import TEXT_SCORE_NAMES, WORDS
from dfl_ray.tasks.tokens import TokenTask

if TYPE_CHECKING:
    from dfl_ray.config.schema import EvaluateConfig


def score_lines(tasks: Sequence[TokenTask]) -> tuple[str, ...]:
    """Say how the tasks are scored.

    Args:
        tasks: The tasks.

    Returns:
        One sentence for each pair of score and reason, with the tasks and their chance accuracy in percent.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for task in tasks:
        facts = [f"{len(task.choices)} labels"] if task.choices is not None else []
        facts += [f"chance {100 * task.chance:.1f} %"] if task.chance is not None else []
        told = f"{task.name} ({', '.join(facts)})" if facts else task.name
        groups.setdefault((task.score, task.why), []).append(told)
    return tuple(
        f"scored by {WORDS[score]}: {', '.join(names)}" + (f"; {why}" if why else "")
        for (score, why), names in groups.items()
    )


def unasked_notes(evaluate: EvaluateConfig, tasks: Sequence[TokenTask]) -> tuple[str, ...]:
    """Say that `evaluate.max_new_tokens` does nothing, where it is named and no task's answers are generated as texts.

    Args:
        evaluate: The section `evaluate`.
        tasks: The tasks; none where a plan has not read them.

    Returns:
        At most one sentence.
    """
    if not tasks or "max_new_tokens" not in named_keys(evaluate) or any(task.free for task in tasks):
        return ()
    scores = ", ".join(TEXT_SCORE_NAMES)
    return (f"`evaluate.max_new_tokens` without effect: no task is scored by one of {scores}.",)


def other_scores(before: Mapping[str, Mapping[str, Any]], tasks: Sequence[TokenTask]) -> tuple[str, ...]:
    """Say which tasks are scored otherwise than before, so that accuracies of both are not compared.

    Args:
        before: `score_records` of before.
        tasks: The tasks now.

    Returns:
        One sentence a task that has another score.
    """
    was = {name: str(record.get("score")) for name, record in before.items()}
    return tuple(
        f"task {t.name} is scored by {WORDS[t.score]}, before by {WORDS[was[t.name]]}"
        for t in tasks
        if t.score != was.get(t.name) in WORDS
    )


def score_records(tasks: Sequence[TokenTask]) -> dict[str, dict[str, Any]]:
    """Collect what `run.json` says of each task's score.

    Args:
        tasks: The tasks.

    Returns:
        Name -> score, why, chance in [0, 1] or None, and number of labels or None.
    """
    return {
        task.name: {
            "score": task.score,
            "why": task.why,
            "chance": task.chance,
            "labels": None if task.choices is None else len(task.choices),
        }
        for task in tasks
    }
