"""Accuracy: per task over rounds, bytes, airtime and simulated time; of several runs; by device and task."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dfl_ray.records import Run
from dfl_ray.records.results import holders, last_evaluation, method_evaluation, method_rule
from dfl_ray.views.style import (
    BLACK,
    GREY,
    SEQUENTIAL,
    colour,
    dash,
    empty,
    figure,
    scaled,
    symbol,
    whole_rounds,
)

Over = Literal["round", "bytes", "airtime", "simulated"]

AXES: dict[Over, tuple[str, str, str]] = {
    "round": ("rounds", "communication round", ""),
    "bytes": ("bytes on air", "bytes on air, all devices", "B"),
    "airtime": ("airtime", "airtime, summed over transmissions", "s"),
    "simulated": ("simulated time", "simulated time", "s"),
}
MOST_ROWS = 200
_MOST_WRITTEN = 30


def cost_at(run: Run, rounds: Sequence[int], over: Over) -> list[float]:
    """Give the cost spent up to the end of each given round; 0 at round 0.

    Args:
        run: The run.
        rounds: Round numbers.
        over: Which cost; bytes and airtime are summed over rounds, simulated time is read off the clock.

    Returns:
        One value a round: bytes, seconds or rounds; NaN for a round that is not recorded.
    """
    if over == "round":
        return [float(number) for number in rounds]
    table = run.rounds.set_index("round")
    spent = {
        "bytes": table["payload_bytes"].cumsum(),
        "airtime": table["airtime_s"].cumsum(),
        "simulated": table["simulated_s"],
    }[over]
    return [float(spent.get(number, np.nan)) if number > 0 else 0.0 for number in rounds]


def accuracy_by_task(run: Run, over: Over = "round") -> go.Figure:
    """Draw the accuracy of every task, mean over all devices, against rounds or a cost; their mean in black.

    Args:
        run: The run, complete or not.
        over: What the x axis shows.

    Returns:
        The picture; an empty one before the first evaluation.
    """
    what, label, unit = AXES[over]
    title = f"Accuracy per task over {what}"
    rows = method_evaluation(run)
    if not len(rows):
        return empty(title, "Nothing has been evaluated yet.")
    means = rows.groupby(["round", "task"], sort=False)["accuracy"].mean().unstack("task").sort_index()
    x, unit = scaled(cost_at(run, list(means.index), over), unit)
    rule = method_rule(run)
    note = f"mean over all devices, held-out rows{f', rule {rule}' if rule else ''}; round 0 = before tuning"
    picture = figure(title, x=label + (f" ({unit})" if unit else ""), y="accuracy (share right)", note=note)
    for index, task in enumerate(means.columns):
        line = {"color": colour(index), "width": 2, "dash": dash(index)}
        marker = {"symbol": symbol(index), "size": 7}
        picture.add_scatter(
            x=x, y=means[task], name=escape(str(task)), line=line, marker=marker, mode="lines+markers"
        )
    mean = means.mean(axis=1)
    picture.add_scatter(x=x, y=mean, name="<b>mean</b>", line={"color": BLACK, "width": 4}, mode="lines")
    chance = rows["chance"].mean()
    if not np.isnan(chance):
        picture.add_scatter(
            x=[min(x), max(x)],
            y=[chance] * 2,
            name="chance",
            mode="lines",
            line={"color": GREY, "dash": "dot"},
        )
    picture.update_yaxes(range=[0, 1.02])
    if over == "round":
        whole_rounds(picture, max(x))
    return picture


def accuracy_of_runs(runs: Sequence[Run], over: Over = "round") -> go.Figure:
    """Draw the mean accuracy over devices and tasks of several runs, against rounds or a cost.

    Args:
        runs: The runs; those of one method share a colour.
        over: What the x axis shows.

    Returns:
        The picture; an empty one where nothing has been evaluated.
    """
    what, label, unit = AXES[over]
    title = f"Mean accuracy over {what}"
    curves = [(run, *mean_curve(run, over)) for run in runs]
    largest = [x for _, xs, _ in curves for x in xs if not np.isnan(x)]
    if not largest:
        return empty(title, "Nothing has been evaluated yet.")
    _, shown_unit = scaled(largest, unit)
    factor = scaled([max(largest)], unit)[0][0] / max(largest) if max(largest) else 1.0
    note = "mean over all devices and tasks, by each method's own rule"
    heading = label + (f" ({shown_unit})" if shown_unit else "")
    picture = figure(title, x=heading, y="accuracy (share right)", note=note)
    methods = list(dict.fromkeys(method_of(run) for run, _, _ in curves))
    for index, (run, x, y) in enumerate(curves):
        number = methods.index(method_of(run)) if len(methods) > 1 else index
        picture.add_scatter(
            x=[value * factor for value in x],
            y=y,
            name=escape(run_label(run)),
            mode="lines+markers",
            line={"color": colour(number), "width": 2.5, "dash": dash(number)},
            marker={"symbol": symbol(index), "size": 7},
        )
    picture.update_yaxes(range=[0, 1.02])
    if over == "round":
        whole_rounds(picture, max(largest))
    return picture


def mean_curve(run: Run, over: Over) -> tuple[list[float], list[float]]:
    """Give cost and mean accuracy at every evaluated round, round 0 with it.

    Args:
        run: The run.
        over: Which cost, as in `cost_at`.

    Returns:
        Costs, and the accuracy by the method's rule: mean over devices of each task, then over tasks.
    """
    rows = method_evaluation(run)
    by_task = rows.groupby(["round", "task"])["accuracy"].mean()
    means = by_task.groupby(level="round").mean().sort_index()
    return cost_at(run, list(means.index), over), [float(value) for value in means]


def method_of(run: Run) -> str:
    """Name the run's method, or `unknown method`."""
    return str(run.config.get("method", {}).get("type", "unknown method"))


