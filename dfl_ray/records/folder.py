"""`RunFolder`: the one writer of `runs/<name>/`.

Layout: `config.yaml`, `run.json`, one folder of Parquet parts for each record table (`rounds.parquet`, ...),
`topology/` (`nodes.parquet`, `edges.parquet`, `graph.graphml`), `checkpoints/`, `wandb/`, `report.html` and
`.lock`.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfl_ray.config.yamlio import dump
from dfl_ray.errors import InputError
from dfl_ray.records import checksums, lock, parts
from dfl_ray.records.folder_checks import check_empty, check_folder, check_run_folder
from dfl_ray.records.info import STATES, State, new_info, now, read_info, write_info, write_text_atomically
from dfl_ray.records.part_files import check_complete, list_parts, parse_name
from dfl_ray.records.remote import Mirror
from dfl_ray.records.schema import SCHEMA_VERSION, TABLES, TOPOLOGY_TABLES, conform

if TYPE_CHECKING:
    from dfl_ray.records.schema import TableLike

_OF_ITS_END = ("ended_early_after", "stopped_by", "failed_by")
"""Keys of `run.json` that are there where a run has ended before its last round."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder held open for writing; made by `create` or `open`, given back by `close` or `finish`."""

    path: Path
    _lock: lock.FolderLock = field(repr=False)
    mirror: Mirror | None = field(default=None, repr=False)

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
        try:
            folder._fill(config if isinstance(config, str) else dump(dict(config)))
        except BaseException as error:  # half made, it could be neither resumed nor run again
            folder.close()
            shutil.rmtree(path, ignore_errors=True)
            if isinstance(error, OSError):
                raise _not_made(path, error) from error
            raise
        return folder

    def _fill(self, config: str) -> None:
        """Write what every run folder holds from the start, `run.json` last."""
        self.path.chmod(0o700)  # configurations and logs can hold what is the user's alone
        write_text_atomically(self.path / "config.yaml", config)
        for table, schema in TABLES.items():
            parts.append(self.path / f"{table}.parquet", schema.empty_table())
        self.checkpoints.mkdir()
        (self.path / "topology").mkdir()
        write_info(self.path / "run.json", new_info(self.path.name))
        self._list_parts()

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Lock an existing run folder to go on with it; `begin` is to follow, and nothing is changed before.

        Args:
            path: The run folder.

        Returns:
            The folder, locked.

        Raises:
            InputError: No run folder, one of a newer schema, or one in use.
        """
        path = Path(path)
        check_run_folder(path)
        return cls(path, lock.acquire(path))

    def begin(self, *, ended: bool = False) -> None:
        """Note that the run goes on: state `running` again, of this schema version; nothing is said of its end.

        Args:
            ended: It has ended and is only to be finished: what is said of its end stays.
        """
        dropped = ("failed_by",) if ended else _OF_ITS_END
        info = {key: value for key, value in self.info.items() if key not in dropped}
        # Rows that follow are of this version, so that an older dfl-ray must no longer take the folder for its own.
        now = {"state": "running", "ended_at": None, "schema_version": SCHEMA_VERSION}
        write_info(self.path / "run.json", info | now)

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
            tables: Any of `dfl_ray.records.TABLES`; the column `round` may be
                left out.
            round: The round all rows belong to; 0 = before tuning.

        Raises:
            ValueError: An unknown table, or rows that do not fit its schema (nothing is written then).
        """
        unknown = sorted(set(tables) - set(TABLES))
        if unknown:
            raise ValueError(f"no record table {unknown[0]!r}; known: {', '.join(TABLES)}")
        ready = {name: conform(table, TABLES[name], round=round) for name, table in tables.items()}
        filled = {self.path / f"{name}.parquet": rows for name, rows in ready.items() if rows.num_rows}
        last = self.path / "rounds.parquet"
        parts.append_all({path: rows for path, rows in filled.items() if path != last})
        parts.append_all({path: rows for path, rows in filled.items() if path == last})
        if "rounds" in ready:
            self._list_parts()

    def rewrite(self, tables: Mapping[str, TableLike], round: int) -> None:
        """Put other rows in the place of those of the newest round, in some tables; see `append`.

        Args:
            tables: The tables, `rounds` among them, and all rows that they are to hold of the round.
            round: The newest round.
        """
        folders = [self.path / f"{name}.parquet" for name in tables]
        self._list_parts({part for folder in folders for part in self._later(folder, round - 1)})
        for folder in folders:
            parts.truncate(folder, round - 1)
        self.append(tables, round)

    def _list_parts(self, rewritten: Collection[str] = ()) -> None:
        """Bring the entries of all record parts in `checksums.json` up to date.

        Args:
            rewritten: Names of parts whose entries are dropped for now, since they are about to be written anew.
        """
        listed = checksums.read_listed(self.path)
        if listed is None and read_info(self.path / "run.json")["schema_version"] != SCHEMA_VERSION:
            return
        before = listed or {}
        after = {name: entry for name, entry in before.items() if parse_name(Path(name)) is None}
        for table in table_folders(self.path):
            for part in list_parts(table)[0]:
                name = part.path.relative_to(self.path).as_posix()
                if name not in rewritten:
                    after[name] = before.get(name) or checksums.checksum(part.path)
        if after != listed:
            checksums.write_listed(self.path, after)

    def list_files(self, paths: Iterable[Path]) -> None:
        """Add files that are written once, and were just now, to `checksums.json`.

        Args:
            paths: Files below the run folder.
        """
        checksums.add_files(self.path, paths)

    @contextmanager
    def renewing(self, name: str) -> Iterator[Path]:
        """Write a folder whose files are listed anew, so that a crash at any point leaves no file that differs.

        Args:
            name: The folder's name in the run folder.

        Yields:
            Where to write. What is there at the end takes the folder's place; nothing there leaves it.
        """
        checksums.drop_files(self.path, name)
        made, place = self.path / f".{name}.tmp", self.path / name
        shutil.rmtree(made, ignore_errors=True)
        yield made
        if made.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            made.rename(place)
            self.list_files(path for path in sorted(place.rglob("*")) if path.is_file())

    def check(self) -> None:
        """Refuse to go on with a run whose records are damaged: every byte of them is read.

        Raises:
            InputError: It names the file.
        """
        check_records(self.path, contents=True)

    def write_topology(self, nodes: TableLike, edges: TableLike, *, round: int = 1) -> None:
        """Add the topology that holds from `round` on, as tables; the first, for up to 5,000 devices, as GraphML too.

        The GraphML is that of the last topology once `finish` has been called: to write it in every round would take
        longer than many a round does. One recorded for the same or a later round is replaced, so that a resumed run may
        write it again.

        Args:
            nodes: Columns of `TOPOLOGY_NODES`; `gateway` is filled in from the edges when left out.
            edges: Columns of `TOPOLOGY_EDGES`.
            round: First round for which it holds.

        Raises:
            ValueError: Rows that do not fit the schemas.
        """
        from dfl_ray.records.topology import draw_graph, mark_gateways

        folder = self.path / "topology"
        edge_table = conform(edges, TOPOLOGY_TABLES["edges"], round=round)
        node_table = mark_gateways(conform(nodes, TOPOLOGY_TABLES["nodes"], round=round), edge_table)
        self._list_parts(self._later(folder, round - 1))
        for table, rows in (("edges", edge_table), ("nodes", node_table)):
            parts.truncate(folder / f"{table}.parquet", round - 1)
            parts.append(folder / f"{table}.parquet", rows)
        if round <= 1 or not (folder / "graph.graphml").exists():
            draw_graph(self.path, node_table, edge_table)
        self._list_parts()

    def _later(self, folder: Path, after_round: int) -> set[str]:
        """Names of the parts below a folder that truncation after a round rewrites."""
        return {
            part.path.relative_to(self.path).as_posix()
            for table in table_folders(self.path)
            if table.is_relative_to(folder)
            for part in list_parts(table)[0]
            if parts.reaches_beyond(part, after_round)
        }

    def truncate(self, after_round: int) -> None:
        """Drop all rows of rounds later than `after_round`, to resume from a checkpoint. Repeatable.

        Args:
            after_round: Last round whose rows are kept, in every record table.
        """
        self._list_parts(self._later(self.path, after_round))
        moved = self._later(self.path / "topology", after_round + 1)
        for table in TABLES:
            parts.truncate(self.path / f"{table}.parquet", after_round)
        for table in TOPOLOGY_TABLES:
            # A topology that holds from the next round on was built by the checkpointed state itself.
            parts.truncate(self.path / "topology" / f"{table}.parquet", after_round + 1)
        if moved:
            from dfl_ray.records.topology import draw_graph, last_topology

            draw_graph(self.path, *last_topology(self.path))
        self._list_parts()

    def finish(self, state: State, **fields: Any) -> None:
        """Compact every table into one part, draw the last graph, write the final state and give the lock back.

        Where the disk has no room for compacted tables, which need none to be read, the state is written all the same;
        a run that was `done` is `failed` then.

        Args:
            state: `done`, `interrupted` or `failed`.
            fields: Further facts for `run.json`.

        Raises:
            ValueError: Another state.
            OSError: A table cannot be compacted, or the state not be written.
        """
        if state not in STATES:
            raise ValueError(f"no run state {state!r}; known: {', '.join(STATES)}")
        try:
            self._compact()
        except OSError as error:
            if state == "done":
                state, fields = "failed", {**fields, "failed_by": str(error)}
            raise
        finally:
            try:
                self.update_info(state=state, ended_at=now(), **fields)
            finally:
                self.close()

    def _compact(self) -> None:
        """Merge every table into one part."""
        for table, schema in TABLES.items():
            parts.compact(self.path / f"{table}.parquet", schema)
        for table, schema in TOPOLOGY_TABLES.items():
            parts.compact(self.path / "topology" / f"{table}.parquet", schema)
        if (parts.newest_round(self.path / "topology" / "nodes.parquet") or 0) > 1:
            from dfl_ray.records.topology import draw_graph, last_topology

            draw_graph(self.path, *last_topology(self.path))
        self._list_parts()

    def close(self) -> None:
        """Give the lock back and leave everything as it is. Repeating it does nothing."""
        self._lock.release()


