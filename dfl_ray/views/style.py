"""The look all pictures share: Okabe-Ito colours, sizes that print well, units on every axis."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito, https://jfly.uni-koeln.de/color/: told apart under every common colour blindness; ordered so
# that the pale ones, weak on white paper, come last.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW = OKABE_ITO
GREY = "#8A8A8A"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SEQUENTIAL = "Viridis"


def colour(index: int) -> str:
    """Give colour number `index`; after eight they repeat, told apart by `dash` and `symbol`."""
    return OKABE_ITO[index % len(OKABE_ITO)]


def dash(index: int) -> str:
    """Give a line style that changes when the colours begin anew."""
    return DASHES[(index // len(OKABE_ITO)) % len(DASHES)]


def print_dash(index: int) -> str:
    """Give a line style that differs between neighbours in the list, for curves that may lie on one another."""
    return DASHES[index % len(DASHES)]


def curve_look(index: int, *, width: float, size: float) -> dict[str, Any]:
    """Give the line and the markers of one of several curves, told apart without colour too.

    Args:
        index: Number of the curve.
        width: Width of the line in px.
        size: Size of the markers in px.

    Returns:
        Arguments of plotly's `add_scatter`.
    """
    return {
        "line": {"color": colour(index), "width": width, "dash": dash(index)},
        "marker": {"symbol": symbol(index), "size": size},
    }


def symbol(index: int) -> str:
    """Give a marker that differs between neighbours in the list, so that grey prints are readable."""
    return SYMBOLS[index % len(SYMBOLS)]


METHOD_ORDER = (
    "sparse_orthogonal",
    "dlora",
    "flexlora",
    "choco",
    "ffa",
    "fedsa",
    "centralized",
    "local",
    "rolora",
    "flora",
    "hetlora",
    "dec_lora",
    "adf_lora",
    "tad_lora",
    "fedex",
    "flora_na",
    "decaf",
    "gradient_tracking",
    "exact_diffusion",
    "random_walk",
    "fedavg_star",
    "flasc",
    "fed_sb",
    "fedsrd",
    "lora_fair",
)
"""Methods in the order of their colours, so that one has the same colour in every figure and every comparison."""


def method_look(method: str) -> int:
    """Give the number of a method's colour, for `colour`, `dash` and `symbol`.

    Args:
        method: Name of a method; one of an installed package gets a number that depends on its name only.

    Returns:
        A number >= 0, the same wherever the method is drawn.
    """
    if method in METHOD_ORDER:
        return METHOD_ORDER.index(method)
    return len(METHOD_ORDER) + zlib.crc32(method.encode()) % len(METHOD_ORDER)


def faded(shade: str, opacity: float) -> str:
    """Give a colour `#rrggbb` as `rgba(...)` with an opacity in [0, 1]."""
    red, green, blue = (int(shade[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


DARK: dict[str, str] = {
    "white": "#14181D",
    "#FFFFFF": "#14181D",
    "#000000": "#FFFFFF",
    "#222222": "#E6E6E6",
    "#555555": "#A8B0B8",
    "#444444": "#9AA3AB",
    "#E4E4E4": "#2E353D",
    "#CFCFCF": "#4A525A",
    "#AAAAAA": "#5A636C",
    "#BBBBBB": "#6A737C",
    "rgba(255,255,255,0.85)": "rgba(20,24,29,0.85)",
}
"""Colours of paper, ink and lines on a light page -> those on a dark one; the colours of data are the same on both."""


def darkened(picture: go.Figure) -> go.Figure:
    """Give a figure for dark paper.

    Args:
        picture: A figure in the house style.

    Returns:
        A new figure with the colours of `DARK`.
    """

    def changed(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: changed(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return [changed(value) for value in part]
        return DARK.get(part, part) if isinstance(part, str) else part

    return go.Figure(changed(json.loads(str(picture.to_json()))))


def figure(title: str, *, x: str = "", y: str = "", note: str = "", height: int = 460) -> go.Figure:
    """Make an empty figure in the house style.

    Args:
        title: What is shown.
        x: Title of the x axis with its unit.
        y: Title of the y axis with its unit.
        note: Second line under the title, for example what was left out.
        height: Height in pixels; the width follows the page.

    Returns:
        The figure, without data.
    """
    heading: dict[str, Any] = {"text": escape(title), "x": 0, "xref": "paper", "font": {"size": 19}}
    if note:
        heading["subtitle"] = {"text": escape(note), "font": {"size": 13, "color": "#555555"}}
    picture = go.Figure()
    picture.update_layout(
        title=heading,
        height=height,
        font={"family": "Helvetica, Arial, sans-serif", "size": 14, "color": "#222222"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        colorway=list(OKABE_ITO),
        margin={"l": 75, "r": 25, "t": 85, "b": 65},
        legend={"bgcolor": "rgba(255,255,255,0.85)", "title": {"font": {"size": 13}}},
        hoverlabel={"font": {"size": 13}},
    )
    style_axes(picture)
    picture.update_xaxes(title={"text": x})
    picture.update_yaxes(title={"text": y})
    return picture


def style_axes(picture: go.Figure) -> None:
    """Give every axis of a figure the house style; to be repeated after adding subplots.

    Args:
        picture: The figure, changed in place.
    """
    axis: dict[str, Any] = {
        "showline": True,
        "linecolor": "#444444",
        "ticks": "outside",
        "gridcolor": "#E4E4E4",
        "zeroline": False,
    }
    picture.update_xaxes(**axis)
    picture.update_yaxes(**axis)


def whole_rounds(picture: go.Figure, last: float) -> None:
    """Label whole rounds only, where an automatic axis would show halves.

    Args:
        picture: The figure, changed in place.
        last: Largest round on the x axis.
    """
    if last <= 12:
        picture.update_xaxes(tick0=0, dtick=1)


def empty(title: str, why: str) -> go.Figure:
    """Make a small figure that says why there is nothing to see yet.

    Args:
        title: What would have been shown.
        why: One sentence.

    Returns:
        The figure, 180 pixels high.
    """
    picture = figure(title, height=180)
    picture.add_annotation(text=escape(why), x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    picture.update_xaxes(visible=False)
    picture.update_yaxes(visible=False)
    return picture


def scaled(values: Sequence[float], unit: str) -> tuple[list[float], str]:
    """Choose the prefix of a unit that keeps the largest value readable, e.g. bytes to MB, s to min.

    Args:
        values: Numbers in `unit`.
        unit: `B`, `s`, `J`, `bit/s` or anything else, which is left alone.

    Returns:
        The values in the chosen unit, and its name.
    """
    largest = max((abs(value) for value in values if value == value), default=0.0)  # NaN: nothing is known
    steps = {
        "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
        "s": ((7200.0, "h"), (180.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "J": ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")),
        "bit/s": ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")),
    }
    divisor_of = {"h": 3600.0, "min": 60.0}
    for threshold, name in steps.get(unit, ()):
        if largest >= threshold:
            divisor: float = divisor_of.get(name) or threshold
            return [value / divisor for value in values], name
    return list(values), unit


def evenly(count: int, most: int) -> list[int]:
    """Pick at most `most` of the indices 0 … count-1, evenly spaced and always the same.

    Args:
        count: Number of indices to pick from.
        most: Most that are picked, >= 1.

    Returns:
        min(count, most) ascending indices, the k-th being ⌊k·count/most⌋ where some are left out.
    """
    if count <= most:
        return list(range(count))
    return [index * count // most for index in range(most)]
