"""Accuracy of a run's saved state once more: by other rules, on more rows, by another score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dfl_ray.records import Run, load_run
from dfl_ray.simulation.backend import LocalBackend
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.fingerprint import fingerprint, refuse_changed_inputs
from dfl_ray.simulation.lengthen import resumed_config
from dfl_ray.simulation.resuming import newest_state
from dfl_ray.simulation.round_facts import rules_asked
from dfl_ray.simulation.round_tables import evaluation_table
from dfl_ray.tracking.progress import Progress


def evaluate_again(path: Path, overrides: Sequence[str], progress: Progress) -> pd.DataFrame:
    """Evaluate the newest saved state of a run, in this process; the run's records stay as they are.

    Args:
        path: The run folder.
        overrides: Texts `a.b=c`, keys of `evaluate` above all: `evaluate.rows_per_task=null`, `evaluate.rules=[all]`.
        progress: Shows the steps.

    Returns:
        Rows of `dfl_ray.records.EVALUATION`: one a rule, device and task; `round` is the saved one.

    Raises:
        InputError: No saved state, a key that cannot be changed, or other rows or weights than the run began with.
    """
    config, saved = newest_state(path)
    config = resumed_config(config, overrides, str(path / "config.yaml"), saved.round_index)
    experiment = build_experiment(config, progress.step)
    run = load_run(path)
    refuse_changed_inputs(path, run.info, fingerprint(experiment), code=False)
    rules = rules_asked(config, config.rounds)
    with progress.step("evaluation"):
        backend = LocalBackend(experiment.setup, experiment.channel)
        backend.restore(saved.state)
        backend.leave_out(_out(run, saved.round_index))
        references = backend.full_sketches() if "filter" in rules else None
        table = evaluation_table(backend.evaluate(saved.round_index, rules, references), experiment)
    table.insert(0, "round", saved.round_index)
    return table


def _out(run: Run, round_index: int) -> list[int]:
    """Devices that took no part in a round: without energy since an earlier one, or off when it began."""
    rows = run.table("devices", rounds=(round_index - 1, round_index))
    empty = (rows["round"] < round_index) & ~rows["alive"]
    off = (rows["round"] == round_index) & (rows["on"] == False)  # noqa: E712 - null in runs of older versions
    return sorted(set(rows.loc[empty | off, "device"]))
