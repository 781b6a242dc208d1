"""Accuracy: per task over rounds, bytes, airtime and simulated time; of several runs; by device and task."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dfl_ray.records import Run
from dfl_ray.records.results import holders, last_evaluation, method_means, method_rule
from dfl_ray.views.checked import Over, checked
from dfl_ray.views.style import (
    BLACK,
    GREY,
    SEQUENTIAL,
    curve_look,
    empty,
    figure,
    scaled,
    whole_rounds,
)

AXES: dict[Over, tuple[str, str, str]] = {
    "round": ("rounds", "communication round", ""),
    "bytes": ("bytes on air", "bytes on air, all devices", "B"),
    "airtime": ("airtime", "airtime, summed over transmissions", "s"),
    "energy": ("energy", "energy of radio and computing, all devices", "J"),
    "simulated": ("simulated time", "simulated time", "s"),
}
MOST_ROWS = 200
_MOST_WRITTEN = 30


def cost_at(run: Run, rounds: Sequence[int], over: Over) -> list[float]:
    """Give the cost spent up to the end of each given round; 0 at round 0.

    Args:
        run: The run.
        rounds: Round numbers.
        over: Which cost; bytes, airtime and energy are summed over rounds, simulated time is read off the clock.

    Returns:
        One value a round: bytes, seconds or rounds; NaN for a round that is not recorded.
    """
    if over == "round":
        return [float(number) for number in rounds]
    table = run.rounds.set_index("round")
    spent = {
        "bytes": table["payload_bytes"].cumsum(),
        "airtime": table["airtime_s"].cumsum(),
        "energy": table["energy_j"].cumsum(),
        "simulated": table["simulated_s"],
    }[over]
    return [float(spent.get(number, np.nan)) if number > 0 else 0.0 for number in rounds]


@checked
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
    rows = method_means(run)
    if not len(rows):
        return empty(title, "Nothing has been evaluated yet.")
    tasks = list(dict.fromkeys(rows["task"]))
    means = rows.pivot(index="round", columns="task", values="accuracy")[tasks]
    x, unit = scaled(cost_at(run, list(means.index), over), unit)
    rule = method_rule(run)
    told = f", rule {rule}" if rule else ""
    note = f"mean over all devices that were there, held-out rows{told}; round 0 = before tuning"
    picture = figure(title, x=label + (f" ({unit})" if unit else ""), y="accuracy (share right)", note=note)
    for index, task in enumerate(means.columns):
        curve = unjoined(x, means[task])
        look = curve_look(index, width=2, size=7)
        picture.add_scatter(**curve, **look, name=escape(str(task)), mode="lines+markers")
    mean = means.mean(axis=1)
    picture.add_scatter(
        **unjoined(x, mean), name="<b>mean</b>", line={"color": BLACK, "width": 4}, mode="lines"
    )
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


def unjoined(x: Sequence[float], y: Sequence[float] | pd.Series) -> dict[str, list[float]]:
    """Give the points of a curve with gaps where its cost stands still, so that no line runs straight up.

    Args:
        x: Costs, ascending.
        y: Values of equal number.

    Returns:
        `x` and `y` for a scatter trace; each gap is a pair of NaN.
    """
    largest = max((abs(value) for value in x), default=0.0)
    shown: dict[str, list[float]] = {"x": [], "y": []}
    for place, (across, up) in enumerate(zip(x, y, strict=True)):
        if place and across - x[place - 1] <= 1e-9 * largest:
            shown["x"].append(float("nan"))
            shown["y"].append(float("nan"))
        shown["x"].append(across)
        shown["y"].append(float(up))
    return shown


def mean_curve(run: Run, over: Over) -> tuple[list[float], list[float]]:
    """Give cost and mean accuracy at every evaluated round, round 0 with it.

    Args:
        run: The run.
        over: Which cost, as in `cost_at`.

    Returns:
        Costs, and the accuracy by the method's rule: mean over devices of each task, then over tasks.
    """
    means = method_means(run).groupby("round")["accuracy"].mean()
    return cost_at(run, list(means.index), over), [float(value) for value in means]


def method_of(run: Run) -> str:
    """Name the run's method, or `unknown method`."""
    return str(run.config.get("method", {}).get("type", "unknown method"))


@checked
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
    line = {"color": "#D55E00", "width": 2.5}
    picture.update_layout(
        shapes=[
            {
                "type": "rect",
                "x0": column - 0.46,
                "x1": column + 0.46,
                "y0": row - 0.44,
                "y1": row + 0.44,
                "line": line,
            }
            for row, device in enumerate(table.index)
            for column, task in enumerate(tasks)
            if (int(device), task) in held
        ]
    )
