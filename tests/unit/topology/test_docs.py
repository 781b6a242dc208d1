"""The examples in docs/topology.md run as they stand."""

import re
from pathlib import Path

import numpy as np

import topology
from topology.graphs import GRAPHS, GraphInput
from topology.links import make_links

PAGE = Path(__file__).parents[3] / "docs" / "topology.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)


def test_the_tour_runs(capsys):
    names = {}
    exec(blocks()[0], names)
    assert "intra" in capsys.readouterr().out
    assert isinstance(names["graph"], topology.Topology) and names["positions_m"].shape == (10, 2)


def test_the_new_graph_works():
    names = {}
    exec(blocks()[1], names)
    points = np.random.default_rng(0).random((5, 2))
    links = make_links(points, [[0, 1], [0, 2]], mean_snr_db=[1, 1], airtime_s_per_mb=[1, 1])
    plan = names["star"](GraphInput(points, np.ones((5, 1)), links, np.random.default_rng(0), False))
    assert plan.edges.tolist() == [[0, 1], [0, 2]]


def test_every_graph_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in GRAPHS)
