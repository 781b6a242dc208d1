"""`load_run`: a run folder as pandas tables, also while the run is still going."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from dfl_ray.config.yamlio import YAMLError, parse, place_and_reason
from dfl_ray.errors import InputError
from dfl_ray.records import parts
from dfl_ray.records.folder import check_run_folder
from dfl_ray.records.schema import TABLES, TOPOLOGY_TABLES, WALL_COLUMNS


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

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.info.get("name", self.path.name))

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
            name: `rounds`, `devices`, `transfers`, `attempts` or `evaluation`.
            columns: Columns wanted; none = all.
            rounds: First and last round wanted; none = all that are complete.

        Returns:
            The rows in the order in which they were written. A table or column that the version which wrote the
            folder did not know is empty or null.

        Raises:
            InputError: A part of the table is damaged or of a newer dfl-ray.
        """
        first, last = rounds or (0, self.last_round)
        filters = [("round", ">=", first), ("round", "<=", min(last, self.last_round))]
        table = parts.read(self.path / f"{name}.parquet", TABLES[name], columns=columns, filters=filters)
        return _frame(table)

    def topology_at(self, round: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Nodes and edges of the topology that held in a round; empty tables when none is recorded.

        Args:
            round: The round; 0 = before tuning.

        Returns:
            Rows of `topology_nodes` and of `topology_edges`.
        """
        nodes, edges = self.topology_nodes, self.topology_edges
        starts = nodes["round"][nodes["round"] <= round]
        start = starts.max() if len(starts) else nodes["round"].min()
        return nodes[nodes["round"] == start], edges[edges["round"] == start]

    def _topology(self, name: str) -> pd.DataFrame:
        return _frame(parts.read(self.path / "topology" / f"{name}.parquet", TOPOLOGY_TABLES[name]))


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.replace_schema_metadata(None).to_pandas()


def load_run(path: str | Path) -> Run:
    """Open a run folder for reading.

    Rows of a round that was not finished (after a crash, or in a run that is going on) are left out, so all
    tables speak of the same rounds.

    Args:
        path: `runs/<name>`.

    Returns:
        The run; its tables are read when first asked for.

    Raises:
        InputError: Missing, foreign, damaged, or written by a newer dfl-ray.
    """
    path = Path(path)
    info = check_run_folder(path)
    try:
        config = parse((path / "config.yaml").read_text(encoding="utf-8"))
    except OSError as error:
        raise _damaged_config(path, "cannot be read", str(error)) from error
    except YAMLError as error:
        place, reason = place_and_reason(error)
        raise _damaged_config(path, f"is not YAML{place}", reason) from error
    done = parts.read(path / "rounds.parquet", TABLES["rounds"], columns=["round"]).column("round")
    last = max(done.to_pylist(), default=0)
    return Run(path, config if isinstance(config, dict) else {}, info, last)


def _damaged_config(path: Path, what: str, got: str) -> InputError:
    return InputError(
        f"{path / 'config.yaml'} {what}", got=got, change="Restore the file, or give another run folder."
    )


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
