"""Several runs: mean accuracy with bands against a cost, and bars of what was spent, one colour a method."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfl_ray.records import Run
from dfl_ray.records.words import digits
from dfl_ray.views.accuracy import AXES, mean_curve, unjoined
from dfl_ray.views.checked import Over, checked
from dfl_ray.views.groups import Group, find_groups, group_curve, interval
from dfl_ray.views.style import (
    DASHES,
    colour,
    empty,
    faded,
    figure,
    scaled,
    style_axes,
    symbol,
    whole_rounds,
)

COSTS = (
    ("accuracy_mean", "mean accuracy", "share"),
    ("payload_bytes", "bytes on air", "B"),
    ("airtime_s", "airtime", "s"),
    ("energy_j", "energy", "J"),
    ("simulated_s", "simulated time", "s"),
)
MOST_FAINT = 40
"""Single runs above which only means are drawn."""


@checked
def accuracy_of_runs(runs: Sequence[Run], over: Over = "round") -> go.Figure:
    """Draw mean accuracy over devices and tasks against rounds or a cost: a line a method, its band, faint single runs.

    Runs that differ in nothing but the seed are one line: their mean, with the 95 % interval of the mean as a band.
    Runs that are not done are drawn where none of their configuration is.

    Args:
        runs: The runs.
        over: What the x axis shows.

    Returns:
        The picture; an empty one where nothing has been evaluated.
    """
    what, label, unit = AXES[over]
    title = f"Mean accuracy over {what}"
    groups = find_groups(runs)
    largest = max((x for run in runs for x in mean_curve(run, over)[0] if not np.isnan(x)), default=None)
    if largest is None:
        return empty(title, "Nothing has been evaluated yet.")
    (top,), shown_unit = scaled([largest], unit)
    factor = top / largest if largest else 1.0
    several = any(len(group.drawn) > 1 for group in groups)
    note = "mean over all devices and tasks, by each method's own rule"
    note += "; line: mean over seeds, band: its 95 % interval, faint: single runs" if several else ""
    picture = figure(
        title, x=label + (f" ({shown_unit})" if shown_unit else ""), y="accuracy (share right)", note=note
    )
    for group in groups:
        _draw_group(picture, group, over, factor, faint=several and len(runs) <= MOST_FAINT)
    picture.update_yaxes(range=[0, 1.02])
    if over == "round":
        whole_rounds(picture, largest)
    return picture


def _draw_group(picture: go.Figure, group: Group, over: Over, factor: float, *, faint: bool) -> None:
    """Band below, single runs on it, the mean on top."""
    curve, shade = group_curve(group, over), colour(group.look)
    if len(group.drawn) > 1 and len(curve.x):
        x = np.concatenate([curve.x, curve.x[::-1]]) * factor
        y = np.concatenate([curve.mean + curve.half, (curve.mean - curve.half)[::-1]])
        picture.add_scatter(
            x=x, y=np.clip(y, 0, 1), fill="toself", fillcolor=faded(shade, 0.15), mode="lines",
            line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=group.label,
        )  # fmt: skip
        for run in group.drawn if faint else ():
            xs, ys = mean_curve(run, over)
            picture.add_scatter(
                **unjoined([value * factor for value in xs], ys), name=escape(run.name), mode="lines",
                line={"color": faded(shade, 0.35), "width": 1}, showlegend=False, legendgroup=group.label,
            )  # fmt: skip
    marks = [group.look + group.variant, group.look // 8 + group.variant]
    picture.add_scatter(
        **unjoined(list(curve.x * factor), list(curve.mean)),
        name=escape(_counted(group)),
        legendgroup=group.label,
        mode="lines+markers",
        line={"color": shade, "width": 2.5, "dash": DASHES[marks[1] % len(DASHES)]},
        marker={"symbol": symbol(marks[0]), "size": 7},
    )


def _counted(group: Group) -> str:
    done = "" if group.runs else ", not done"
    return group.label + (f", {len(group.drawn)} seeds" if len(group.drawn) > 1 else "") + done


@checked
def cost_bars(runs: Sequence[Run]) -> go.Figure:
    """Draw accuracy, bytes, airtime, energy and simulated time of each group of runs, one panel each.

    Runs of one configuration (several seeds) are averaged, with a 95 % interval of the mean (Student's t) from two
    runs on; those that are not done do not count. The value stands behind the whisker, so that neither covers the
    other.

    Args:
        runs: At least one run.

    Returns:
        The picture, the panels below one another.
    """
    groups = find_groups(runs)
    several = any(len(group.runs) > 1 for group in groups)
    note = "whole run, all devices" + ("; mean over seeds with its 95 % interval" if several else "")
    height = 130 + len(COSTS) * (82 + 40 * len(groups))
    picture = figure("Cost on air and what it bought", note=note, height=height)
    gap = 76 / height
    frame = make_subplots(rows=len(COSTS), cols=1, vertical_spacing=gap, figure=picture)
    labels = [escape(_counted(group)).replace(", ", "<br>").replace(" (", "<br>(") for group in groups]
    for row, (key, name, unit) in enumerate(COSTS, start=1):
        spreads = [interval(group.values(key)) for group in groups]
        flat, unit = scaled([value for mean, half in spreads for value in (mean, half or 0.0)], unit)
        means, halves = np.array(flat[::2]), np.array(flat[1::2])
        frame.add_bar(
            y=labels,
            x=means,
            orientation="h",
            width=0.6,
            marker={"color": [colour(group.look) for group in groups], "pattern": {"shape": _shapes(groups)}},
            error_x={"type": "data", "array": halves, "visible": several, "color": "#222222"},
            hovertemplate="%{y}: %{x:.4g} " + unit + "<extra></extra>",
            showlegend=False,
            row=row,
            col=1,
        )
        _write_values(frame, row, labels, means, halves, unit, [half is not None for _, half in spreads])
        frame.update_xaxes(title={"text": f"{name} ({unit})", "standoff": 2}, nticks=5, row=row, col=1)
    frame.update_yaxes(autorange="reversed", title={"text": ""}, automargin=True)
    frame.update_layout(meta={"values_behind": True})
    style_axes(frame)
    return frame


def _shapes(groups: Sequence[Group]) -> list[str]:
    shapes = ("", "/", "x", ".", "-")
    return [shapes[group.variant % len(shapes)] for group in groups]


def _write_values(
    frame: go.Figure,
    row: int,
    labels: Sequence[str],
    means: np.ndarray,
    halves: np.ndarray,
    unit: str,
    known: Sequence[bool],
) -> None:
    """Each value behind the end of its whisker, and an axis long enough for it."""
    ends = np.nan_to_num(means + halves)
    largest = float(ends.max(initial=0.0)) or 1.0
    for label, mean, half, end, told in zip(labels, means, halves, ends, known, strict=True):
        text = "–" if np.isnan(mean) else digits(mean) + (f" ± {digits(half, 2)}" if told else "")
        frame.add_annotation(
            x=end, y=label, text=f" {text} {unit if unit != 'share' else ''}", showarrow=False, xanchor="left",
            font={"size": 13}, row=row, col=1,
        )  # fmt: skip
    frame.update_xaxes(range=[0, 1.45 * largest], row=row, col=1)
