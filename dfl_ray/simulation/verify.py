"""All that can be checked of a run folder without running anything: every file against its checksum and its kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dfl_ray.errors import InputError
from dfl_ray.records import checksums, parts
from dfl_ray.records.folder_checks import check_run_folder
from dfl_ray.records.part_files import check_complete
from dfl_ray.records.partition import FILE as PARTITION
from dfl_ray.records.partition import read_partition
from dfl_ray.records.schema import TABLES, TOPOLOGY_TABLES
from dfl_ray.records.topology import GRAPHML_MOST_DEVICES, check_graphml, last_topology
from dfl_ray.simulation.checkpoint import checkpoint_path, list_checkpoints, read_checkpoint
from dfl_ray.simulation.fingerprint import refuse_changed_config
from dfl_ray.simulation.resuming import own_config


@dataclass(frozen=True)
class Verified:
    """What was found in a run folder.

    Attributes:
        problems: One sentence or paragraph for each file that is damaged or missing.
        files: Number of files with a checksum.
        rounds: Number of rounds recorded.
        checkpoints: Number of checkpoints.
    """

    problems: tuple[str, ...]
    files: int
    rounds: int
    checkpoints: int


def verify(folder: Path) -> Verified:
    """Check a run folder; nothing in it is changed.

    Args:
        folder: The run folder.

    Returns:
        What is wrong with it, and how much was looked at.

    Raises:
        InputError: It is no run folder.
    """
    info = check_run_folder(folder)
    problems: list[str] = []

    def attempt(check: Callable[[], object]) -> None:
        try:
            check()
        except (InputError, OSError) as error:
            if str(error) not in problems:
                problems.append(str(error))

    attempt(lambda: refuse_changed_config(folder, info, own_config(folder)))
    found: list[checksums.Listed | None] = []
    attempt(lambda: found.append(checksums.read_listed(folder)))
    listed = next(iter(found), None) or {}
    problems += [str(error) for error in checksums.check_listed(folder, listed, contents=True)]
    if found == [None]:
        problems.append(
            f"{folder / checksums.FILE} is missing: the run is older than checksums, or it was removed."
        )
    elif found == [{}]:
        problems.append(f"{folder / checksums.FILE} lists no file, so that none can be compared.")
    tables = {folder / f"{name}.parquet": schema for name, schema in TABLES.items()}
    tables |= {folder / "topology" / f"{name}.parquet": schema for name, schema in TOPOLOGY_TABLES.items()}
    for table, schema in tables.items():
        attempt(lambda table=table: check_complete(table))
        attempt(lambda table=table, schema=schema: parts.check_rows(table, schema))
    if (folder / PARTITION).is_file():
        attempt(lambda: read_partition(folder))
    rounds: list[int] = []
    attempt(lambda: rounds.extend(_rounds(folder)))
    saved = list_checkpoints(folder / "checkpoints")
    for path in saved:
        attempt(lambda path=path: read_checkpoint(path))
    if info.get("state") in ("done", "interrupted"):
        problems += _without_last(folder, saved, rounds)
        attempt(lambda: _check_graph(folder))
    return Verified(tuple(problems), len(listed), len(rounds), len(saved))


def _without_last(folder: Path, saved: Sequence[Path], rounds: Sequence[int]) -> list[str]:
    """The checkpoint that a run saves when it ends, if it is gone."""
    last = checkpoint_path(folder / "checkpoints", rounds[-1]) if rounds else None
    if last is None or last in saved:
        return []
    return [
        f"{last} is missing: a run that ends saves its state there. Without it the run cannot be gone on with from its "
        "end, evaluated or exported."
    ]


def _check_graph(folder: Path) -> None:
    """Compare the GraphML of a run that has ended with its tables, which a run on its way may just have changed.

    Raises:
        InputError: It is missing, damaged or another graph.
    """
    nodes, edges = last_topology(folder)
    if 0 < nodes.num_rows <= GRAPHML_MOST_DEVICES:
        check_graphml(folder / "topology" / "graph.graphml", nodes, edges)


def _rounds(folder: Path) -> list[int]:
    """The rounds recorded.

    Raises:
        InputError: One is missing or there twice.
    """
    table = parts.read(folder / "rounds.parquet", TABLES["rounds"], columns=["round"])
    found = sorted(table.column("round").to_pylist())
    if found != list(range(1, len(found) + 1)):
        wrong = next(n for n, r in enumerate(found, start=1) if n != r)
        raise InputError(
            f"The rows of {folder / 'rounds.parquet'} are not one a round",
            got=f"round {found[wrong - 1]} in the place of round {wrong}",
            expected=f"rounds 1 to {len(found)}, each once",
            change="Restore the table from a copy.",
        )
    return found
