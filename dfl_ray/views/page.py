"""Parts of the HTML pages that the report and the dashboard share: style, scripts, a figure's place, tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources

import plotly.graph_objects as go

from dfl_ray.views.style import DARK

MOST_SIDE_BY_SIDE = 4
"""Rows of a wide table that are set side by side."""


@cache
def asset(name: str) -> str:
    """Read a file of `dfl_ray/views/assets`.

    Args:
        name: Its name.

    Returns:
        Its text.
    """
    return resources.files("dfl_ray.views").joinpath("assets", name).read_text(encoding="utf-8")


def figure_script() -> str:
    """Give the script that draws figures: the colours of the dark, then `figures.js`."""
    return f"const LOOK = {json.dumps(DARK)};\n{asset('figures.js')}"


def plotly_script() -> str:
    """Give plotly.js: the cartesian build of the version that the plotly package is made for.

    It has all kinds of traces that the figures use (lines, bars, heat maps) and is a third of the whole library, which
    a browser takes three times as long to read.
    """
    return asset("plotly-cartesian.min.js")


def figure_place(name: str, picture: go.Figure) -> str:
    """Give the HTML of a figure that the script draws when the page is loaded.

    Args:
        name: What its files are called when they are saved.
        picture: The figure.

    Returns:
        HTML; the figure is data in it and cannot end the script that holds it.
    """
    data = str(picture.to_json()).replace("<", "\\u003c")
    return f'<div class="figure" data-name="{escape(name)}"><script type="application/json">{data}</script></div>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, mean_last: bool = False, words: bool = False
) -> str:
    """Give an HTML table that scrolls by itself where the page is too narrow.

    Args:
        head: Names of the columns.
        rows: Cells as text.
        mean_last: Whether the last row is a mean.
        words: Whether the cells are words, which may wrap.

    Returns:
        HTML; all text is escaped.
    """
    cells = "".join(f"<th>{_breakable(name)}</th>" for name in head)
    write = _breakable if words else escape
    lines = [f"<tr>{''.join(f'<td>{write(cell)}</td>' for cell in row)}</tr>" for row in rows]
    if mean_last and lines:
        lines[-1] = lines[-1].replace("<tr>", '<tr class="mean">', 1)
    kind = ' class="words"' if words else ""
    body = f"<thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table{kind}>{body}</table></div>'


def _breakable(text: str) -> str:
    """Escape a text whose long names may wrap at their dots and underscores."""
    return escape(text).replace("_", "_<wbr>").replace(".", ".<wbr>")


def turned_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give an HTML table of many columns and few rows with its rows side by side, so that it fits a phone and paper.

    Args:
        head: Names of the columns.
        rows: Cells as text; the first of each names it.

    Returns:
        HTML: up to `MOST_SIDE_BY_SIDE` rows as columns, more as they are.
    """
    if len(rows) > MOST_SIDE_BY_SIDE:
        return table(head, rows)
    first, *others = zip(head, *rows, strict=True)
    return table(first, others)
