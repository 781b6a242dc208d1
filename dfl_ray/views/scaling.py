"""Runs with different numbers of devices: what a round costs, on air and in real time, against their number."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfl_ray.records import Run
from dfl_ray.records.results import summary
from dfl_ray.views.accuracy import method_of
from dfl_ray.views.groups import find_groups, interval
from dfl_ray.views.style import DASHES, colour, empty, figure, method_look, scaled, style_axes, symbol

MEASURES = (
    ("wall_s", "real time of a round", "s"),
    ("simulated_s", "simulated time of a round", "s"),
    ("payload_bytes", "bytes on air, a device and round", "B"),
    ("energy_j", "energy, a device and round", "J"),
    ("accuracy_mean", "mean accuracy", "share"),
)
"""Key of the summary, what is drawn of it, its unit."""

OF_A_DEVICE = ("payload_bytes", "energy_j")


def number_of_devices(run: Run) -> int:
    """Number of devices of a run by its configuration; 0 where that does not say it."""
    count = run.config.get("devices", {}).get("count", 0)
    return count if isinstance(count, int) else 0


def worth_scaling(runs: Sequence[Run]) -> bool:
    """Whether runs have different numbers of devices.

    Args:
        runs: The runs.

    Returns:
        True where there is a curve to draw.
    """
    return len({number_of_devices(run) for run in runs}) > 1


def scaling(runs: Sequence[Run]) -> go.Figure:
    """Draw what a round costs against the number of devices, a line a method, each point the mean over its runs.

    Real and simulated time are divided by the rounds, bytes and energy by rounds and devices. With several runs of one
    method and number of devices whiskers show the 95 % interval of their mean (Student's t). A seed of a configuration
    counts once, a run that is not done nowhere; what else than devices and seeds differs between runs of one method is
    not told apart.

    Args:
        runs: The runs.

    Returns:
        The picture, five panels below one another with the number of devices on a logarithmic axis; an empty one where
        all runs have the same number.
    """
    title = "Cost of a round over the number of devices"
    counted = [run for group in find_groups(runs) for run in group.runs]
    if not worth_scaling(counted):
        return empty(title, "All these runs that are done have the same number of devices.")
    finals = [(method_of(run), number_of_devices(run), _per_round(run)) for run in counted]
    height = 120 + 190 * len(MEASURES)
    picture = figure(
        title, note="mean over all runs of a method, a seed once; whiskers: its 95 % interval", height=height
    )
    frame = make_subplots(
        rows=len(MEASURES), cols=1, shared_xaxes=True, vertical_spacing=34 / height, figure=picture
    )
    for row, (key, name, unit) in enumerate(MEASURES, start=1):
        flat, shown_unit = scaled([found[key] for *_, found in finals if not np.isnan(found[key])], unit)
        largest = max((found[key] for *_, found in finals if not np.isnan(found[key])), default=0.0)
        factor = max(flat) / largest if largest else 1.0
        for method in dict.fromkeys(method for method, *_ in finals):
            points = [(count, found[key] * factor) for other, count, found in finals if other == method]
            _draw_method(frame, method, points, row)
        frame.update_yaxes(
            title={"text": f"{name.replace(', ', ',<br>').replace(' of', '<br>of')}<br>({shown_unit})"},
            rangemode="tozero",
            row=row,
            col=1,
        )
    style_axes(frame)
    counts = sorted({count for _, count, _ in finals})
    frame.update_xaxes(type="log", tickvals=counts, ticktext=[f"{count:,}" for count in counts])
    frame.update_xaxes(title={"text": "devices"}, row=len(MEASURES), col=1)
    return frame


def _per_round(run: Run) -> dict[str, float]:
    found = summary(run)
    rounds, devices = max(1, run.last_round), max(1, number_of_devices(run))
    values = {key: float("nan") if found[key] is None else float(found[key]) for key, *_ in MEASURES}
    for key in values:
        values[key] /= 1 if key == "accuracy_mean" else rounds * (devices if key in OF_A_DEVICE else 1)
    return values


def _draw_method(frame: go.Figure, method: str, points: Sequence[tuple[int, float]], row: int) -> None:
    """One line of one panel: (devices, value in the panel's unit) of each run of a method."""
    counts = sorted({count for count, _ in points})
    spreads = [
        interval([value for other, value in points if other == count and not np.isnan(value)])
        for count in counts
    ]
    look = method_look(method)
    frame.add_scatter(
        x=counts,
        y=[mean for mean, _ in spreads],
        error_y={"type": "data", "array": [half or 0.0 for _, half in spreads]},
        name=escape(method),
        legendgroup=method,
        showlegend=row == 1,
        mode="lines+markers",
        line={"color": colour(look), "width": 2.5, "dash": DASHES[look // 8 % len(DASHES)]},
        marker={"symbol": symbol(look), "size": 8},
        row=row,
        col=1,
    )
