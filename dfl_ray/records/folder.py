"""`RunFolder`: the one writer of `runs/<name>/`.

Layout: `config.yaml`, `run.json`, one folder of Parquet parts for each record table (`rounds.parquet`, ...),
`topology/` (`nodes.parquet`, `edges.parquet`, `graph.graphml`), `checkpoints/`, `wandb/`, `report.html` and
`.lock`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from dfl_ray.config.yamlio import dump
from dfl_ray.errors import InputError
from dfl_ray.records import lock, parts
from dfl_ray.records.info import STATES, State, new_info, now, read_info, write_info, write_text_atomically
from dfl_ray.records.schema import SCHEMA_VERSION, TABLES, TOPOLOGY_TABLES, TableLike, conform

GRAPHML_MOST_DEVICES = 5_000


@dataclass(frozen=True)
class RunFolder:
    """A run folder held open for writing; made by `create` or `open`, given back by `close` or `finish`."""

    path: Path
    _lock: lock.FolderLock = field(repr=False)

    @classmethod
    def create(
        cls,
        runs_dir: str | Path,
        name: str,
        config: str | Mapping[str, Any],
        *,
        suffix_if_taken: bool = False,
    ) -> RunFolder:
        """Make and lock a new run folder.

        Args:
            runs_dir: Folder of all run folders; made when missing.
            name: Name of the run, one path component.
            config: The resolved configuration, as YAML text or as a mapping.
            suffix_if_taken: For automatic names: take `name-2`, `name-3`, ... instead of refusing.

        Returns:
            The folder, locked, with empty tables.

        Raises:
            InputError: The name is no plain folder name, the folder is in use or is not empty.
        """
        if name in ("", ".", "..") or Path(name).name != name:
            raise InputError(
                f"`name: {name}` cannot be the name of a run folder",
                expected="one plain folder name",
                change="Set `runtime.runs_dir` to choose where run folders lie.",
            )
        path = Path(runs_dir) / name
        if suffix_if_taken:
            path = next(free for free in _alternatives(path) if _make_new(free))
        folder = cls(path, _claim(path))
        text = config if isinstance(config, str) else dump(dict(config))
        write_text_atomically(path / "config.yaml", text)
        for table, schema in TABLES.items():
            parts.append(path / f"{table}.parquet", schema.empty_table())
        folder.checkpoints.mkdir()
        write_info(path / "run.json", new_info(path.name))
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Lock an existing run folder to go on with it (state `running` again, of this schema version).

        Args:
            path: The run folder.

        Returns:
            The folder, locked.

        Raises:
            InputError: No run folder, one of a newer schema, or one in use.
        """
        path = Path(path)
        check_run_folder(path)
        folder = cls(path, lock.acquire(path))
        # Rows that follow are of this version, so that an older dfl-ray must no longer take the folder for its own.
        folder.update_info(state="running", ended_at=None, schema_version=SCHEMA_VERSION)
        return folder

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` holds now."""
        return read_info(self.path / "run.json")

    def update_info(self, **fields: Any) -> None:
        """Set fields of `run.json` and keep the others, atomically."""
        write_info(self.path / "run.json", {**self.info, **fields})

    def append(self, tables: Mapping[str, TableLike], round: int) -> None:
        """Add one round's rows, one atomic part a table, the `rounds` row last.

        Rows of a round whose `rounds` row is missing are not seen by `load_run`, so a crash inside this call
        loses that round as a whole.

        Args:
            tables: Any of `rounds`, `devices`, `transfers`, `attempts`, `evaluation`; the column `round` may be
                left out.
            round: The round all rows belong to; 0 = before tuning.

        Raises:
            ValueError: An unknown table, or rows that do not fit its schema (nothing is written then).
        """
        unknown = sorted(set(tables) - set(TABLES))
        if unknown:
            raise ValueError(f"no record table {unknown[0]!r}; known: {', '.join(TABLES)}")
        ready = {name: conform(table, TABLES[name], round=round) for name, table in tables.items()}
        for name in sorted(ready, key=lambda name: name == "rounds"):
            if ready[name].num_rows:
                parts.append(self.path / f"{name}.parquet", ready[name])

    def write_topology(self, nodes: TableLike, edges: TableLike, *, round: int = 1) -> None:
        """Add the topology that holds from `round` on, as tables and, for up to 5,000 devices, as GraphML.

        One recorded for the same or a later round is replaced, so that a resumed run may write it again.

        Args:
            nodes: Columns of `TOPOLOGY_NODES`; `gateway` is filled in from the edges when left out.
            edges: Columns of `TOPOLOGY_EDGES`.
            round: First round for which it holds.

        Raises:
            ValueError: Rows that do not fit the schemas.
        """
        from dfl_ray.records.topology import mark_gateways, write_graphml

        folder = self.path / "topology"
        edge_table = conform(edges, TOPOLOGY_TABLES["edges"], round=round)
        node_table = mark_gateways(conform(nodes, TOPOLOGY_TABLES["nodes"], round=round), edge_table)
        for table, rows in (("edges", edge_table), ("nodes", node_table)):
            parts.truncate(folder / f"{table}.parquet", round - 1)
            parts.append(folder / f"{table}.parquet", rows)
        if node_table.num_rows <= GRAPHML_MOST_DEVICES:
            write_graphml(folder / "graph.graphml", node_table, edge_table)

    def truncate(self, after_round: int) -> None:
        """Drop all rows of rounds later than `after_round`, to resume from a checkpoint. Repeatable.

        Args:
            after_round: Last round whose rows are kept, in every record table.
        """
        for table in TABLES:
            parts.truncate(self.path / f"{table}.parquet", after_round)
        for table in TOPOLOGY_TABLES:
            # A topology that holds from the next round on was built by the checkpointed state itself.
            parts.truncate(self.path / "topology" / f"{table}.parquet", after_round + 1)

    def finish(self, state: State, **fields: Any) -> None:
        """Compact every table into one part, write the final state and give the lock back.

        Args:
            state: `done`, `interrupted` or `failed`.
            fields: Further facts for `run.json`.

        Raises:
            ValueError: Another state.
        """
        if state not in STATES:
            raise ValueError(f"no run state {state!r}; known: {', '.join(STATES)}")
        for table, schema in TABLES.items():
            parts.compact(self.path / f"{table}.parquet", schema)
        for table, schema in TOPOLOGY_TABLES.items():
            parts.compact(self.path / "topology" / f"{table}.parquet", schema)
        self.update_info(state=state, ended_at=now(), **fields)
        self.close()

    def close(self) -> None:
        """Give the lock back and leave everything as it is. Repeating it does nothing."""
        self._lock.release()


def _alternatives(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}-{number}")


def _make_new(path: Path) -> bool:
    """Make a folder; False when something of that name is there. Two racing callers cannot both get True."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise InputError(
            f"The run folder {path} cannot be made",
            got=error.strerror or str(error),
            change="Set `runtime.runs_dir` to a folder you may write to.",
        ) from error
    return True


def _claim(path: Path) -> lock.FolderLock:
    """Lock a folder, made if need be, and make sure that it was empty."""
    if not _make_new(path) and not path.is_dir():
        raise InputError(
            f"The run folder {path} cannot be made",
            got="a file of that name",
            change="Choose another `name=...`.",
        )
    held = lock.acquire(path)
    if any(entry.name != lock.LOCK_NAME for entry in path.iterdir()):
        raise InputError(
            f"The run folder {path} exists and is not empty",
            got=_holds(path),
            expected="a new or empty folder",
            change=f"Go on with that run by `dfl-ray resume {path}`, or give this one another `name=...`.",
        )
    return held


def _holds(path: Path) -> str:
    try:
        info = read_info(path / "run.json")
        return f"a run in state `{info.get('state')}`, started {info.get('started_at')}"
    except (OSError, ValueError):
        return "other files"


def check_run_folder(path: Path) -> dict[str, Any]:
    """Make sure that a path is a run folder this version can read.

    Args:
        path: Where the run folder should be.

    Returns:
        What its `run.json` holds.

    Raises:
        InputError: Missing, foreign, damaged, or of a newer schema.
    """
    change = "Give the folder of a run made by `dfl-ray run`, for example `runs/<name>`."
    if not path.is_dir():
        raise InputError(f"There is no run folder {path}", got=_neighbours(path), change=change)
    try:
        info = read_info(path / "run.json")
        version = int(info["schema_version"])
    except FileNotFoundError:
        raise InputError(
            f"{path} is not a run folder", got="no run.json in it", expected="run.json", change=change
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / 'run.json'} cannot be read", got=repr(error), change=change) from error
    if version > SCHEMA_VERSION:
        raise InputError(
            f"The run {path} was written by a newer dfl-ray",
            got=f"schema version {version}",
            expected=f"at most {SCHEMA_VERSION}",
            change="Read it with the version of dfl-ray that wrote it, or update this one.",
        )
    return info


def _neighbours(path: Path) -> str:
    """Name the runs beside a missing one, newest first."""
    if not path.parent.is_dir():
        return "nothing at that path"
    runs = sorted(path.parent.glob("*/run.json"), key=lambda file: -file.stat().st_mtime)
    return "runs there: " + ", ".join(run.parent.name for run in runs[:5]) if runs else "no runs beside it"
