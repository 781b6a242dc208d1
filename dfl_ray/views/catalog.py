"""Every figure by name: the report, the dashboard and `dfl-ray plot` show what is listed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import plotly.graph_objects as go

from dfl_ray.records import Run
from dfl_ray.records.arguments import check_text, check_whole
from dfl_ray.views.accuracy import accuracy_by_task, accuracy_heatmap
from dfl_ray.views.checked import check_each_once, check_runs
from dfl_ray.views.compare import accuracy_of_runs, cost_bars
from dfl_ray.views.costs import loss_and_delivery, wall_split
from dfl_ray.views.device import (
    device_accuracy,
    device_energy,
    device_experts,
    device_links,
    device_place,
    device_time,
)
from dfl_ray.views.learning import energy_of_devices, learning_state, routing, task_matrices
from dfl_ray.views.maps import device_map
from dfl_ray.views.radio import rate_distribution, schedule, sinr_distribution
from dfl_ray.views.scaling import number_of_devices, scaling

One = Callable[[Run], go.Figure]
Several = Callable[[Sequence[Run]], go.Figure]
AtRound = Callable[[Run, int | None], go.Figure]
OfDevice = Callable[[Run, int], go.Figure]


@dataclass(frozen=True)
class Entry:
    """One figure.

    Attributes:
        section: Heading under which it stands.
        one: Draws it of one run.
        several: Draws it of several runs compared; None where that has no meaning.
        live: Whether a dashboard draws it anew with every round.
        at: Draws it as of a chosen round; None where it shows the whole run.
    """

    section: str
    one: One
    several: Several | None = None
    live: bool = True
    at: AtRound | None = None


def _pair(build: Several) -> tuple[One, Several]:
    return (lambda run: build([run])), build


FIGURES: dict[str, Entry] = {
    "accuracy_over_rounds": Entry("Learning", accuracy_by_task, accuracy_of_runs),
    "accuracy_over_bytes": Entry(
        "Learning", partial(accuracy_by_task, over="bytes"), partial(accuracy_of_runs, over="bytes")
    ),
    "accuracy_over_airtime": Entry(
        "Learning", partial(accuracy_by_task, over="airtime"), partial(accuracy_of_runs, over="airtime")
    ),
    "accuracy_over_energy": Entry(
        "Learning", partial(accuracy_by_task, over="energy"), partial(accuracy_of_runs, over="energy")
    ),
    "accuracy_over_time": Entry(
        "Learning", partial(accuracy_by_task, over="simulated"), partial(accuracy_of_runs, over="simulated")
    ),
    "accuracy_heatmap": Entry("Learning", accuracy_heatmap),
    "loss": Entry("Learning", loss_and_delivery),
    "learning_state": Entry("Learning", learning_state),
    "routing": Entry("Learning", routing),
    "task_matrices": Entry("Learning", task_matrices),
    "device_map": Entry("Network and radio", device_map, at=device_map),
    "schedule": Entry("Network and radio", schedule, at=schedule),
    "sinr": Entry("Network and radio", *_pair(sinr_distribution), live=False),
    "rate": Entry("Network and radio", *_pair(rate_distribution), live=False),
    "costs": Entry("Cost", *_pair(cost_bars)),
    "energy": Entry("Cost", energy_of_devices),
    "wall_time": Entry("Real time", wall_split),
}
"""Name -> figure, in the order in which they are shown."""

DEVICE_FIGURES: dict[str, OfDevice] = {
    "device_place": device_place,
    "device_accuracy": device_accuracy,
    "device_experts": device_experts,
    "device_links": device_links,
    "device_energy": device_energy,
    "device_time": device_time,
}
"""Name -> figure of one device, in the order in which they are shown."""

ACROSS_RUNS: dict[str, Several] = {"scaling": scaling}
"""Name -> figure that needs several runs and says nothing of one."""


def sections(*, several: bool = False) -> dict[str, dict[str, Entry]]:
    """Sort the figures by the section they stand in, in the order in which they are shown.

    Args:
        several: Only those that compare runs.

    Returns:
        Section -> name -> figure.
    """
    found: dict[str, dict[str, Entry]] = {}
    for name, entry in FIGURES.items():
        if not several or entry.several is not None:
            found.setdefault(entry.section, {})[name] = entry
    return found


def names_for(runs: int) -> list[str]:
    """List the figures that so many runs have, in the order in which they are shown.

    Args:
        runs: Number of runs, at least one.

    Returns:
        Their names.
    """
    if runs == 1:
        return [*FIGURES, *DEVICE_FIGURES]
    return [*(name for name, entry in FIGURES.items() if entry.several), *ACROSS_RUNS]


def check_name(name: str) -> None:
    """Refuse what is no figure's name.

    Args:
        name: What should be one.

    Raises:
        InputError: It names the nearest.
    """
    from dfl_ray.errors import InputError, nearest

    known = [*FIGURES, *ACROSS_RUNS, *DEVICE_FIGURES]
    if check_text("name", name, "a figure: " + ", ".join(known)) not in known:
        raise InputError(f"There is no figure `{name}`", expected=nearest(name, known))


def draw(name: str, runs: Sequence[Run], *, round: int | None = None, device: int | None = None) -> go.Figure:
    """Draw a figure by its name.

    Args:
        name: A key of `FIGURES` or `ACROSS_RUNS`, or of `DEVICE_FIGURES` for a figure of one device.
        runs: At least one run; several where the figure compares runs.
        round: Round as of which it is drawn, for figures that can be; none = the last.
        device: Index of the device, for a figure of one.

    Returns:
        The figure.

    Raises:
        InputError: No such figure, one that shows a single run for several, a run given twice, or a round or device
            that the run or the figure does not have.
    """
    check_name(name)
    check_runs("draw", runs)
    _check_part(name, runs, round, device)
    if name in DEVICE_FIGURES and device is not None:
        return DEVICE_FIGURES[name](runs[0], device)
    if len(runs) > 1 or name in ACROSS_RUNS:
        check_each_once(runs)
    if name in ACROSS_RUNS:
        return ACROSS_RUNS[name](runs)
    entry = FIGURES[name]
    if entry.at is not None and round is not None:
        return entry.at(runs[0], round)
    return entry.one(runs[0]) if entry.several is None or len(runs) == 1 else entry.several(runs)


def _check_part(name: str, runs: Sequence[Run], round: int | None, device: int | None) -> None:
    """Refuse more runs than a figure shows, and a round or device that it does not."""
    from dfl_ray.errors import InputError

    for what, index in (("round", round), ("device", device)):
        if index is not None:
            check_whole(what, index)
    at = [key for key, entry in FIGURES.items() if entry.at]
    if round is not None and name not in at:
        whole = "the whole run" if len(runs) == 1 else "whole runs"
        raise InputError(
            f"The figure `{name}` shows {whole}", got=f"round {round}", expected=f"one of: {', '.join(at)}"
        )
    if name in DEVICE_FIGURES:
        _check_device(name, runs, device)
    elif device is not None:
        raise InputError(
            f"The figure `{name}` shows all devices",
            got=f"device {device}",
            expected=f"one of: {', '.join(DEVICE_FIGURES)}",
        )
    if len(runs) > 1 and name not in names_for(len(runs)):
        raise InputError(
            f"The figure `{name}` shows one run",
            got=f"{len(runs)} runs",
            expected=f"one of: {', '.join(names_for(len(runs)))}",
        )
    if round is not None and not 0 <= round <= runs[0].last_round:
        raise InputError(
            f"The run {runs[0].name} has no round {round}", expected=f"0 to {runs[0].last_round}"
        )


def _check_device(name: str, runs: Sequence[Run], device: int | None) -> None:
    from dfl_ray.errors import InputError

    if len(runs) != 1 or device is None:
        got = f"{len(runs)} runs" if len(runs) != 1 else "no device"
        raise InputError(
            f"The figure `{name}` shows one device of one run",
            got=got,
            change="Give one run and `--device N`.",
        )
    count = device_count(runs[0])
    if not 0 <= device < count:
        raise InputError(f"The run {runs[0].name} has no device {device}", expected=f"0 to {count - 1}")


def device_count(run: Run) -> int:
    """Number of devices of a run, by its configuration, else by its topology.

    Args:
        run: The run.

    Returns:
        The number, 0 where neither says it.
    """
    if count := number_of_devices(run):
        return count
    nodes = run.nodes_at(run.last_round)
    return int(nodes["device"].max()) + 1 if len(nodes) else 0
