"""Axes and numbers that can be read: maps of devices in one place or line, and figures without powers of ten."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dfl_ray import views
from dfl_ray.records import Run, load_run
from dfl_ray.records.words import digits, size
from dfl_ray.views.device import device_place
from dfl_ray.views.style import darkened
from dfl_ray.views.tables import quantity
from tests.fake_run import Fake, write_fake_run


@pytest.mark.parametrize("number", [0.0, 0.0123456, 0.5, 1.0, 9.995, 42.0, 413.2, 999.4])
@pytest.mark.parametrize("most", [2, 3])
def test_digits_are_those_of_g_where_it_writes_no_power_of_ten(number: float, most: int):
    told = f"{number:.{most}g}"
    assert digits(number, most) == told or ("e" in told and float(told) == float(digits(number, most)))
    assert "e" not in digits(number, most).lower()


def test_large_numbers_have_no_power_of_ten():
    assert (digits(413.2, 2), digits(123_456.0), digits(-1234.0), digits(1e-7)) == (
        "410", "123000", "-1230", "0.0000001",
    )  # fmt: skip
    assert size(1.2345e15) == "1230 TB" and quantity(1234 * 3600.0, "s") == "1230 h"
    assert math.isnan(float(digits(float("nan"))))


def test_the_bars_of_costs_write_wide_intervals_in_figures(tmp_path: Path):
    runs = [
        load_run(write_fake_run(tmp_path, f"s{bytes_}", Fake(rounds=2, seed=seed, message_bytes=bytes_)))
        for seed, bytes_ in enumerate((4_000, 90_000))
    ]
    told = [note.text for note in views.cost_bars(runs).layout.annotations]
    assert any("±" in text for text in told) and not any("e+" in text for text in told)


def moved(run: Run, y_m: float | None, keep: int) -> Run:
    """The same run with some of its devices, all at one y where that is given."""
    nodes = run.topology_nodes[run.topology_nodes["device"] < keep]
    nodes = nodes if y_m is None else nodes.assign(y_m=y_m)
    edges = run.topology_edges.query(f"source < {keep} and destination < {keep}")
    found = replace(run)
    object.__setattr__(found, "topology_at", lambda _round: (nodes, edges))
    return found


@pytest.mark.parametrize(("keep", "y_m"), [(1, None), (4, 30.0)])
@pytest.mark.parametrize("figure", [views.device_map, lambda run: device_place(run, 0)])
def test_a_map_without_spread_has_ranges_that_hold_all_devices(run: Run, keep: int, y_m, figure):
    picture = figure(moved(run, y_m, keep))
    x, y = picture.layout.xaxis.range, picture.layout.yaxis.range
    assert x[1] - x[0] == pytest.approx(y[1] - y[0]) and x[1] - x[0] >= 20
    places = pd.DataFrame(
        [(a, b) for t in picture.data if "markers" in t.mode for a, b in zip(t.x, t.y, strict=True)]
    )
    assert ((places[0] > x[0]) & (places[0] < x[1])).all() and ((places[1] > y[0]) & (places[1] < y[1])).all()


def test_a_map_with_spread_finds_its_own_ranges(run: Run):
    assert views.device_map(run).layout.xaxis.range is None


def test_the_legend_names_the_frame_of_gateways_as_it_is_on_dark_paper_too(run: Run):
    for picture in (views.device_map(run), darkened(views.device_map(run))):
        titles = {trace.legendgrouptitle.text for trace in picture.data if "markers" in trace.mode}
        assert titles == {"devices (thick frame: gateway)"}
