"""Scatter charts of the benchmarks as SVG files: named points over a cost, with the Pareto front as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.line_chart import COLORS, STYLE


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: Title of its horizontal axis, with unit.
        points: Name -> (cost, value); a cost of 0 has no place on the logarithmic axis and is left out.
        front: Names on the Pareto front, the cheapest first.
        marked: The name that is drawn in a colour of its own.
    """

    title: str
    points: Mapping[str, tuple[float, float]]
    front: Sequence[str]
    marked: str


_ASIDE = 1.07
"""A label begins at so many times the cost of its point."""
_LINE = 0.028
"""Height of a label's line as a share of the values' range."""
_REACH = 2.0
"""Labels of points whose costs differ by less than this factor may lie on each other."""


def label_heights(points: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Heights of the points' labels: half a line above the point, moved down as far as they would lie on each other.

    Args:
        points: Name -> (cost, value).

    Returns:
        Name -> height in the values' units, the highest first, of points with a cost above 0.
    """
    shown = sorted(((name, *at) for name, at in points.items() if at[0] > 0), key=lambda p: (-p[2], p[1]))
    if not shown:
        return {}
    line = _LINE * max(shown[0][2] - shown[-1][2], 1e-9)
    placed: list[tuple[float, float]] = []
    heights: dict[str, float] = {}
    for name, cost, value in shown:
        height = value
        for other, taken in placed:
            if max(cost, other) < _REACH * min(cost, other) and abs(height - taken) < line:
                height = taken - line
        placed.append((cost, height))
        placed.sort(key=lambda at: -at[1])
        heights[name] = height + line / 2
    return heights


def save_scatter(path: Path, y_title: str, panels: Sequence[Panel]) -> None:
    """Write the panels side by side; equal data give equal bytes.

    Args:
        path: File to write.
        y_title: Title of the common vertical axis.
        panels: The panels.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0 * len(panels), 5.2), layout="constrained")
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        lowest: list[float] = []
        for axes, panel in zip(every, panels, strict=True):
            axes.set_xscale("log")
            axes.set_xlabel(panel.title)
            front = [panel.points[name] for name in panel.front if panel.points[name][0] > 0]
            axes.plot(*zip(*front, strict=True), color=COLORS[7], drawstyle="steps-post", zorder=1)
            heights = label_heights(panel.points)
            lowest += heights.values()
            for name, height in heights.items():
                x, y = panel.points[name]
                color = COLORS[1] if name == panel.marked else COLORS[0 if name in panel.front else 7]
                axes.plot([x], [y], "o", color=color, markersize=5)
                axes.annotate(
                    name, (x, y), xytext=(x * _ASIDE, height), fontsize=7, color=color, va="center",
                    arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip
            axes.margins(x=0.2)
        least, most = every[0].get_ylim()
        every[0].set_ylim(min([least, *(low - _LINE * (most - least) for low in lowest)]), most)
        every[0].set_ylabel(y_title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
