"""The league table: where ours loses, Pareto fronts, equal spending, and one rate chosen under one budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import league
from benchmarks.comparison import Curve
from dfl_ray.config.load import load_config
from dfl_ray.methods.table import METHODS


def curve(method, seed, spent, accuracy):
    steps = np.arange(len(accuracy))
    points = pd.DataFrame({"round": steps, "accuracy": accuracy, **dict.fromkeys(league.AXES, 0.0)})
    for axis in league.AXES:
        points[axis] = np.asarray(spent, float)
    return Curve(method, seed, points, {"accuracy": accuracy[-1], "own_tasks": accuracy[-1]}, {})


@pytest.fixture
def curves():
    return {
        "sparse_orthogonal": {s: curve("ours", s, [0, 1, 2], [0.0, 0.5, 0.8 + 0.01 * s]) for s in (0, 1)},
        "dlora": {s: curve("dlora", s, [0, 20, 40], [0.0, 0.4, 0.9]) for s in (0, 1)},
        "dear": {s: curve("dear", s, [0, 30, 60], [0.0, 0.4, 0.85]) for s in (0, 1)},
        "cheap": {s: curve("cheap", s, [0, 0.5, 1], [0.0, 0.3, 0.4]) for s in (0, 1)},
        "centralized": {s: curve("top", s, [0, 0, 0], [0.0, 0.9, 1.0]) for s in (0, 1)},
    }


def test_a_front_holds_what_no_other_beats_in_both(curves):
    assert league.front(curves, "payload_bytes") == ["cheap", "sparse_orthogonal", "dlora"]


def test_equal_spending_reads_the_curve_at_the_other_method_s_total(curves):
    ways = league.ways(curves)
    assert ways["MB of sparse_orthogonal"](curves["dlora"][0]) == pytest.approx(0.4 * 2 / 20)
    assert ways["MB of dlora"](curves["dear"][0]) == pytest.approx(0.4 + 0.45 * 10 / 30)
    assert ways["2 rounds"](curves["dear"][1]) == pytest.approx(0.85)
    assert "40.0 ± 0.0*" in league.equal_table(curves).split("cheap")[1]


def test_losses_are_told_first_and_sure_ones_before_the_others(curves):
    found = league.losses(curves)
    assert {(c, m) for c, m, _ in found} >= {("2 rounds", "dlora"), ("MB of dlora", "dlora")}
    assert not any(m in ("cheap", "centralized") for _, m, _ in found)
    sure = [gap.mean + gap.half_width < 0 for _, _, gap in found]
    assert sure == sorted(sure, reverse=True) and any(sure)
    chosen = {method: f"{method}:learning_rate=0.01" for method in curves}
    assert league.report(curves, chosen).startswith("Where sparse_orthogonal loses")


def test_every_method_has_the_same_trials_and_the_best_rate_is_taken(monkeypatch, tmp_path):
    setting = league.Setting(12, 6, 6, (), tmp_path)
    asked = []

    def trial(setting, label, seed):
        asked.append((label, seed))
        return 0.7 if label.endswith("=0.01") else 0.5

    monkeypatch.setattr(league, "trial", trial)
    found = {m: league.tuned_rate(setting, m, 2, False) for m in ("dlora", "choco")}
    assert len(asked) == len(set(asked)) == 2 * 2 * len(league.RATES)
    assert min(seed for _, seed in asked) == league.FIRST_SEED
    assert found["choco"] is not None
    assert found["choco"]["best"] == "choco:learning_rate=0.01"
    assert league.tuned_rate(setting, "dlora", 1, True) is None


def test_every_run_has_settings_that_a_configuration_takes(tmp_path):
    setting = league.Setting(12, 6, 6, (), tmp_path)
    for method in METHODS:
        for trial in (True, False):
            job = setting.job(f"{method}:learning_rate=0.01", 0, trial=trial)
            config = load_config(None, list(job.arguments))
            assert bool(config.tasks.validation_rows) == trial


def test_the_picture_names_every_method_with_a_cost(curves, tmp_path):
    league.draw(tmp_path / "front.svg", curves)
    text = (tmp_path / "front.svg").read_text(encoding="utf-8")
    assert "sparse_orthogonal" in text and ">dear<" in text and "centralized" not in text
