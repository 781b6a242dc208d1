"""`load_run`: a run folder as pandas tables, also while the run is still going."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dfl_ray.errors import InputError, nearest
from dfl_ray.records import parts
from dfl_ray.records.arguments import check_names, check_text, check_whole, is_list
from dfl_ray.records.folder import check_records
from dfl_ray.records.folder_checks import check_run_folder
from dfl_ray.records.partition import read_partition
from dfl_ray.records.remote import fetched, is_remote
from dfl_ray.records.run_config import read_config
from dfl_ray.records.schema import TABLES, TOPOLOGY_TABLES, WALL_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


BLOCK_ROWS = 2_000_000
"""Rows of a table that are read at a time where all of it is looked through: a few hundred megabytes."""


@dataclass(frozen=True)
class Run:
    """One run, read from its folder. Tables are read when first asked for and then kept.

    Attributes:
        path: The run folder.
        config: The resolved configuration.
        info: What `run.json` holds.
        last_round: Last round that is complete on disk; 0 when none is.
    """

    path: Path
    config: dict[str, Any]
    info: dict[str, Any]
    last_round: int

    def __repr__(self) -> str:
        """In one line: what it is and where, not all that it holds."""
        return f"Run({str(self.path)!r}, {self.info.get('state')}, {self.last_round} rounds)"

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.info.get("name", self.path.name))

    @property
    def adapters(self) -> dict[str, Path]:
        """Name -> folder of each saved adapter, which `peft.PeftModel.from_pretrained` reads; empty before the end."""
        return {
            folder.name: folder
            for folder in sorted((self.path / "adapters").glob("*"))
            if (folder / "adapter_config.json").is_file()
        }

    @cached_property
    def sums(self) -> dict[str, Any]:
        """What has been summed up of this run's tables, by the name of what did it; see `dfl_ray.records.results`."""
        return {}

    @cached_property
    def partition(self) -> pd.DataFrame:
        """Who holds which rows: columns device, task, row and split; see `dfl_ray.records.partition`."""
        return read_partition(self.path)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row a round; see `dfl_ray.records.ROUNDS`."""
        return self.table("rounds")

    @cached_property
    def devices(self) -> pd.DataFrame:
        """One row a device and round; see `dfl_ray.records.DEVICES`."""
        return self.table("devices")

    @cached_property
    def transfers(self) -> pd.DataFrame:
        """One row a transfer, that is, a radio hop; see `dfl_ray.records.TRANSFERS`."""
        return self.table("transfers")

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row a transmission and receiver; see `dfl_ray.records.ATTEMPTS`.

        Empty for runs that were recorded before attempts were kept (schema version 1).
        """
        return self.table("attempts")

    @cached_property
    def evaluation(self) -> pd.DataFrame:
        """One row a device, task and rule for each evaluated round; see `dfl_ray.records.EVALUATION`."""
        return self.table("evaluation")

    @cached_property
    def experts(self) -> pd.DataFrame:
        """What each device answers each task with, whose it is and how old; see `dfl_ray.records.EXPERTS`.

        Empty for runs that were recorded before schema version 4.
        """
        return self.table("experts")

    @cached_property
    def routing(self) -> pd.DataFrame:
        """Held-out rows by task, and by the expert that the router chose; see `dfl_ray.records.ROUTING`.

        Empty for methods without a router and for runs that were recorded before schema version 4.
        """
        return self.table("routing")

    @cached_property
    def local_rounds(self) -> pd.DataFrame:
        """One row a local round of a device; see `dfl_ray.records.LOCAL_ROUNDS`; empty under `schedule: sync`."""
        return self.table("local_rounds")

    def confusion(self, rule: str | None = None, *, round: int | None = None) -> pd.DataFrame:
        """Sum up the router's choices over all devices.

        Args:
            rule: The inference rule; none = the first recorded.
            round: The round; none = the last that was evaluated.

        Returns:
            Rows by the task of the held-out rows, columns by the task of the expert chosen; shares in [0, 1] that sum
            to 1 in each row. Without rows where no router chose.

        Raises:
            InputError: A rule by which the run's router never chose, or a round in which it was not asked.
        """
        rows = self.routing_sums
        for asked, column in ((rule, "rule"), (round, "round")):
            known = list(dict.fromkeys(rows[column]))
            if asked is not None and known and asked not in known:
                raise InputError(
                    f"No router of the run chose by `{column}={asked}`", expected=", ".join(map(str, known))
                )
        rows = rows[rows["rule"] == (rule or next(iter(rows["rule"]), None))]
        rows = rows[rows["round"] == (rows["round"].max() if round is None else round)]
        counts = rows.pivot_table(index="task", columns="chosen", values="rows", aggfunc="sum", fill_value=0)
        names = sorted({*counts.index, *counts.columns})
        counts = counts.reindex(index=sorted(counts.index), columns=names, fill_value=0)
        return counts.div(counts.sum(axis=1), axis=0)

    @cached_property
    def routing_sums(self) -> pd.DataFrame:
        """Held-out rows over all devices: one row a round, rule, task and task of the expert chosen.

        Summed up by Arrow as it is read, as `accuracy_means` is.
        """
        keys = ["round", "rule", "task", "chosen"]
        filters = [("round", "<=", self.last_round)]
        table = parts.read(
            self.path / "routing.parquet", TABLES["routing"], columns=[*keys, "rows"], filters=filters
        )
        sums = table.group_by(keys, use_threads=False).aggregate([("rows", "sum")])
        return _frame(sums).rename(columns={"rows_sum": "rows"})[[*keys, "rows"]]

    @cached_property
    def accuracy_means(self) -> pd.DataFrame:
        """Mean accuracy over devices, one row a round, rule and task: columns `accuracy`, `chance`, `devices` too.

        Summed up by Arrow as it is read, so that ten thousand devices cost no more memory than one column of them.
        """
        columns = ["round", "rule", "task", "accuracy", "chance"]
        filters = [("round", "<=", self.last_round)]
        table = parts.read(
            self.path / "evaluation.parquet", TABLES["evaluation"], columns=columns, filters=filters
        )
        sums = [("accuracy", "mean"), ("chance", "mean"), ("accuracy", "count")]
        # One thread keeps the order in which rules and tasks were recorded.
        means = table.group_by(["round", "rule", "task"], use_threads=False).aggregate(sums)
        names = {"accuracy_mean": "accuracy", "chance_mean": "chance", "accuracy_count": "devices"}
        return _frame(means).rename(columns=names)[[*columns, "devices"]]

    @cached_property
    def topology_nodes(self) -> pd.DataFrame:
        """Devices of each topology the run had; see `dfl_ray.records.TOPOLOGY_NODES`."""
        return self._topology("nodes")

    @cached_property
    def topology_edges(self) -> pd.DataFrame:
        """Links of each topology the run had; see `dfl_ray.records.TOPOLOGY_EDGES`."""
        return self._topology("edges")

    def table(
        self, name: str, *, columns: Sequence[str] | None = None, rounds: tuple[int, int] | None = None
    ) -> pd.DataFrame:
        """Read part of a table, without loading the rest of it.

        Args:
            name: `rounds`, `devices`, `transfers`, `attempts`, `evaluation`, `experts`, `routing` or
                `local_rounds`.
            columns: Columns wanted; none = all.
            rounds: First and last round wanted; none = all that are complete.

        Returns:
            The rows in the order in which they were written. A table or column that the version which wrote the
            folder did not know is empty or null.

        Raises:
            InputError: There is no such table or column, or a part of it is damaged or of a newer dfl-ray.
        """
        _check_asked(name, columns)
        first, last = _span(rounds) if rounds is not None else (0, self.last_round)
        filters = [("round", ">=", first), ("round", "<=", min(last, self.last_round))]
        table = parts.read(self.path / f"{name}.parquet", TABLES[name], columns=columns, filters=filters)
        return _frame(table)

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Spans of rounds to read tables by, of about `BLOCK_ROWS` rows of the largest of them.

        Args:
            names: The tables that are to be read.

        Yields:
            (first, last) for `table`; together all rounds from 0, the evaluation before tuning, to the last.
        """
        rows = max((parts.count_rows(self.path / f"{name}.parquet") for name in names), default=0)
        step = max(1, BLOCK_ROWS * self.last_round // max(rows, 1))
        for first in range(0, self.last_round + 1, step):
            yield first, min(first + step - 1, self.last_round)

    def of_device(
        self, name: str, device: int, columns: Sequence[str], where: Sequence[tuple[str, str, Any]] = ()
    ) -> pd.DataFrame:
        """Read the rows of a table that concern one device, without loading those of the others.

        Args:
            name: `devices`, `evaluation`, `experts`, `routing` or `local_rounds`, of which the device's own rows are
                read, or `transfers` or `attempts`, of which those are read that it sends or receives.
            device: Index of the device.
            columns: Columns wanted.
            where: Conditions as in `pyarrow.parquet.read_table` that all rows must meet, in place of that on the ends.

        Returns:
            The rows of all complete rounds, in the order in which they were written.

        Raises:
            InputError: A part of the table is damaged or of a newer dfl-ray.
        """
        _check_asked(name, columns)
        check_whole("device", device, 0)
        ends = ("source", "destination") if name in ("transfers", "attempts") else ("device",)
        complete = ("round", "<=", self.last_round)
        filters = [[*where, complete]] if where else [[(end, "==", device), complete] for end in ends]
        table = parts.read(self.path / f"{name}.parquet", TABLES[name], columns=columns, filters=filters)
        return _frame(table)

    def topology_at(self, round: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Nodes and edges of the topology that held in a round; empty tables when none is recorded.

        Args:
            round: The round; 0 = before tuning.

        Returns:
            Rows of `topology_nodes` and of `topology_edges`.

        Raises:
            InputError: That is no round.
        """
        check_whole("round", round, 0)
        where = self._held_in(round)
        return self._topology("nodes", where), self._topology("edges", where)

    def nodes_at(self, round: int) -> pd.DataFrame:
        """Devices of the topology that held in a round: the first of what `topology_at` gives, without the other.

        Args:
            round: The round; 0 = before tuning.

        Returns:
            Rows of `topology_nodes`.

        Raises:
            InputError: That is no round.
        """
        check_whole("round", round, 0)
        return self._topology("nodes", self._held_in(round))

    @property
    def last_evaluated(self) -> int:
        """The last round that was evaluated, by whatever rule; 0 where none was."""
        rounds = self.accuracy_means["round"]
        return int(rounds.max()) if len(rounds) else 0

    @cached_property
    def _topology_starts(self) -> list[int]:
        """First rounds of the topologies recorded, in order."""
        folder = self.path / "topology" / "nodes.parquet"
        rounds = parts.read(folder, TOPOLOGY_TABLES["nodes"], columns=["round"]).column("round")
        return sorted(rounds.unique().to_pylist())

    def _held_in(self, round: int) -> list[tuple[str, str, int]]:
        """Filter for the rows of the topology of a round; before the first that one holds."""
        starts = self._topology_starts
        held = max((start for start in starts if start <= round), default=starts[0] if starts else -1)
        return [("round", "==", held)]

    def _topology(self, name: str, where: Sequence[tuple[str, str, int]] | None = None) -> pd.DataFrame:
        folder = self.path / "topology" / f"{name}.parquet"
        return _frame(parts.read(folder, TOPOLOGY_TABLES[name], filters=where))


