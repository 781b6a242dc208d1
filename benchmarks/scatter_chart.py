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
        for axes, panel in zip(every, panels, strict=True):
            axes.set_xscale("log")
            axes.set_xlabel(panel.title)
            front = [panel.points[name] for name in panel.front if panel.points[name][0] > 0]
            axes.plot(*zip(*front, strict=True), color=COLORS[7], drawstyle="steps-post", zorder=1)
            for name, (x, y) in panel.points.items():
                if x > 0:
                    color = COLORS[1] if name == panel.marked else COLORS[0 if name in panel.front else 7]
                    axes.plot([x], [y], "o", color=color, markersize=5)
                    axes.annotate(
                        name, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7, color=color
                    )
        every[0].set_ylabel(y_title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