def run_label(run: Run) -> str:
    """Give what a run is called in legends: its method and its name."""
    return f"{method_of(run)} · {run.name}"


def accuracy_heatmap(run: Run) -> go.Figure:
    """Draw the accuracy of every device (rows) on every task (columns) at the last evaluation; held tasks are framed.

    Above 200 devices neighbouring ones are averaged into 200 groups after sorting by mean accuracy, and the
    picture says so.

    Args:
        run: The run, complete or not.

    Returns:
        The picture; an empty one before the first evaluation.
    """
    title = "Accuracy by device and task"
    rows = last_evaluation(run)
    if not len(rows):
        return empty(title, "Nothing has been evaluated yet.")
    tasks = list(dict.fromkeys(rows["task"]))
    table = rows.pivot_table(index="device", columns="task", values="accuracy")[tasks]
    grouped, labels, note = _groups(table, int(rows["round"].iloc[0]))
    picture = figure(
        title, x="task", y="device", note=note, height=160 + max(220, min(720, 32 * len(grouped)))
    )
    written = len(grouped) <= _MOST_WRITTEN
    picture.add_heatmap(
        z=grouped.to_numpy(),
        x=[escape(task) for task in tasks],
        y=labels,
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        colorbar={"title": {"text": "accuracy", "side": "right"}, "tickformat": ".0%"},
        texttemplate="%{z:.0%}" if written else None,
        hovertemplate="device %{y}, %{x}: %{z:.1%}<extra></extra>",
        xgap=1,
        ygap=1 if written else 0,
    )
    if written:
        _frame_held(picture, run, table, tasks)
    picture.update_yaxes(autorange="reversed", type="category", showgrid=False)
    if len(grouped) < len(table):
        picture.update_yaxes(title={"text": "groups of devices, best first"}, showticklabels=False)
    picture.update_xaxes(showgrid=False)
    return picture


def _groups(table: pd.DataFrame, round: int) -> tuple[pd.DataFrame, list[str], str]:
    """The table itself, or at most `MOST_ROWS` group means of it, with row labels and the note."""
    if len(table) <= MOST_ROWS:
        labels = [str(device) for device in table.index]
        held = "; framed: tasks the device holds" if len(table) <= _MOST_WRITTEN else ""
        return table, labels, f"after round {round}{held}"
    ranked = table.iloc[np.argsort(-table.mean(axis=1).to_numpy(), kind="stable")]
    group = np.arange(len(ranked)) * MOST_ROWS // len(ranked)
    labels = [f"group {number + 1}" for number in range(MOST_ROWS)]
    note = (
        f"after round {round}; {len(table):,} devices sorted by mean accuracy, averaged in {MOST_ROWS} groups"
    )
    return ranked.groupby(group).mean(), labels, note


def _frame_held(picture: go.Figure, run: Run, table: pd.DataFrame, tasks: Sequence[str]) -> None:
    """Draw a frame around the cell of each task a device holds."""
    held = holders(run)
    for row, device in enumerate(table.index):
        for column, task in enumerate(tasks):
            if (int(device), task) in held:
                picture.add_shape(
                    type="rect",
                    x0=column - 0.46,
                    x1=column + 0.46,
                    y0=row - 0.44,
                    y1=row + 0.44,
                    line={"color": "#D55E00", "width": 2.5},
                )
