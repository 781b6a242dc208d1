"""The examples in docs/topology.md run as they stand."""

import re
from pathlib import Path

import topology
from topology.tables import GRAPHS

PAGE = Path(__file__).parents[3] / "docs" / "topology.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)


def test_the_tour_runs(capsys):
    names = {}
    exec(blocks()[0], names)
    assert "intra" in capsys.readouterr().out
    assert isinstance(names["graph"], topology.Topology) and names["positions_m"].shape == (10, 2)


def test_every_graph_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in GRAPHS)
