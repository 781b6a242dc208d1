"""Labels of the scatter charts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from benchmarks.scatter_chart import Panel, label_heights, save_scatter


def test_labels_near_each_other_keep_a_line_between_them_and_others_stay() -> None:
    rng = np.random.default_rng(0)
    crowd = {f"m{k}": (18.0, 60.0 + 2.0 * float(v)) for k, v in enumerate(rng.random(9))}
    points = {**crowd, "far": (1.0, 61.0), "top": (40.0, 100.0), "low": (2.5, 0.0), "free": (0.0, 50.0)}
    heights = label_heights(points)
    assert set(heights) == set(points) - {"free"}
    line = 0.028 * 100.0
    assert all(abs(heights[a] - heights[b]) >= line * (1 - 1e-9) for a, b in combinations(crowd, 2))
    assert all(np.isclose(heights[name], points[name][1] + line / 2) for name in ("far", "top", "low"))
    assert sorted(crowd, key=lambda m: -crowd[m][1]) == sorted(crowd, key=lambda m: -heights[m])


def test_no_point_has_no_label() -> None:
    assert label_heights({}) == {} and label_heights({"free": (0.0, 1.0)}) == {}


def test_labels_that_are_moved_down_stay_above_the_axis(tmp_path, monkeypatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    points = {"high": (1.0, 90.0)} | {f"m{k}": (10.0, 50.0) for k in range(12)}
    save_scatter(tmp_path / "x.svg", "%", [Panel("MB", points, ["high"], "high")])
    (axes,) = drawn[0].axes
    low, high = axes.get_ylim()
    heights = [text.xyann[1] for text in axes.texts]
    assert min(heights) < 45 and all(low < height < high for height in heights)
