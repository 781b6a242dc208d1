"""What describes the learning besides accuracy: consensus, collisions, routing, and the adapters of tasks compared."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfl_ray.records import Run
from dfl_ray.records.results import last_evaluation, method_rule
from dfl_ray.records.schema import STATE_ENERGY_COLUMNS
from dfl_ray.views.checked import checked
from dfl_ray.views.style import (
    BLUE,
    SEQUENTIAL,
    colour,
    dash,
    empty,
    figure,
    style_axes,
    symbol,
    whole_rounds,
)

STATES = (
    ("consensus_distance", "consensus distance (relative)"),
    ("collision_b", "collisions in B (share)"),
    ("collision_delta_w", "collisions in BA (share)"),
    ("density", "density of B (share)"),
    ("replica_staleness_rounds", "age of replicas (rounds)"),
    ("forgetting_mean", "forgetting (share)"),
)

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Layer -> A (rank, inputs) and B (outputs, rank)."""


@checked
def learning_state(run: Run) -> go.Figure:
    """Draw consensus distance, collisions, density, staleness and forgetting over the evaluated rounds.

    Args:
        run: The run, complete or not.

    Returns:
        The picture, one panel for each that was measured; an empty one where none was.
    """
    title = "Consensus, collisions and forgetting"
    known = [(column, name) for column, name in STATES if run.rounds[column].notna().any()]
    if not known:
        return empty(title, "Nothing of this has been measured.")
    height = 110 + 170 * len(known)
    picture = figure(title, height=height)
    frame = make_subplots(
        rows=len(known), cols=1, shared_xaxes=True, vertical_spacing=30 / height, figure=picture
    )
    for row, (column, name) in enumerate(known, start=1):
        points = run.rounds[run.rounds[column].notna()]
        frame.add_scatter(
            x=points["round"],
            y=points[column],
            mode="lines+markers",
            line={"color": colour(row - 1), "width": 2.5},
            marker={"symbol": symbol(row - 1)},
            showlegend=False,
            row=row,
            col=1,
        )
        frame.update_yaxes(title={"text": name.replace(" (", "<br>(")}, rangemode="tozero", row=row, col=1)
    style_axes(frame)
    frame.update_xaxes(title={"text": "communication round"}, row=len(known), col=1)
    whole_rounds(frame, run.last_round)
    return frame


@checked
def routing(run: Run) -> go.Figure:
    """Draw which expert the router chose for the held-out rows of each task, as a confusion matrix.

    Args:
        run: The run, complete or not.

    Returns:
        The picture, shares of a task's rows over all devices at the last evaluation. Of runs that were recorded before
        the router's choices were, the share of rows sent to the expert of their own task alone; an empty one for a
        method that routes nothing.
    """
    title = "The router's confusion: tasks asked, and experts chosen"
    shares = run.confusion(method_rule(run))
    if not len(shares):
        return _rows_routed_right(run, title)
    round_number = int(run.routing_sums["round"].max())
    right = np.mean([shares[task].get(task, 0.0) for task in shares.columns if task in shares.index])
    picture = figure(
        title,
        x="task of the expert chosen",
        y="task of the rows asked",
        note=f"share of held-out rows, all devices, after round {round_number}; to their own expert: {right:.1%}",
        height=250 + 44 * len(shares),
    )
    words = [[f"{value:.1%}" if value else "" for value in row] for row in shares.to_numpy(float)]
    picture.add_heatmap(
        z=shares.to_numpy(float), x=_labels(shares.columns), y=_labels(shares.index), zmin=0, zmax=1,
        colorscale=SEQUENTIAL, xgap=1, ygap=1, text=words, texttemplate="%{text}" if len(shares) <= 12 else None,
        hovertemplate="asked: %{y}<br>expert: %{x}<br>share: %{z:.4f}<extra></extra>",
        colorbar={"title": {"text": "share of rows"}},
    )  # fmt: skip
    picture.update_xaxes(type="category", showgrid=False)
    picture.update_yaxes(type="category", autorange="reversed", automargin=True, showgrid=False)
    return picture


def _labels(names: pd.Index) -> list[str]:
    return [escape(str(name)) for name in names]


def _rows_routed_right(run: Run, title: str) -> go.Figure:
    rows = last_evaluation(run)
    rows = rows[rows["routed_right"].notna()]
    if not len(rows):
        return empty(title, "This method routes no rows to experts, or nothing has been evaluated yet.")
    means = rows.groupby("task", sort=False)["routed_right"].mean()
    note = f"after round {int(rows['round'].iloc[0])}, mean over {rows['device'].nunique():,} devices"
    picture = figure(
        "Rows routed to the expert of their own task",
        x="rows routed right (share)",
        note=note,
        height=150 + 34 * len(means),
    )
    picture.add_bar(
        y=_labels(means.index),
        x=means,
        orientation="h",
        width=0.6,
        marker={"color": BLUE},
        text=[f"{value:.1%}" for value in means],
        textposition="outside",
        cliponaxis=False,
    )
    picture.update_xaxes(range=[0, 1.15])
    picture.update_yaxes(autorange="reversed", automargin=True)
    return picture


