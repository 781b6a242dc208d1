"""The documentation's examples run, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples() -> list[dict]:
    text = (ROOT / "docs" / "extending.md").read_text()
    found = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        scope: dict = {}
        exec(compile(block, "docs/extending.md", "exec"), scope)
        found.append(scope)
    return found


def test_path_loss_example():
    from channels.pathloss import path_loss_db

    model = examples()[0]["WAREHOUSE"]
    expected = 31.84 + 21.5 * 2 + 19 * np.log10(3.5)
    assert path_loss_db(model, 100.0, 3.5e9) == pytest.approx(expected, abs=1e-3)


def test_graph_example():
    from topology.graphs.base import GraphInput
    from topology.links import make_links

    positions = np.random.default_rng(0).random((5, 2)) * 50
    pairs = np.array([(i, j) for i in range(5) for j in range(i + 1, 5)])
    ones = np.ones(len(pairs))
    links = make_links(positions, pairs, mean_snr_db=ones, airtime_s_per_mb=ones, energy_j_per_mb=None)
    experiment = GraphInput(positions, np.ones((5, 1)), links, np.random.default_rng(0), False)
    edges = examples()[1]["star"](experiment, centre=2).edges
    assert sorted(map(tuple, edges.tolist())) == [(0, 2), (1, 2), (2, 3), (2, 4)]


def test_scheduler_example():
    from types import SimpleNamespace

    scheduler = examples()[2]["LAST_FIRST"]
    (band,) = scheduler.select(SimpleNamespace(units=4))
    assert band.tolist() == [-1, -1, -1, 0]


def test_method_example():
    from dfl_ray.config.methods import DloraConfig
    from tests.unit.dfl_ray.methods.test_methods import HELD, make_context, make_devices

    method = examples()[3]["EverySecondNeighbour"](make_context(DloraConfig(rank=4), HELD))
    device = make_devices(method)[1]
    assert [o.planned.destinations for r in (2, 3) for o in method.outgoing(device, r)] == [(0,), (2,)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_named_in_the_documentation_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    named = re.findall(
        r"`((?:dfl_ray|actors|topology|channels|tests|docs|benchmarks)/[\w./-]+\.(?:py|md|json))`", text
    )
    linked = [x for x in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in x]
    invented = {"channels/pathloss/warehouse.py", "topology/graphs/star.py", "channels/scheduling/last_first.py",
                "dfl_ray/methods/keep.py"}  # fmt: skip
    missing = [x for x in named if x not in invented and not (ROOT / x).exists()]
    missing += [x for x in linked if not (page.parent / x).exists()]
    assert not missing
