"""Accuracy of a run's saved state once more: by other rules, on more rows, by another score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dfl_ray.config.changeable import READ, UNREAD
from dfl_ray.config.locations import says_where
from dfl_ray.config.overrides import key_of
from dfl_ray.errors import InputError
from dfl_ray.simulation.export_device import open_saved
from dfl_ray.simulation.lengthen import PLACES_IN_WORDS
from dfl_ray.simulation.round_facts import needs_references, rules_asked
from dfl_ray.simulation.round_tables import evaluation_table
from dfl_ray.tasks.score_words import unasked_notes
from dfl_ray.tracking.progress import Progress


def evaluate_again(path: Path, overrides: Sequence[str], progress: Progress) -> pd.DataFrame:
    """Evaluate the newest saved state of a run, in this process; the run's records stay as they are.

    Args:
        path: The run folder.
        overrides: Texts `a.b=c`, keys of `evaluate` above all: `evaluate.rows_per_task=null`, `evaluate.rules=[all]`.
            Others that count are `READ` and places (`config.locations.says_where`).
        progress: Shows the steps.

    Returns:
        Rows of `dfl_ray.records.EVALUATION`: one a rule, task and device that an evaluation of the saved round asks;
        `round` is the saved one.

    Raises:
        InputError: A key that says nothing to an evaluation; or see `open_saved`.
    """
    for word in overrides:
        key = key_of(word)
        of_evaluation = key == "evaluate" or key.startswith("evaluate.")
        if key in UNREAD or not (of_evaluation or key in READ or says_where(word)):
            raise InputError(
                f"`{key}` says nothing to the evaluation of a saved state",
                got=word,
                expected=f"keys of `evaluate` but `{'`, `'.join(UNREAD)}`; {', '.join(READ)}; or {PLACES_IN_WORDS}",
            )
    run = open_saved(path, overrides, progress.step)
    for note in unasked_notes(run.config.evaluate, run.experiment.setup.tasks):
        progress.say(note)
    rules = rules_asked(run.config, run.config.rounds)
    with progress.step("evaluation"):
        references = run.group.full_sketches() if needs_references(run.config, rules) else None
        report = run.group.evaluate(run.round_index, rules, references)
    table = evaluation_table([report], run.experiment)
    table.insert(0, "round", run.round_index)
    return table
