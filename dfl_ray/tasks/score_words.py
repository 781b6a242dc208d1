"""How each task is scored, in words for the set-up lines and as data for the records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfl_ray.tasks.scoring import WORDS
from dfl_ray.tasks.tokens import TokenTask


def score_lines(tasks: Sequence[TokenTask]) -> tuple[str, ...]:
    """How the tasks are scored, one sentence for each score and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for task in tasks:
        labels = f"{len(task.choices)} labels, " if task.choices is not None else ""
        groups.setdefault((task.score, task.why), []).append(
            f"{task.name} ({labels}chance {100 * task.chance:.1f} %)"
        )
    return tuple(
        f"scored by {WORDS[score]}: {', '.join(names)}" + (f"; {why}" if why else "")
        for (score, why), names in groups.items()
    )


def score_records(tasks: Sequence[TokenTask]) -> dict[str, dict[str, Any]]:
    """What `run.json` says of each task's score: name -> score, why, chance, number of labels or None."""
    return {
        task.name: {
            "score": task.score,
            "why": task.why,
            "chance": task.chance,
            "labels": None if task.choices is None else len(task.choices),
        }
        for task in tasks
    }
