"""Line charts of the benchmarks as SVG files, drawn by matplotlib; equal data give equal bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dfl-ray",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        title: Title with unit.
        low: Value at the start.
        high: Value at the end.
        log: Whether the scale is logarithmic.
        names: What to write at 0, 1, 2, ... in place of numbers; empty = numbers.
    """

    title: str
    low: float
    high: float
    log: bool = False
    names: tuple[str, ...] = ()


Series = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """One of several charts below each other.

    Attributes:
        x: Horizontal axis.
        y: Vertical axis.
        series: Name to (x values, y values).
    """

    x: Axis
    y: Axis
    series: Mapping[str, Series]


def save_panels(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write charts below each other, each with points and a legend of its own beside it.

    Args:
        path: File to write.
        title: Title of all.
        panels: The charts, at least one; at most eight series each can be told apart.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.0 * len(panels)), layout="constrained")
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(len(panels), 1, place + 1)
            if place == 0:
                axes.set_title(title, gid="title")
            _set_axis(axes, panel.x, "x")
            _set_axis(axes, panel.y, "y")
            axes.set_xlabel(panel.x.title if place == len(panels) - 1 else "")
            for number, (name, line) in enumerate(panel.series.items()):
                _draw(axes, number, name, line, [math.nan] * len(line[0]), number, number >= 4)
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=2.8, borderaxespad=0.0)
        _save(figure, path)


def save_chart(
    path: Path,
    title: str,
    x: Axis,
    y: Axis,
    series: Mapping[str, Series],
    spreads: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write a line chart.

    Args:
        path: File to write.
        title: Title of the chart.
        x: Horizontal axis.
        y: Vertical axis.
        series: Name to (x values, y values). Names "a: x" and "a: y" share a colour, the second is dashed.
        spreads: Name to the half-widths of its points' intervals; such series get points, and bars where the
            half-width is finite.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.3), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, gid="title")
        _set_axis(axes, x, "x")
        _set_axis(axes, y, "y")
        groups = list(dict.fromkeys(name.partition(": ")[0] for name in series))
        first_variant = next(iter(series)).partition(": ")[2]
        for number, (name, line) in enumerate(series.items()):
            group, _, variant = name.partition(": ")
            dashed = variant != first_variant if variant else number >= 4
            place = groups.index(group)
            _draw(axes, number, name, line, (spreads or {}).get(name), place, dashed)
        figure.legend(loc="outside right upper", handlelength=2.8)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a date, and with the salt of STYLE for the ids, the file depends on the data alone.
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _set_axis(axes: Axes, axis: Axis, which: str) -> None:
    own = axes.xaxis if which == "x" else axes.yaxis
    if which == "x":
        axes.set_xlabel(axis.title)
        axes.set_xscale("log" if axis.log else "linear")
        axes.set_xlim(axis.low, axis.high)
    else:
        axes.set_ylabel(axis.title)
        axes.set_yscale("log" if axis.log else "linear")
        axes.set_ylim(axis.low, axis.high)
    if axis.names:
        own.set_ticks(range(len(axis.names)), labels=list(axis.names))
    elif axis.log:
        # A short axis would have no more than one decade to label.
        parts = (1.0, 2.0, 5.0) if math.log10(axis.high / axis.low) < 2.5 else (1.0,)
        own.set_major_locator(LogLocator(subs=parts, numticks=30))
        own.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        own.set_minor_locator(NullLocator())
        own.set_minor_formatter(NullFormatter())
    else:
        own.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))


def _draw(
    axes: Axes, number: int, name: str, line: Series, spread: Sequence[float] | None, place: int, dashed: bool
) -> None:
    color = COLORS[place % len(COLORS)]
    (drawn,) = axes.plot(
        *line, color=color, linestyle=(0, (5, 2)) if dashed else "-", label=name, gid=f"series{number}"
    )
    if spread is None:
        return
    drawn.set_marker(MARKERS[place % len(MARKERS)])
    drawn.set_markersize(5)
    points = [(px, py, half) for px, py, half in zip(*line, spread, strict=True) if math.isfinite(half)]
    if points:
        xs, ys, halves = zip(*points, strict=True)
        bars = axes.errorbar(xs, ys, yerr=halves, fmt="none", ecolor=color, elinewidth=1, capsize=3)
        bars.lines[2][0].set_gid(f"bars{number}")
