"""The radio: one round's schedule as a Gantt chart; distributions of SINR and rate."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dfl_ray.records import Run
from dfl_ray.views.accuracy import run_label
from dfl_ray.views.style import BLUE, ORANGE, VERMILION, colour, empty, figure, print_dash, scaled

MOST_SENDERS = 40
MOST_BARS = 600
MOST_SLOT_LINES = 80
_BINS = 50
_QUANTILES = 400


def schedule(run: Run, round: int | None = None) -> go.Figure:
    """Who was on air when in one round: a row a sender, a bar a transfer, slots as vertical lines.

    Of a transfer that was tried again the last attempt is the bar, and a thin line leads to it from the start
    of the first. With many devices the first 40 senders on air are drawn, and the picture says so.

    Args:
        run: The run.
        round: Which round; none = the last complete one.
    """
    number = run.last_round if round is None else round
    title = f"Schedule of round {number}"
    table = run.table("transfers", rounds=(number, number)) if number else run.transfers
    table = table.dropna(subset=["start_s", "end_s"]).sort_values("start_s", kind="stable")
    if not len(table):
        return empty(title, "Nothing was on air in this round.")
    shown, note = _thin(table)
    senders = list(dict.fromkeys(shown["source"]))
    span, unit = _time_unit(float(shown["end_s"].max()))
    height = 180 + 24 * max(8, len(senders))
    picture = figure(
        title, x=f"time in the round's radio phase ({unit})", y="sending device", note=note, height=height
    )
    begin = last_attempt_start_s(shown)
    _retry_lines(picture, shown, begin, span)
    _bars(picture, shown, begin, span)
    _slot_lines(picture, shown.assign(start_s=begin), span)
    order = [str(device) for device in sorted(senders)]
    picture.update_layout(barmode="overlay", bargap=0.25)
    picture.update_yaxes(type="category", categoryorder="array", categoryarray=order, autorange="reversed")
    return picture


def _bars(picture: go.Figure, shown: pd.DataFrame, begin: pd.Series, span: float) -> None:
    """One bar a transfer, delivered and lost told apart by colour and hatching."""
    for delivered, name, fill, pattern in ((True, "delivered", BLUE, ""), (False, "lost", VERMILION, "/")):
        part = shown[shown["delivered"] == delivered]
        if not len(part):
            continue
        picture.add_bar(
            y=[str(device) for device in part["source"]],
            base=begin[part.index] * span,
            x=(part["end_s"] - begin[part.index]) * span,
            orientation="h",
            name=name,
            marker={"color": fill, "pattern": {"shape": pattern}, "line": {"color": "white", "width": 0.5}},
            hovertext=[_hover(row) for row in part.itertuples()],
            hoverinfo="text",
        )


def last_attempt_start_s(transfers: pd.DataFrame) -> pd.Series:
    """When the last attempt of each transfer began: end - 8 payload_bytes / rate, not before `start_s`."""
    length_s = 8 * transfers["payload_bytes"] / transfers["rate_bps"]
    again = (transfers["attempts"] > 1) & np.isfinite(length_s)
    return transfers["start_s"].where(~again, np.maximum(transfers["start_s"], transfers["end_s"] - length_s))


def _retry_lines(picture: go.Figure, shown: pd.DataFrame, begin: pd.Series, span: float) -> None:
    """A thin line from the first attempt to the last, one trace for all."""
    again = shown[begin > shown["start_s"]]
    if not len(again):
        return
    gap = np.full(len(again), np.nan)
    picture.add_scatter(
        x=np.column_stack([again["start_s"] * span, begin[again.index] * span, gap]).ravel(),
        y=[device for source in again["source"] for device in (str(source), str(source), None)],
        mode="lines",
        name="tried again",
        line={"color": ORANGE, "width": 2},
        hoverinfo="skip",
    )


def _thin(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    senders = table["source"].drop_duplicates()
    kept = table[table["source"].isin(senders.iloc[:MOST_SENDERS])].iloc[:MOST_BARS]
    slots = table["slot"].nunique()
    note = f"{len(table):,} transfers in {slots:,} slots"
    if len(kept) < len(table):
        note += (
            f"; drawn: {len(kept):,} transfers of the first {min(len(senders), MOST_SENDERS)} senders on air"
        )
    return kept, note


def _time_unit(longest_s: float) -> tuple[float, str]:
    return (1e3, "ms") if longest_s < 2 else (1.0, "s")


def _slot_lines(picture: go.Figure, shown: pd.DataFrame, span: float) -> None:
    """Thin lines where slots begin, as one trace, unless there are too many to see."""
    starts = shown.groupby("slot")["start_s"].min().to_numpy() * span
    if len(starts) > MOST_SLOT_LINES:
        return
    for start in starts:
        picture.add_vline(x=start, line={"color": "#AAAAAA", "width": 0.8, "dash": "dot"}, layer="below")


def _hover(row) -> str:
    task = "" if pd.isna(row.task) else f", {escape(str(row.task))}"
    slot = "" if pd.isna(row.slot) else f"slot {int(row.slot)}: "
    return (
        f"{slot}{row.source} → {row.destination}<br>{escape(str(row.kind))}{task}, {row.payload_bytes:,} B, "
        f"{row.attempts} attempt(s)<br>SINR {row.sinr_db:.1f} dB, {row.rate_bps / 1e6:.3g} Mbit/s"
    )


def sinr_distribution(runs: Sequence[Run]) -> go.Figure:
    """SINR of all transfers: one run as a histogram of delivered and lost, several as cumulative curves."""
    return _distribution(runs, "sinr_db", "SINR of the transfers", "dB")


def rate_distribution(runs: Sequence[Run]) -> go.Figure:
    """Rate of all transfers: one run as a histogram of delivered and lost, several as cumulative curves."""
    return _distribution(runs, "rate_bps", "Rate of the transfers", "bit/s")


def _distribution(runs: Sequence[Run], column: str, title: str, unit: str) -> go.Figure:
    tables = [run.table("transfers", columns=[column, "delivered"]).dropna(subset=[column]) for run in runs]
    if not any(len(table) for table in tables):
        return empty(title, "Nothing was on air.")
    largest = max(float(table[column].quantile(0.99)) for table in tables if len(table))
    (top,), unit = scaled([largest], unit)
    factor = top / largest if largest else 1.0
    what = "SINR" if column == "sinr_db" else "rate"
    if len(runs) == 1:
        return _histogram(tables[0], column, factor, title, f"{what} ({unit})")
    picture = figure(title, x=f"{what} ({unit})", y="share of transfers at most that good", height=420)
    shares = np.linspace(0, 1, _QUANTILES)
    for index, (run, table) in enumerate(zip(runs, tables, strict=True)):
        if len(table):
            values = np.quantile(table[column].to_numpy() * factor, shares)
            line = {"color": colour(index), "width": 2.5, "dash": print_dash(index)}
            picture.add_scatter(x=values, y=shares, name=escape(run_label(run)), mode="lines", line=line)
    picture.update_yaxes(range=[0, 1.02])
    return picture


def _histogram(table: pd.DataFrame, column: str, factor: float, title: str, label: str) -> go.Figure:
    """Counts are made here, so that the page holds 50 numbers and not a million."""
    values = table[column].to_numpy() * factor
    low, high = np.quantile(values, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    median = float(np.median(values))
    unit = label.split("(")[1].rstrip(")")
    note = f"{len(table):,} transfers, median {median:.3g} {unit}; the outermost bars gather 0.1 % each"
    picture = figure(title, x=label, y="share of transfers", note=note, height=420)
    delivered = table["delivered"].to_numpy(dtype=bool)
    kinds = ((delivered, "delivered", BLUE, ""), (~delivered, "lost", VERMILION, "/"))
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
