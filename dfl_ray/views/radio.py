"""The radio: one round's schedule as a Gantt chart; distributions of SINR and rate."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dfl_ray.records import Run
from dfl_ray.records.results import receptions
from dfl_ray.views.checked import checked
from dfl_ray.views.groups import find_groups
from dfl_ray.views.style import BLUE, ORANGE, VERMILION, colour, empty, figure, print_dash, scaled

MOST_SENDERS = 40
MOST_BARS = 600
MOST_SLOT_LINES = 80
_BINS = 50
_QUANTILES = 400


@checked
def schedule(run: Run, round: int | None = None) -> go.Figure:
    """Draw who was on air when in one round: a row a sender, a bar a transmission, slots as vertical lines.

    Every transmission of the table `attempts` is a bar from its start to its end, failed ones too. With many devices
    the first 40 senders on air are drawn, and the picture says so.

    Args:
        run: The run.
        round: Which round; none = the last complete one.

    Returns:
        The figure; one that says why when nothing can be drawn.
    """
    number = run.last_round if round is None else round
    title = f"Schedule of round {number}"
    span = (number, number)
    attempts = run.table("attempts", rounds=span)
    transfers = run.table("transfers", columns=["transfer", "kind", "task", "attempts"], rounds=span)
    if not len(attempts) and (transfers["attempts"] > 0).any():
        return empty(
            title, "Single attempts were not kept when this run was recorded (records of version 1)."
        )
    if not number or not len(attempts):
        return empty(title, "Nothing was on air in this round.")
    table = transmission_table(attempts, transfers)
    shown, note = _thin(table)
    senders = list(dict.fromkeys(shown["source"]))
    factor, unit = _time_unit(float(shown["end_s"].max()))
    height = 180 + 24 * max(8, len(senders))
    picture = figure(
        title, x=f"time in the round's radio phase ({unit})", y="sending device", note=note, height=height
    )
    _bars(picture, shown, factor)
    _slot_lines(picture, shown, factor)
    order = [str(device) for device in sorted(senders)]
    picture.update_layout(barmode="overlay", bargap=0.25)
    picture.update_yaxes(type="category", categoryorder="array", categoryarray=order, autorange="reversed")
    return picture


def transmission_table(attempts: pd.DataFrame, transfers: pd.DataFrame) -> pd.DataFrame:
    """Join the rows of each transmission, one for each receiver, into one.

    Args:
        attempts: Rows of `attempts` of one round.
        transfers: Columns `transfer`, `kind` and `task` of `transfers` of that round.

    Returns:
        One row a transmission in the order of its start: what is the same for all receivers, `kind` and `task`,
        `receivers` and `decoded_by`, both counts, and of the first receiver `destination`, `attempt` and `sinr_db`.
    """
    rows = attempts.merge(transfers[["transfer", "kind", "task"]], on="transfer", how="left")
    once = rows.drop_duplicates("transmission").set_index("transmission")
    groups = rows.groupby("transmission")["decoded"]
    table = once.assign(receivers=groups.size(), decoded_by=groups.sum())
    return table.sort_values("start_s", kind="stable").reset_index()


_RESULTS = (
    ("decoded", BLUE, ""),
    ("decoded by some receivers", ORANGE, "x"),
    ("lost", VERMILION, "/"),
)


def _bars(picture: go.Figure, shown: pd.DataFrame, factor: float) -> None:
    """One bar a transmission; what became of it is told by colour and hatching."""
    result = np.where(shown["decoded_by"] == shown["receivers"], 0, np.where(shown["decoded_by"] > 0, 1, 2))
    for index, (name, fill, pattern) in enumerate(_RESULTS):
        part = shown[result == index]
        if not len(part):
            continue
        picture.add_bar(
            y=[str(device) for device in part["source"]],
            base=part["start_s"] * factor,
            x=(part["end_s"] - part["start_s"]) * factor,
            orientation="h",
            name=name,
            marker={"color": fill, "pattern": {"shape": pattern}, "line": {"color": "white", "width": 0.5}},
            hovertext=[_hover(row) for row in part.itertuples()],
            hoverinfo="text",
        )


def _thin(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    senders = table["source"].drop_duplicates()
    kept = table[table["source"].isin(senders.iloc[:MOST_SENDERS])].iloc[:MOST_BARS]
    note = f"{len(table):,} transmissions in {table['slot'].nunique():,} slots"
    if len(kept) < len(table):
        drawn = min(len(senders), MOST_SENDERS)
        note += f"; drawn: {len(kept):,} transmissions of the first {drawn} senders on air"
    return kept, note


def _time_unit(longest_s: float) -> tuple[float, str]:
    return (1e3, "ms") if longest_s < 2 else (1.0, "s")


def _slot_lines(picture: go.Figure, shown: pd.DataFrame, factor: float) -> None:
    """Thin lines where slots begin, unless there are too many to see."""
    starts = shown.groupby("slot")["start_s"].min().to_numpy() * factor
    if len(starts) > MOST_SLOT_LINES:
        return
    line = {"color": "#AAAAAA", "width": 0.8, "dash": "dot"}
    places = {"type": "line", "yref": "y domain", "y0": 0, "y1": 1, "layer": "below", "line": line}
    # All at once: plotly goes through the whole figure for each one that is added.
    picture.update_layout(shapes=[{**places, "x0": start, "x1": start} for start in starts.tolist()])


def _hover(row) -> str:
    task = "" if pd.isna(row.task) else f", {escape(str(row.task))}"
    if row.receivers == 1:
        to = f"{row.destination}, attempt {row.attempt}"
    else:
        to = f"{row.receivers} receivers, decoded by {row.decoded_by}"
    return (
        f"slot {row.slot}: {row.source} → {to}<br>{escape(str(row.kind))}{task}, {row.payload_bytes:,} B<br>"
        f"SINR {row.sinr_db:.1f} dB, {row.rate_bps / 1e6:.3g} Mbit/s"
    )


@checked
def sinr_distribution(runs: Sequence[Run]) -> go.Figure:
    """Draw the SINR of all attempts: one run as a histogram of decoded and lost, several as a curve a method.

    Args:
        runs: At least one run.

    Returns:
        The picture, in dB; an empty one where nothing was on air.
    """
    return _distribution(runs, "sinr_db", "SINR of the attempts", "dB")


@checked
def rate_distribution(runs: Sequence[Run]) -> go.Figure:
    """Draw the rate of all attempts: one run as a histogram of decoded and lost, several as a curve a method.

    Args:
        runs: At least one run.

    Returns:
        The picture, in bit/s or a multiple of it; an empty one where nothing was on air.
    """
    return _distribution(runs, "rate_bps", "Rate of the attempts", "bit/s")


def _distribution(runs: Sequence[Run], column: str, title: str, unit: str) -> go.Figure:
    tables = [receptions(run, [column, "decoded"]) for run in runs]
    if not any(len(table) for table in tables):
        return empty(title, "Nothing was on air.")
    largest = max(float(table[column].quantile(0.99)) for table in tables if len(table))
    (top,), unit = scaled([largest], unit)
    factor = top / largest if largest else 1.0
    what = "SINR" if column == "sinr_db" else "rate"
    if len(runs) == 1:
        return _histogram(tables[0], column, factor, title, f"{what} ({unit})")
    picture = figure(title, x=f"{what} ({unit})", y="share of attempts at most that good", height=420)
    shares = np.linspace(0, 1, _QUANTILES)
    of_run = dict(zip((run.path for run in runs), tables, strict=True))
    for group in find_groups(runs):
        values = np.concatenate([of_run[run.path][column].to_numpy() for run in group.drawn])
        if len(values):
            line = {"color": colour(group.look), "width": 2.5, "dash": print_dash(group.look + group.variant)}
            picture.add_scatter(
                x=np.quantile(values * factor, shares),
                y=shares,
                name=escape(group.label),
                mode="lines",
                line=line,
            )
    picture.update_yaxes(range=[0, 1.02])
    return picture


def _histogram(table: pd.DataFrame, column: str, factor: float, title: str, label: str) -> go.Figure:
    """Counts are made here, so that the page holds 50 numbers and not a million."""
    values = table[column].to_numpy() * factor
    low, high = np.quantile(values, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    median = float(np.median(values))
    unit = label.split("(")[1].rstrip(")")
    note = f"{len(table):,} attempts, median {median:.3g} {unit}; the outermost bars gather 0.1 % each"
    picture = figure(title, x=label, y="share of attempts", note=note, height=420)
    decoded = table["decoded"].to_numpy(dtype=bool)
    kinds = ((decoded, "decoded", BLUE, ""), (~decoded, "lost", VERMILION, "/"))
    for chosen, name, fill, pattern in kinds:
        if not chosen.any():
            continue
        counts, _ = np.histogram(np.clip(values[chosen], edges[0], edges[-1]), edges)
        picture.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=counts / len(values),
            width=np.diff(edges),
            name=name,
            marker={"color": fill, "pattern": {"shape": pattern}, "line": {"color": "white", "width": 0.5}},
        )
    picture.update_layout(barmode="stack")
    picture.update_yaxes(tickformat=".0%")
    return picture
