"""`dfl-ray status`: the state of runs, from their folders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dfl_ray.tracking.terminal import columns

if TYPE_CHECKING:
    from dfl_ray.records.states import RunState


def status(options: argparse.Namespace) -> int:
    """`dfl-ray status`: one line a run; with `--json` an object that lists them."""
    import json

    from dfl_ray.cli.commands import watched
    from dfl_ray.errors import InputError
    from dfl_ray.records.states import states_of

    folders = [watched(text) for text in options.runs or ["runs"]]
    for folder in folders:
        if options.runs and not folder.is_dir():
            raise InputError(f"There is no folder `{folder}`", expected="a run folder, or a folder of runs")
    states = list(states_of(folders))
    if options.json:
        print(json.dumps({"runs": [_plain(state) for state in states]}))
    elif states:
        _print_table(states)
    else:
        print(f"There are no runs in {', '.join(map(str, folders))}.")
    return 0


def _plain(state: RunState) -> dict[str, Any]:
    return {**vars(state), "path": str(state.path)}


def _print_table(states: Sequence[RunState]) -> None:
    """The states as columns; on a narrow terminal as lines."""
    from rich.table import Table

    from dfl_ray.tracking.console import LastingConsole
    from dfl_ray.tracking.summary import Fitting

    table = Table(title="Runs", title_justify="left")
    for name in ("run", "state", "method", "devices", "round", "accuracy", "time left", "heartbeat", "note"):
        table.add_column(name, justify="right" if name in ("devices", "round", "accuracy") else "left")
    for state in states:
        table.add_row(*_cells(state))
    console = LastingConsole(highlight=False, width=columns())
    console.print(Fitting(table))


def _cells(state: RunState) -> list[str]:
    from dfl_ray.records.words import share
    from dfl_ray.tracking.state_words import heartbeat_words, left_words

    rounds = f"{state.round}/{state.rounds}"
    return [
        state.name, state.state, state.method, f"{state.devices:,}", rounds, share(state.accuracy),
        left_words(state), heartbeat_words(state), state.note,
    ]  # fmt: skip
