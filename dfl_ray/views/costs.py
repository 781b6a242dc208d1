"""Where the real time of a run went, its loss, and what describes its learning."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfl_ray.records import Run
from dfl_ray.views.checked import checked
from dfl_ray.views.style import colour, empty, figure, style_axes, whole_rounds

PHASES = (
    ("train_wall_s", "train"),
    ("evaluate_wall_s", "evaluate"),
    ("plan_wall_s", "plan the radio"),
    ("exchange_wall_s", "exchange and mix"),
    ("record_wall_s", "record and track"),
)
MOST_BARS = 120


@checked
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
    # Rounds without a part, such as an evaluation, count with 0 s of it.
    means = table.fillna({column: 0.0 for column, _ in PHASES}).groupby(group).mean(numeric_only=True)
    averaged = len(means) < len(table)
    note = f"means over {len(table) / len(means):.1f} rounds a bar" if averaged else ""
    picture = figure(title, x="communication round", y="wall time of a round (s)", note=note, height=400)
    known = np.zeros(len(means))
    for index, (column, name) in enumerate(PHASES):
        values = means[column].to_numpy()
        known += values
        picture.add_bar(x=means["round"], y=values, name=name, marker={"color": colour(index)})
    rest = np.maximum(means["wall_s"].to_numpy() - known, 0)
    picture.add_bar(x=means["round"], y=rest, name="other", marker={"color": "#BBBBBB"})
    picture.update_layout(barmode="stack", bargap=0.15)
    whole_rounds(picture, len(table))
    return picture


@checked
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
