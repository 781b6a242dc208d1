"""The ablations: every setting is one the program accepts, and tables and charts show what the runs say."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import ablations
from benchmarks.ablation_entries import ABLATIONS, OURS, ours
from benchmarks.comparison import STATE, Curve
from benchmarks.line_chart import Axis, save_chart
from benchmarks.methods import make_job

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
    drawn = ElementTree.parse(path).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{svg}polyline")) == len(entry.series)
    points = sum(2 if entry.kind == "curve" else len(s.points) for s in entry.series)
    assert len(drawn.findall(f"{svg}circle")) == points
    assert len(drawn.findall(f"{svg}path")) == (points if seeds == 3 else 0)
    written = [t.text for t in drawn.findall(f"{svg}text")]
    assert entry.title in written and all(s.name in written for s in entry.series)


def test_what_a_series_reads():
    curve = made_up(ours(), 0)
    assert ablations.value_of(curve, "accuracy") == curve.figures["accuracy"]
    assert ablations.value_of(curve, "rule:filter") == curve.rules["filter"]
    assert ablations.value_of(curve, "routing_by_chance") == pytest.approx(1 / 6)


def test_no_such_ablation(tmp_path):
    with pytest.raises(SystemExit, match="No ablation nothing; there are projection, masks"):
        ablations.main(["--only", "nothing", "--folder", str(tmp_path)])


def test_chart_axes(tmp_path):
    assert Axis("n", -0.4, 1.6, names=("a & b", "c")).ticks() == [0.0, 1.0]
    assert Axis("n", 0.4, 12, log=True).ticks() == pytest.approx([0.5, 1, 2, 5, 10])
    assert Axis("n", 1, 1e6, log=True).ticks() == pytest.approx([10.0**k for k in range(7)])
    path = Path(tmp_path) / "x.svg"
    lines = {"l": ([0.0, 1.0], [10.0, 90.0])}
    save_chart(
        path, "t", Axis("n", 0, 1, names=("a & b", "c")), Axis("y", 0, 100), lines, {"l": [5, float("nan")]}
    )
    text = path.read_text()
    assert "a &amp; b" in text and text.count("<circle") == 2 and text.count("<path") == 1
    save_chart(path, "t", Axis("n", 0, 1), Axis("y", 0, 100), lines)
    assert "<circle" not in path.read_text()
