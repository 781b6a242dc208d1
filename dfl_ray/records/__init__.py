"""Records of a run: tables with fixed schemas, written round by round, read into pandas.

`RunFolder` writes, `load_run` reads; `docs/records.md` lists every column.
"""

from dfl_ray.records.folder import RunFolder
from dfl_ray.records.folder_checks import check_run_folder
from dfl_ray.records.loading import Run, comparable, load_run
from dfl_ray.records.schema import (
    ATTEMPTS,
    DEVICES,
    EVALUATION,
    EXPERTS,
    LOCAL_ROUNDS,
    ROUNDS,
    ROUTING,
    SCHEMA_VERSION,
    TABLES,
    TOPOLOGY_EDGES,
    TOPOLOGY_NODES,
    TRANSFERS,
    WALL_COLUMNS,
)
from dfl_ray.records.topology import held_tasks, topology_tables

__all__ = [
    "ATTEMPTS",
    "DEVICES",
    "EVALUATION",
    "EXPERTS",
    "LOCAL_ROUNDS",
    "ROUNDS",
    "ROUTING",
    "SCHEMA_VERSION",
    "TABLES",
    "TOPOLOGY_EDGES",
    "TOPOLOGY_NODES",
    "TRANSFERS",
    "WALL_COLUMNS",
    "Run",
    "RunFolder",
    "check_run_folder",
    "comparable",
    "held_tasks",
    "load_run",
    "topology_tables",
]