@checked
def task_matrices(run: Run) -> go.Figure:
    """Draw how alike the final adapters of two tasks are: collisions of B, and cosine of BA, as two heat maps.

    Collision of tasks s and t: entries of B that are non-zero in both over those non-zero in either. Cosine:
    <B_s A_s, B_t A_t> / (|B_s A_s| |B_t A_t|) with the Frobenius product over all layers.

    Args:
        run: The run; its final adapters are read from `adapters/`.

    Returns:
        The picture; an empty one where the run kept fewer than two task adapters.
    """
    title = "Tasks compared by their final adapters"
    adapters = task_adapters(run.path / "adapters")
    if len(adapters) < 2:
        return empty(title, "The run has kept no adapters of two tasks (they are written at its end).")
    names = list(adapters)
    cells = [[(collision(a, b), cosine(a, b)) for b in adapters.values()] for a in adapters.values()]
    values = np.array(cells)
    size = 60 + max(220, 34 * len(names))
    picture = figure(
        title, note="above: share of B's entries used by both; below: cosine of BA", height=2 * size + 120
    )
    frame = make_subplots(rows=2, cols=1, vertical_spacing=0.16, figure=picture)
    for row, (low, scale) in enumerate(((0, SEQUENTIAL), (-1, "RdBu")), start=1):
        frame.add_heatmap(
            z=values[:, :, row - 1], x=names, y=names, zmin=low, zmax=1, colorscale=scale, xgap=1, ygap=1,
            texttemplate="%{z:.2f}" if len(names) <= 12 else None, row=row, col=1,
            colorbar={"len": 0.42, "y": 0.79 - 0.58 * (row - 1), "title": {"text": ("collision", "cosine")[row - 1]}},
        )  # fmt: skip
    style_axes(frame)
    frame.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    frame.update_xaxes(showgrid=False)
    return frame


def task_adapters(folder: Path) -> dict[str, Factors]:
    """Read the final adapters of a run that has one for each task.

    Args:
        folder: The run's `adapters/`.

    Returns:
        Task -> layer -> factors; empty where there are none.
    """
    from safetensors.numpy import load_file

    found: dict[str, Factors] = {}
    for file in sorted(folder.glob("*/adapter_model.safetensors")):
        arrays = load_file(file)
        layers = {name.split(".lora_")[0] for name in arrays}
        both: Any = {
            layer: tuple(
                next(arrays[n].astype(np.float64) for n in arrays if n.startswith(f"{layer}.lora_{part}"))
                for part in ("A", "B")
            )
            for layer in sorted(layers)
        }
        found[file.parent.name] = both
    return found


def collision(one: Factors, other: Factors) -> float:
    """Entries of B that both tasks use over those that either uses, over all layers; 0 where neither uses any.

    J = |S_1 ∩ S_2| / |S_1 ∪ S_2| with S_t the non-zero entries of B_t; layers of unequal shapes are left out.

    Args:
        one: Layer -> (A, B) of the one task.
        other: The same layers of the other task.

    Returns:
        The share, in [0, 1].

    Source:
        The Jaccard index (Jaccard 1912, The distribution of the flora in the alpine zone).
    """
    both = either = 0
    for layer in one:
        a, b = one[layer][1] != 0, other[layer][1] != 0
        if a.shape == b.shape:
            both, either = both + int((a & b).sum()), either + int((a | b).sum())
    return both / either if either else 0.0


def cosine(one: Factors, other: Factors) -> float:
    """Cosine of the changes BA of two tasks, over all layers; 0 where one of them is zero."""
    scale = np.sqrt(_product(one, one) * _product(other, other))
    return float(_product(one, other) / scale) if scale else 0.0


def _product(one: Factors, other: Factors) -> float:
    """Frobenius product <B1 A1, B2 A2> = sum of (B1^T B2) * (A1 A2^T), without making BA."""
    return float(sum(np.sum((one[k][1].T @ other[k][1]) * (one[k][0] @ other[k][0].T)) for k in one))


def radio_parts(rows: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Columns that the radio's energy is drawn by, with their names in a legend.

    Args:
        rows: Rows of `rounds` or `devices`.

    Returns:
        The states in which anything was spent, where the radio has states; else `radio_energy_j` alone.
    """
    states = [name for name in STATE_ENERGY_COLUMNS if name in rows and rows[name].sum() > 0]
    if not states or rows[states].isna().any(axis=None):
        return (("radio_energy_j", "radio"),)
    return tuple((name, name.removesuffix("_energy_j").replace("_", " ")) for name in states)


@checked
def energy_of_devices(run: Run) -> go.Figure:
    """Draw the energy that devices spent by round, split into computing and radio, or its states where it has some.

    Args:
        run: The run, complete or not.

    Returns:
        The picture, in joules a round over all devices; an empty one before the first round.
    """
    title = "Energy of each round"
    rounds = run.rounds
    if not len(rounds):
        return empty(title, "No round is complete yet.")
    picture = figure(title, x="communication round", y="energy, all devices (J)", height=400)
    split = (("compute_energy_j", "computing"), *radio_parts(rounds))
    if rounds[[column for column, _ in split]].isna().any().any():
        split = (("energy_j", "radio and computing"),)
    for index, (column, name) in enumerate(split):
        line = {"color": colour(index), "width": 2, "dash": dash(index)}
        picture.add_scatter(
            x=rounds["round"], y=rounds[column], name=name, mode="lines", line=line, stackgroup="energy"
        )
    picture.update_yaxes(rangemode="tozero")
    whole_rounds(picture, run.last_round)
    return picture