def _check_asked(name: str, columns: Sequence[str] | None) -> None:
    """Refuse a table or columns that there are none of."""
    if check_text("name", name, "a record table: " + ", ".join(TABLES)) not in TABLES:
        raise InputError(f"There is no record table `{name}`", expected=nearest(name, TABLES))
    for column in () if columns is None else check_names("columns", columns, "a list of columns"):
        if column not in TABLES[name].names:
            raise InputError(
                f"The table `{name}` has no column `{column}`", expected=nearest(column, TABLES[name].names)
            )


def _span(rounds: Any) -> tuple[int, int]:
    if not is_list(rounds) or len(rounds) != 2:
        raise InputError("`rounds` is no pair", got=f"{rounds!r}"[:80], expected="(first, last)")
    return check_whole("rounds", rounds[0]), check_whole("rounds", rounds[1])


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.replace_schema_metadata(None).to_pandas()


def load_run(path: str | Path) -> Run:
    """Open a run folder for reading.

    Rows of a round that was not finished (after a crash, or in a run that is going on) are left out, so all
    tables speak of the same rounds.

    Args:
        path: `runs/<name>`, or the URL of a run, which is fetched first (`records.remote`).

    Returns:
        The run; its tables are read when first asked for.

    Raises:
        InputError: Missing, foreign, damaged, or written by a newer dfl-ray.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise InputError(
            "`load_run` opens a folder", got=f"{path!r}"[:80], expected="its path as a text or a Path"
        )
    path = fetched(str(path)) if is_remote(path) else Path(path)
    info = check_run_folder(path)
    config = read_config(path)
    check_records(path)
    done = parts.read(path / "rounds.parquet", TABLES["rounds"], columns=["round"]).column("round")
    last = max(done.to_pylist(), default=0)
    return Run(path, config, info, last)


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the columns that describe the machine and not the experiment, and sort, to compare two runs.

    Args:
        table: Any record table.

    Returns:
        The table without `WALL_COLUMNS`, sorted by round, transfer, attempt, device, task, rule and destination, as
        far as it has them. Two runs of one configuration and seed give equal tables.
    """
    kept = table.drop(columns=[name for name in WALL_COLUMNS if name in table.columns])
    keys = [
        name
        for name in ("round", "transfer", "attempt", "device", "task", "rule", "destination")
        if name in kept.columns
    ]
    return kept.sort_values(keys, kind="stable").reset_index(drop=True)
