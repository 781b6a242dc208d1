"""The ablations: every setting is one the program accepts, and tables and charts show what the runs say."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from benchmarks import ablations
from benchmarks.ablation_entries import ABLATIONS, OURS, ours
from benchmarks.comparison import STATE, Curve
from benchmarks.kept_runs import make_job
from benchmarks.line_chart import COLORS, Axis, save_chart

SVG = "{http://www.w3.org/2000/svg}"
RULES = (
    "likelihood",
    "likelihood_soft",
    "oracle",
    "filter",
    "filter_full",
    "arrow",
    "ties",
    "sum",
    "average",
)


def groups_of(path):
    """The groups of a picture by their id."""
    return {g.attrib["id"]: g for g in ElementTree.parse(path).iter(f"{SVG}g") if "id" in g.attrib}


def texts_of(path):
    return ["".join(t.itertext()) for t in ElementTree.parse(path).iter(f"{SVG}text")]


def made_up(label, seed):
    """A run whose accuracy is told by its label and seed."""
    accuracy = 0.3 + (sum(map(ord, label)) % 50) / 100 + 0.01 * seed
    spent = np.array([0.0, 1e6, 2e6]) * (1 + len(label) % 5)
    points = pd.DataFrame(
        {"round": [0, 4, 8], "payload_bytes": spent, "accuracy": [0.0, accuracy / 2, accuracy]}
    )
    figures = dict.fromkeys(STATE, 0.1) | {
        "accuracy": accuracy, "worst_task": accuracy - 0.1, "own_tasks": accuracy + 0.1, "tasks": 6.0,
        "routed_right": 0.9 if label.startswith(OURS) else float("nan"), "payload_bytes": float(spent[-1]),
    }  # fmt: skip
    return Curve(label, seed, points, figures, {rule: accuracy - 0.01 * k for k, rule in enumerate(RULES)})


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_setting_is_accepted_and_is_what_it_is_called(name, tmp_path):
    from dfl_ray.config.load import load_config

    entry = ABLATIONS[name]
    seen = {}
    for label in entry.labels:
        job = make_job(label, 1, None, ablations.SETTING, tmp_path)
        config = load_config(None, list(job.arguments))
        assert config.seed == 1 and config.method.learning_rate == 1e-2
        assert (
            config.rounds * config.method.local_steps == 120
        )  # what is compared had the same number of steps
        whole = config.model_dump_json()
        assert seen.setdefault(whole, label) == label


def test_entries_share_the_base_run():
    sharing = [name for name, entry in ABLATIONS.items() if ours() in entry.labels]
    assert len(sharing) >= 9
    assert sum(len(e.labels) for e in ABLATIONS.values()) > len(
        {x for e in ABLATIONS.values() for x in e.labels}
    )


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_tables_and_charts(name, seeds, tmp_path):
    entry = ABLATIONS[name]
    curves = {label: {s: made_up(label, s) for s in range(seeds)} for label in entry.labels}
    rows = ablations.rows_of(entry, curves)
    assert [(r.series, r.label) for r in rows] == [(s.name, p.label) for s in entry.series for p in s.points]
    base = ours() if ours() in entry.labels else entry.labels[0]
    first = curves[base][0].figures["accuracy"]
    for row in rows:
        own = curves[row.label][0].figures["accuracy"]
        assert row.difference.mean == pytest.approx(own - first)
        if seeds == 3:
            assert row.figures["accuracy"].mean == pytest.approx(own + 0.01)
    text = ablations.text_of(name, entry, rows)
    assert len(text.splitlines()) == len(rows) + 2
    json.dumps(ablations.plain(ablations.entry_json(entry, rows)), allow_nan=False)
    path = tmp_path / "chart.svg"
    ablations.draw(path, entry, rows, curves)
    groups = groups_of(path)
    lines = [name for name in groups if name.startswith("series")]
    assert len(lines) == len(entry.series)
    for number, series in enumerate(entry.series):
        points = 2 if entry.kind == "curve" else len(series.points)
        assert len(groups[f"series{number}"].findall(f".//{SVG}use")) == points
        if seeds == 3:
            assert len(groups[f"bars{number}"].findall(f"{SVG}path")) == points
        else:
            assert f"bars{number}" not in groups
    written = texts_of(path)
    assert entry.title in written and all(s.name in written for s in entry.series)


def test_what_a_series_reads():
    curve = made_up(ours(), 0)
    assert ablations.value_of(curve, "accuracy") == curve.figures["accuracy"]
    assert ablations.value_of(curve, "rule:filter") == curve.rules["filter"]
    assert ablations.value_of(curve, "routing_by_chance") == pytest.approx(1 / 6)


def test_no_such_ablation(tmp_path):
    with pytest.raises(SystemExit, match="No ablation nothing; there are projection, masks"):
        ablations.main(["--only", "nothing", "--folder", str(tmp_path)])


def chart(path, **changes):
    lines = {"l": ([0.0, 1.0], [10.0, 90.0]), "l: second": ([0.0, 1.0], [20.0, 30.0])}
    settings = {
        "x": Axis("n", -0.4, 1.6, names=("a & b", "c")),
        "y": Axis("y", 0, 100),
        "series": lines,
        "spreads": {"l": [5, float("nan")]},
    }
    save_chart(path, "t", **(settings | changes))


def test_equal_data_give_equal_bytes(tmp_path):
    chart(tmp_path / "1.svg")
    chart(tmp_path / "2.svg")
    chart(tmp_path / "3.svg", spreads=None)
    first, second, third = ((tmp_path / f"{n}.svg").read_bytes() for n in (1, 2, 3))
    assert first == second != third
    assert b"<dc:date>" not in first


def test_points_bars_and_names_of_a_chart(tmp_path):
    chart(tmp_path / "x.svg")
    groups = groups_of(tmp_path / "x.svg")
    assert len(groups["series0"].findall(f".//{SVG}use")) == 2
    assert len(groups["bars0"].findall(f"{SVG}path")) == 1
    assert groups["series1"].findall(f".//{SVG}use") == [] and "bars1" not in groups
    texts = texts_of(tmp_path / "x.svg")
    assert {"a & b", "c", "n", "y", "t", "l", "l: second"} <= set(texts)


def test_variants_share_a_colour_and_the_second_is_dashed(tmp_path):
    chart(tmp_path / "x.svg", spreads=None)
    groups = groups_of(tmp_path / "x.svg")
    styles = [groups[f"series{n}"].find(f".//{SVG}path").attrib["style"] for n in (0, 1)]
    assert all(COLORS[0].lower() in style for style in styles)
    assert ["stroke-dasharray" in style for style in styles] == [False, True]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.4, 12, ["0.5", "1", "2", "5", "10"]),
        (1, 1e6, ["1", "10", "100", "1000", "10000", "100000", "1e+06"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low, high, labels, tmp_path):
    lines = {"l": ([1.0, 5.0], [10.0, 90.0])}
    chart(tmp_path / "x.svg", x=Axis("n", low, high, log=True), series=lines, spreads=None)
    ticks = [t.text for t in groups_of(tmp_path / "x.svg")["matplotlib.axis_1"].iter(f"{SVG}text")]
    assert ticks == [*labels, "n"]