def table_folders(path: Path) -> list[Path]:
    """The folders of all tables of a run, those of its topology among them.

    Args:
        path: The run folder.
    """
    return [
        *(path / f"{table}.parquet" for table in TABLES),
        *(path / "topology" / f"{table}.parquet" for table in TOPOLOGY_TABLES),
    ]


def check_records(path: Path, *, contents: bool = False) -> None:
    """Refuse a run folder in which a listed file is missing or of another size, or a table lacks a part.

    Args:
        path: The run folder.
        contents: Whether every byte is read, which finds files of the right size with other contents too.

    Raises:
        InputError: It names the file.
    """
    checksums.refuse_damage(path, contents=contents)
    for table in table_folders(path):
        for last in (False, False, True):  # a live run may merge parts while they are listed
            try:
                check_complete(table)
                break
            except InputError:
                if last:
                    raise


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
        raise _not_made(path, error) from error
    return True


def _not_made(path: Path, error: OSError) -> InputError:
    return InputError(
        f"The run folder {path} cannot be made",
        got=error.strerror or str(error),
        change="Set `runtime.runs_dir` to a folder you may write to, on a disk with room.",
    )


def _claim(path: Path) -> lock.FolderLock:
    """Lock a folder, made if need be, and make sure that it was empty."""
    if not _make_new(path):
        check_folder(path)
    held = lock.acquire(path)
    check_empty(path)
    return held
