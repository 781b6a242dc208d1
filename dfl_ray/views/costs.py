"""What runs cost: bars by method, and where the real time of a run went."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfl_ray.records import Run
from dfl_ray.records.results import summary
from dfl_ray.views.accuracy import method_of, run_label
from dfl_ray.views.style import colour, empty, figure, scaled, style_axes, whole_rounds

COSTS = (
    ("payload_bytes", "bytes on air", "B"),
    ("airtime_s", "airtime", "s"),
    ("energy_j", "energy", "J"),
    ("simulated_s", "simulated time", "s"),
)


def cost_bars(runs: Sequence[Run]) -> go.Figure:
    """Draw bytes, airtime, energy and simulated time of each method, and its accuracy.

    Runs of one method (several seeds) are averaged, with a 95 % interval of the mean (Student's t) from two
    runs on; if all runs have the same method, each run has its own bars.

    Args:
        runs: At least one run.

    Returns:
        The picture, one panel a cost and one for accuracy.
    """
    labels, groups = group_runs(runs)
    several = any(len(group) > 1 for group in groups)
    note = "whole run, all devices" + ("; mean over seeds with 95 % interval" if several else "")
    picture = figure("Cost on air and what it bought", note=note, height=190 + 60 * max(2, len(labels)))
    frame = make_subplots(rows=1, cols=5, shared_yaxes=True, horizontal_spacing=0.03, figure=picture)
    figures = [[summary(run) for run in group] for group in groups]
    for column, (key, name, unit) in enumerate([*COSTS, ("accuracy_mean", "accuracy", "share")], start=1):
        bars = [mean_and_interval([f[key] for f in group if f[key] is not None]) for group in figures]
        flat, unit = scaled([value for bar in bars for value in bar], unit)
        means, spreads = flat[::2], flat[1::2]
        frame.add_bar(
            y=[escape(label) for label in labels],
            x=means,
            orientation="h",
            width=0.6,
            marker={"color": [colour(index) for index in range(len(labels))]},
            error_x={"type": "data", "array": spreads, "visible": several, "color": "#222222"},
            text=[_three_digits(value) for value in means],
            textposition="auto",
            insidetextanchor="end",
            showlegend=False,
            row=1,
            col=column,
        )
        frame.update_xaxes(
            title={"text": f"{name} ({unit})"}, rangemode="tozero", nticks=4, row=1, col=column
        )
    frame.update_yaxes(autorange="reversed", title={"text": ""})
    frame.update_yaxes(automargin=True, row=1, col=1)
    style_axes(frame)
    return frame


def group_runs(runs: Sequence[Run]) -> tuple[list[str], list[list[Run]]]:
    """Group runs by method, in order of appearance; each by itself when there is one method only.

    Args:
        runs: The runs.

    Returns:
        Labels, and for each the runs of it.
    """
    methods = list(dict.fromkeys(method_of(run) for run in runs))
    if len(methods) == 1:
        return [run_label(run) for run in runs], [[run] for run in runs]
    return methods, [[run for run in runs if method_of(run) == method] for method in methods]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Give the mean of independent values and the half-width of its 95 % confidence interval.

    half-width = t_{0.975, n-1} · s / sqrt(n), s the sample standard deviation, by Student's t distribution.

    Args:
        values: n values, for example of one method's seeds.

    Returns:
        Mean and half-width, in the values' unit; half-width 0 for one value, mean NaN for none.
    """
    if not values:
        return float("nan"), 0.0
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, 0.0
    from scipy.stats import t

    deviation = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return mean, float(t.ppf(0.975, len(values) - 1)) * deviation


def _three_digits(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3g}"


PHASES = (
    ("train_wall_s", "train"),
    ("evaluate_wall_s", "evaluate"),
    ("plan_wall_s", "plan the radio"),
    ("exchange_wall_s", "exchange and mix"),
    ("record_wall_s", "record and track"),
)
MOST_BARS = 120


def wall_split(run: Run) -> go.Figure:
    """Draw the real time of each round, split into train, evaluate, plan, exchange and record.

    Above 120 rounds neighbouring rounds are averaged, and the picture says so.

    Args:
        run: The run, complete or not.

    Returns:
        The picture, in seconds a round; an empty one with the reason where no times were recorded.
    """
    title = "Where the real time went"
    table = run.rounds
    if not len(table) or table[[column for column, _ in PHASES]].isna().all().all():
        return empty(title, "No times were recorded.")
    group = np.arange(len(table)) * min(MOST_BARS, len(table)) // len(table)
    means = table.groupby(group).mean(numeric_only=True)
    averaged = len(means) < len(table)
    note = f"means over {len(table) / len(means):.1f} rounds a bar" if averaged else ""
    picture = figure(title, x="communication round", y="wall time of a round (s)", note=note, height=400)
    known = np.zeros(len(means))
    for index, (column, name) in enumerate(PHASES):
        values = means[column].fillna(0).to_numpy()
        known += values
        picture.add_bar(x=means["round"], y=values, name=name, marker={"color": colour(index)})
    rest = np.maximum(means["wall_s"].to_numpy() - known, 0)
    picture.add_bar(x=means["round"], y=rest, name="other", marker={"color": "#BBBBBB"})
    picture.update_layout(barmode="stack", bargap=0.15)
    whole_rounds(picture, len(table))
    return picture


def loss_and_delivery(run: Run) -> go.Figure:
    """Draw training loss and delivered share over rounds.

    Args:
        run: The run, complete or not.

    Returns:
        The picture: loss in nats a token above, share in [0, 1] below; an empty one before the first round.
    """
    title = "Training loss and delivered share"
    table = run.rounds
    if not len(table):
        return empty(title, "No round is complete yet.")
    picture = figure(title, height=520)
    frame = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, figure=picture)
    panels = (("train_loss", "loss (nats a token)"), ("delivered_fraction", "delivered (share)"))
    for row, (column, label) in enumerate(panels, start=1):
        line = {"color": colour(row - 1), "width": 2.5}
        frame.add_scatter(x=table["round"], y=table[column], line=line, showlegend=False, row=row, col=1)
        frame.update_yaxes(title={"text": label}, rangemode="tozero", row=row, col=1)
    style_axes(frame)
    frame.update_xaxes(title={"text": "communication round"}, row=2, col=1)
    whole_rounds(frame, len(table))
    return frame
