"""The map: devices by cluster, gateways, and links coloured by SINR."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from dfl_ray.records import Run
from dfl_ray.records.results import last_evaluation, receptions
from dfl_ray.views.checked import checked
from dfl_ray.views.style import GREY, SEQUENTIAL, colour, empty, evenly, figure, symbol

MOST_DEVICES = 10_000
MOST_LINKS = 3_000
SINR_BOUNDS_DB = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)
SINR_ROUNDS = 10
ALONE_M = 10.0
"""Metres to each side of a device that is alone on its map."""


@checked
def device_map(run: Run, round: int | None = None) -> go.Figure:
    """Draw where the devices stand, who talks to whom, and how well the links do.

    Colour and marker of a device show its cluster; a thick frame marks a gateway (up to 500 devices). The
    colour of a link is the median SINR of its attempts over the ten rounds up to `round`; a dashed one joins
    two clusters. At most `MOST_DEVICES` devices and `MOST_LINKS` links are drawn, and the picture says so.

    Args:
        run: The run.
        round: Round whose topology is drawn; none = the last.

    Returns:
        The picture, axes in metres; an empty one where no topology was recorded.
    """
    title = "Devices, clusters and links"
    number = run.last_round if round is None else round
    nodes, edges = run.topology_at(number)
    if not len(nodes):
        return empty(title, "No topology was recorded.")
    links = link_sinr_db(run, edges, number)
    kept_nodes = nodes.iloc[evenly(len(nodes), MOST_DEVICES)]
    kept_links = links.iloc[evenly(len(links), MOST_LINKS)]
    notes = [f"{len(nodes):,} devices, {len(links):,} links", "link colour: median SINR"]
    if len(kept_nodes) < len(nodes):
        notes.append(f"{len(kept_nodes):,} devices drawn")
    if len(kept_links) < len(links):
        notes.append(f"{len(kept_links):,} links drawn")
    picture = figure(title, x="x (m)", y="y (m)", note="; ".join(notes), height=720)
    draw_links(picture, kept_links, nodes)
    _draw_devices(picture, kept_nodes, run)
    picture.update_layout(legend={"itemsizing": "constant" if len(nodes) > 500 else "trace"})
    one_scale(picture, kept_nodes)
    return picture


def one_scale(picture: go.Figure, nodes: pd.DataFrame) -> None:
    """Give both axes of a map one scale; where the devices stand in one line or place, ranges too.

    A range that is found from one value alone is as wide as one unit, and the other axis would follow it.

    Args:
        picture: The map, changed in place.
        nodes: What is drawn, its columns `x_m` and `y_m`.
    """
    picture.update_yaxes(scaleanchor="x", scaleratio=1, constrain="domain")
    picture.update_xaxes(constrain="domain")
    places = nodes[["x_m", "y_m"]].to_numpy(dtype=float)
    low, high = places.min(axis=0), places.max(axis=0)
    if (high > low).all():
        return
    half = 0.6 * float((high - low).max()) or ALONE_M
    (x, y) = ((low + high) / 2).tolist()
    picture.update_xaxes(range=[x - half, x + half])
    picture.update_yaxes(range=[y - half, y + half])


def link_sinr_db(run: Run, edges: pd.DataFrame, round: int) -> pd.DataFrame:
    """Give each link the median SINR of its attempts, both directions, over the ten rounds up to one.

    Args:
        run: The run.
        edges: Rows of `topology_edges`.
        round: Last round that counts.

    Returns:
        `edges` with a column `sinr_db`, NaN where a link carried nothing.
    """
    span = (max(1, round - SINR_ROUNDS + 1), round)
    heard = receptions(run, ["source", "destination", "sinr_db"], span)
    ends = np.sort(heard[["source", "destination"]].to_numpy(dtype=np.int64), axis=1)
    low, high = ends.T if len(ends) else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    median = heard["sinr_db"].groupby([low, high]).median()
    keys = pd.MultiIndex.from_arrays([edges["source"], edges["destination"]])
    return edges.assign(sinr_db=median.reindex(keys).to_numpy(dtype=float) if len(median) else np.nan)


def draw_links(picture: go.Figure, links: pd.DataFrame, nodes: pd.DataFrame) -> None:
    """Draw links: one trace for each SINR class and link kind, so that the legend is the scale.

    Args:
        picture: The figure, changed in place.
        links: Rows of `topology_edges` with `sinr_db`, as of `link_sinr_db`.
        nodes: Rows of `topology_nodes` that hold the ends.
    """
    place = nodes.set_index("device")[["x_m", "y_m"]]
    lower = [-np.inf, *SINR_BOUNDS_DB]
    shades = sample_colorscale(SEQUENTIAL, np.linspace(0, 0.9, len(lower)).tolist())
    level = np.searchsorted(SINR_BOUNDS_DB, links["sinr_db"].fillna(0).to_numpy(), side="right")
    level = np.where(links["sinr_db"].isna(), -1, level)
    crossing = (links["kind"] == "gateway").to_numpy()
    names = [_class_name(index) for index in range(len(lower))]
    for index in range(-1, len(lower)):
        name, shade = ("not used", "#CFCFCF") if index < 0 else (names[index], shades[index])
        for gateway in (False, True):
            chosen = links[(level == index) & (crossing == gateway)]
            if not len(chosen):
                continue
            picture.add_scatter(
                **_segments(chosen, place),
                name=name + (", gateway" if gateway else ""),
                line={
                    "color": shade,
                    "width": 2.2 if len(links) < 500 else 1,
                    "dash": "dash" if gateway else "solid",
                },
                mode="lines",
                hoverinfo="skip",
                legendgroup="links",
                legendgrouptitle={"text": "links"},
            )


def _class_name(index: int) -> str:
    if index == 0:
        return f"below {SINR_BOUNDS_DB[0]:g} dB"
    if index == len(SINR_BOUNDS_DB):
        return f"above {SINR_BOUNDS_DB[-1]:g} dB"
    return f"{SINR_BOUNDS_DB[index - 1]:g} to {SINR_BOUNDS_DB[index]:g} dB"


def _segments(links: pd.DataFrame, place: pd.DataFrame) -> dict[str, np.ndarray]:
    """Coordinates of many separate lines as one path with gaps."""
    start = place.reindex(links["source"]).to_numpy()
    end = place.reindex(links["destination"]).to_numpy()
    gap = np.full(len(links), np.nan)
    return {
        axis: np.column_stack([start[:, column], end[:, column], gap]).ravel()
        for column, axis in enumerate(("x", "y"))
    }


def _draw_devices(picture: go.Figure, nodes: pd.DataFrame, run: Run) -> None:
    """One trace a cluster; beyond sixteen clusters one for all, since no legend could tell them apart."""
    accuracy = last_evaluation(run).groupby("device")["accuracy"].mean()
    clusters = nodes["cluster"].fillna(-1).astype(int)
    many = clusters.nunique() > 16
    size = 13 if len(nodes) <= 60 else 8 if len(nodes) <= 500 else 3
    for index, cluster in enumerate([None] if many else sorted(clusters.unique())):
        group = nodes if cluster is None else nodes[clusters == cluster]
        gateway = group["gateway"].fillna(False).astype(bool).to_numpy()
        labelled, framed = size == 13, gateway & (size > 3)
        picture.add_scatter(
            x=group["x_m"],
            y=group["y_m"],
            name="devices" if cluster is None else f"cluster {cluster}",
            mode="markers+text" if labelled else "markers",
            text=[str(device) for device in group["device"]] if labelled else None,
            textposition="top center",
            marker={
                "size": np.where(framed, size + 4, size) if framed.any() else size,
                "color": GREY if cluster is None else colour(index),
                "opacity": 1,
                "symbol": "circle" if cluster is None or size == 3 else symbol(index),
                "line": {
                    "width": np.where(framed, 2.5, 0.7) if framed.any() else 0.7 if size > 3 else 0,
                    "color": np.where(framed, "#000000", "#FFFFFF") if framed.any() else "#FFFFFF",
                },
            },
            hovertext=[_hover(row, accuracy) for row in group.itertuples()] if len(nodes) <= 2_000 else None,
            customdata=group["device"].to_numpy(np.int32),
            hovertemplate=None if len(nodes) <= 2_000 else "device %{customdata}<extra></extra>",
            hoverinfo="text" if len(nodes) <= 2_000 else None,
            legendgroup="devices",
            legendgrouptitle={"text": "devices" + (" (thick frame: gateway)" if size > 3 else "")},
        )


def _hover(row, accuracy: pd.Series) -> str:
    known = accuracy.get(row.device)
    score = "" if known is None else f"<br>mean accuracy {known:.1%}"
    return f"device {row.device}, cluster {row.cluster}<br>tasks: {escape(str(row.tasks))}{score}"
