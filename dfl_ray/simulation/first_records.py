"""What a run records before its rounds: the network, who holds which rows, what was told, how tasks are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfl_ray.records import RunFolder, topology_tables
from dfl_ray.records.partition import write_partition
from dfl_ray.simulation.checkpoint import Checkpoint
from dfl_ray.tracking.progress import Progress

if TYPE_CHECKING:
    from dfl_ray.simulation.experiment import Experiment


def record_network(folder: RunFolder, experiment: Experiment) -> None:
    """Write the graph of the first round, and which device holds which rows."""
    setup = experiment.setup
    names = [t.name for t in setup.tasks]
    nodes, edges = topology_tables(experiment.topology, names)
    folder.write_topology(nodes, edges, round=1)
    folder.list_files([write_partition(folder.path, names, setup.held, setup.rows)])


def record_notes(folder: RunFolder, experiment: Experiment, checkpoint: Checkpoint | None) -> None:
    """Write into `run.json` what was told when the run was set up, and how each task is scored.

    What a run that goes on from a checkpoint has recorded on its way stays: its warnings, and how far a backdoor had
    come in the rounds that are kept.
    """
    from dfl_ray.devices.faulty import fault_record
    from dfl_ray.tasks.score_words import score_lines, score_records

    tasks = experiment.setup.tasks
    warnings = [note for note in experiment.notes if note not in score_lines(tasks)]
    faults = fault_record(experiment.config)
    if checkpoint is not None:
        info = folder.info
        warnings = list(dict.fromkeys([*info.get("warnings", ()), *warnings]))
        reached = info.get("faults", {}).get("attack_success", {})
        kept = {number: share for number, share in reached.items() if int(number) <= checkpoint.round_index}
        faults = {
            name: {**record, "attack_success": kept} if kept else record for name, record in faults.items()
        }
    folder.update_info(warnings=warnings, scores=score_records(tasks), **faults)


def note_other_scores(
    folder: RunFolder, experiment: Experiment, checkpoint: Checkpoint | None, progress: Progress
) -> None:
    """Say, and note in `run.json: changes`, which tasks a run that goes on scores otherwise than it did."""
    from dfl_ray.tasks.score_words import other_scores

    told = other_scores(folder.info.get("scores", {}), experiment.setup.tasks)
    if checkpoint is None or not told:
        return
    notes = [f"after round {checkpoint.round_index}: {line}" for line in told]
    for note in notes:
        progress.say(note)
    folder.update_info(changes=[*folder.info.get("changes", ()), *notes])
